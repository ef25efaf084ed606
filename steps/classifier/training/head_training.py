"""The first stage: the head learns from embeddings, which the frozen backbone gave once for all."""

import math
from collections.abc import Generator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from classifier.data.training_data import TrainingData
from classifier.model.head import ClassifierHead
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.job import ALONE
from classifier.training.loop import Mode, TrainingBatch, Watcher
from classifier.training.optimizer import AdamW, decay_matrices
from classifier.training.results import Validation

EVALUATION_ROWS = 512  # rows of one forward pass in validation
PLAIN_SHARE = 0.5  # of an epoch's images are seen plain for certain, the rest in any view


class HeadTraining:
    """A stage that trains a new head, which knows the features' scale, on the embeddings of both splits."""

    lr_name = "learning rate"
    processes = ALONE  # it takes seconds

    def __init__(self, data: TrainingData, hyperparameters: Hyperparameters) -> None:
        self.data, self.hyperparameters = data, hyperparameters
        asked, classes = hyperparameters, len(data.classes)
        torch.manual_seed(asked.seed)  # here, so that a final training repeats its trial to the last digit
        self.head = ClassifierHead(data.feature_dim, classes, hidden_units=asked.hidden_units, dropout=asked.dropout)
        self.head.standardise(data.train.embeddings)
        # (N, C) logits and (N,) labels -> scalar loss; a module, so that the debugger can observe it.
        self.criterion: nn.Module = nn.CrossEntropyLoss(label_smoothing=asked.label_smoothing)
        if asked.class_balance:
            weights = class_weights(data.train.labels, classes, asked.class_balance)
            self.criterion = BalancedCrossEntropy(weights, asked.label_smoothing)
        self.modules: dict[str, nn.Module] = {"head": self.head}
        self.deployed = self.modules
        self.epochs, self.steps = asked.epochs, math.ceil(len(data.train) / asked.batch_size)
        groups = decay_matrices(self.head, asked.weight_decay)
        self.optimizer = AdamW(groups, lr=asked.lr, total_steps=self.epochs * self.steps)

    def batches(self, epoch: int, first_step: int) -> Generator[TrainingBatch, None, None]:
        """In an order and with views drawn from (seed, epoch); embeddings (B, D) float32."""
        split, batch_size = self.data.train, self.hyperparameters.batch_size
        generator = np.random.default_rng((self.hyperparameters.seed, epoch))
        order = generator.permutation(len(split))
        views = generator.integers(0, split.embeddings.shape[1], len(split))
        views[generator.random(len(split)) < PLAIN_SHARE] = 0
        for start in range(first_step * batch_size, len(split), batch_size):
            rows = order[start : start + batch_size]
            means = None if split.input_means is None else split.input_means[rows]
            embeddings = split.embeddings[rows, views[rows]].astype(np.float32)
            yield TrainingBatch(torch.from_numpy(embeddings), torch.from_numpy(split.labels[rows]), means)

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """The batch's loss and its logits."""
        logits = self.head(batch.inputs)
        return self.criterion(logits, batch.labels), logits

    def updated(self) -> None: ...  # nothing follows the optimizer's step

    def set_mode(self, mode: Mode) -> None:
        self.head.train(mode == "TRAIN")

    @torch.no_grad()
    def validate(self, watcher: Watcher) -> Validation:
        """The plain views."""
        split, loss_sum, answers = self.data.validation, 0.0, []
        pieces = [slice(start, start + EVALUATION_ROWS) for start in range(0, len(split), EVALUATION_ROWS)]
        for rows in watcher.batches(pieces, "EVAL"):
            embeddings, labels = split.embeddings[rows, 0].astype(np.float32), torch.from_numpy(split.labels[rows])
            with watcher.phase("Forward"):
                logits = self.head(torch.from_numpy(embeddings))  # (rows, C)
                watcher.see(labels, logits)
                loss_sum += float(self.criterion(logits, labels)) * len(labels)
            answers.append(logits)
        return Validation(loss_sum / len(split), torch.cat(answers), torch.from_numpy(split.labels))


def class_weights(labels: npt.NDArray[np.int64], class_count: int, balance: float) -> Tensor:
    """Return (C,) float32, (N / (C n_c)) ** balance, scaled to a mean of 1 over the images; 1 for a class without."""
    counts = np.bincount(labels, minlength=class_count)
    weights = (len(labels) / (class_count * np.maximum(counts, 1))) ** balance
    weights /= (weights * counts).sum() / len(labels)
    return torch.from_numpy(np.where(counts > 0, weights, 1.0).astype(np.float32))


class BalancedCrossEntropy(nn.CrossEntropyLoss):
    """The mean of the images' weighted losses; torch's divides by the weights' sum, which depends on the batch."""

    def __init__(self, weights: Tensor, label_smoothing: float) -> None:
        super().__init__(weights, label_smoothing=label_smoothing, reduction="none")

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """(N, C) logits; (N,) labels or (N, C) probabilities."""
        return super().forward(input, target).mean()
