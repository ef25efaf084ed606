"""The first stage: the head learns from embeddings, which the frozen backbone gave once for all."""

from collections.abc import Generator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from classifier.data.training_data import TrainingData
from classifier.model.head import ClassifierHead
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.loop import Mode, Parts, TrainingBatch, Validation, Watcher, steps_per_epoch
from classifier.training.optimizer import AdamW, decay_matrices
from classifier.training.processes import ALONE

EVALUATION_ROWS = 512  # rows of one forward pass in validation
PLAIN_SHARE = 0.5  # of an epoch's images are seen plain for certain, the rest in any view


class HeadTraining:
    """A head, its loss and the embeddings of both splits.

    Args:
        head: Is trained in place.
        criterion: (N, C) logits and (N,) labels -> scalar loss. A module, so that the debugger can observe it.
    """

    lr_name = "learning rate"
    processes = ALONE  # it takes seconds

    def __init__(
        self, head: ClassifierHead, criterion: nn.Module, data: TrainingData, hyperparameters: Hyperparameters
    ) -> None:
        self.head, self.criterion, self.data, self.hyperparameters = head, criterion, data, hyperparameters
        self.epochs = hyperparameters.epochs
        self.steps = steps_per_epoch(len(data.train), hyperparameters.batch_size)
        groups = decay_matrices(head, hyperparameters.weight_decay)
        self.optimizer = AdamW(groups, lr=hyperparameters.lr, total_steps=self.epochs * self.steps)

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
            embeddings = float_tensor(split.embeddings[rows, views[rows]])
            yield TrainingBatch(embeddings, torch.from_numpy(split.labels[rows]), means)

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """The batch's loss and its logits."""
        logits = self.head(batch.inputs)
        return self.criterion(logits, batch.labels), logits

    def updated(self) -> None:
        """Nothing follows the optimizer's step."""

    def set_mode(self, mode: Mode) -> None:
        """Dropout on or off."""
        self.head.train(mode == "TRAIN")

    @torch.no_grad()
    def validate(self, watcher: Watcher) -> Validation:
        """The plain views."""
        split, loss_sum, answers = self.data.validation, 0.0, []
        pieces = (slice(start, start + EVALUATION_ROWS) for start in range(0, len(split), EVALUATION_ROWS))
        batches = ((float_tensor(split.embeddings[rows, 0]), torch.from_numpy(split.labels[rows])) for rows in pieces)
        for embeddings, labels in watcher.batches(batches, "EVAL"):
            with watcher.phase("Forward"):
                logits = self.head(embeddings)  # (rows, C)
                watcher.see(labels, logits)
                loss_sum += float(self.criterion(logits, labels)) * len(labels)
            answers.append(logits)
        return Validation(loss_sum / len(split), torch.cat(answers), torch.from_numpy(split.labels))

    def parts(self) -> Parts:
        """The head alone: the backbone stays as it was."""
        return {"head": {name: tensor.clone() for name, tensor in self.head.state_dict().items()}}

    def state(self) -> dict[str, Any]:
        """The head."""
        return dict(self.parts())

    def restore(self, state: dict[str, Any]) -> None:
        """The head as it was."""
        self.head.load_state_dict(state["head"])


def float_tensor(embeddings: npt.NDArray[np.float16]) -> Tensor:
    """The same as float32."""
    return torch.from_numpy(embeddings.astype(np.float32))


def head_training(data: TrainingData, hyperparameters: Hyperparameters) -> HeadTraining:
    """The stage that every training begins with, and a trial is."""
    return HeadTraining(*new_head(data, hyperparameters), data, hyperparameters)


def new_head(data: TrainingData, hyperparameters: Hyperparameters) -> tuple[ClassifierHead, nn.Module]:
    """An untrained head that knows the features' scale, and its loss.

    The seed is set here, so that a final training repeats its trial to the last digit.
    """
    asked, classes = hyperparameters, len(data.classes)
    torch.manual_seed(asked.seed)
    head = ClassifierHead(data.feature_dim, classes, hidden_units=asked.hidden_units, dropout=asked.dropout)
    head.standardise(data.train.embeddings)
    if not asked.class_balance:
        return head, nn.CrossEntropyLoss(label_smoothing=asked.label_smoothing)
    weights = class_weights(data.train.labels, classes, asked.class_balance)
    return head, BalancedCrossEntropy(weights, asked.label_smoothing)


def class_weights(labels: npt.NDArray[np.int64], class_count: int, balance: float) -> Tensor:
    """(C,) float32, (N / (C n_c)) ** balance: with 0 every image counts alike, with 1 every class does.

    Their mean over the training images is 1, so that losses stay comparable. A class without images weighs 1.
    """
    counts = np.bincount(labels, minlength=class_count).astype(np.float64)
    weights = np.where(counts > 0, (len(labels) / (class_count * np.maximum(counts, 1))) ** balance, 1.0)
    weights /= (weights * counts).sum() / len(labels)
    return torch.from_numpy(np.where(counts > 0, weights, 1.0).astype(np.float32))


class BalancedCrossEntropy(nn.CrossEntropyLoss):
    """The mean over a batch's images of their weighted losses.

    torch's own mean divides by the sum of the weights, which depends on what else is in the batch.
    """

    def __init__(self, weights: Tensor, label_smoothing: float) -> None:
        super().__init__(weights, label_smoothing=label_smoothing, reduction="none")

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """(N, C) logits; (N,) labels or (N, C) probabilities."""
        return super().forward(input, target).mean()
