"""The first stage: the head learns from embeddings, which the frozen backbone gave once for all.

Its members are cross-validation's: the images are cut into folds, and each member learns, side by side with the others,
from all folds but its own. The validation split is the first member's fold. So every image has an answer of a member
that has not seen it, by which trials are compared and scores are calibrated, and no image is lost to the head, which is
the average of the members. Where fine-tuning follows, which has to be compared with this head on images that neither
has seen, the folds are cut from the training split alone.
"""

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from classifier.data.training_data import Split, TrainingData, join
from classifier.model.head import ClassifierHead, component_count
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.job import ALONE
from classifier.training.loop import Mode, TrainingBatch, Watcher
from classifier.training.optimizer import AdamW, decay_weights
from classifier.training.results import Validation

EVALUATION_ROWS = 512  # rows of one forward pass in validation
PLAIN_SHARE = 0.5  # of an epoch's images are seen plain for certain, the rest in any view
AVERAGED_SHARE = 0.25  # of the steps, the last ones, whose weights are averaged

Rows = npt.NDArray[np.int64]


class HeadTraining:
    """A stage that trains a new head, which knows the features' scale, on the embeddings of the training split."""

    lr_name = "learning rate"
    processes = ALONE  # it takes seconds

    def __init__(self, data: TrainingData, hyperparameters: Hyperparameters) -> None:
        self.data, self.hyperparameters = data, hyperparameters
        asked, classes = hyperparameters, len(data.classes)
        self.learns_validation = asked.folds > 1 and not asked.fine_tunes
        splits = [data.train, data.validation] if self.learns_validation else [data.train]
        self.labels = np.concatenate([split.labels for split in splits])
        self.means = join([split.input_means for split in splits])
        self.folds = self.assign_folds()  # (N,) of all these images
        members = max(0, int(self.folds.max())) + 1
        self.rows = [np.flatnonzero(self.folds != member) for member in range(members)]
        self.images = min(map(len, self.rows))  # that a member sees in an epoch
        torch.manual_seed(asked.seed)  # here, so that a final training repeats its trial to the last digit
        self.head = ClassifierHead(
            *(data.feature_dim, classes),
            components=component_count(data.feature_dim, len(data.train)),
            members=members,
            hidden_units=asked.hidden_units,
            dropout=asked.dropout,
        )
        self.head.fit_features(data.train.embeddings)
        self.components = np.concatenate([self.project(split) for split in splits])  # (N, views, P) float16
        # (N, C) logits and (N,) labels -> scalar loss; a module, so that the debugger can observe it.
        self.criterion: nn.Module = nn.CrossEntropyLoss(label_smoothing=asked.label_smoothing)
        if asked.class_balance:
            weights = class_weights(self.labels, classes, asked.class_balance)
            self.criterion = BalancedCrossEntropy(weights, asked.label_smoothing)
        self.epochs, self.steps = asked.epochs, math.ceil(self.images / asked.batch_size)
        self.optimizer = AdamW(
            decay_weights(self.head, asked.weight_decay), lr=asked.lr, total_steps=self.epochs * self.steps
        )
        self.average = torch.optim.swa_utils.AveragedModel(self.head.copy())
        self.modules: dict[str, nn.Module] = {"head": self.head, "average": self.average}
        self.deployed: dict[str, nn.Module] = {"head": self.average.module}

    def batches(self, epoch: int, first_step: int) -> Generator[TrainingBatch, None, None]:
        """In an order and with views drawn from (seed, epoch); each member's images, (B, M, P) float32."""
        batch_size = self.hyperparameters.batch_size
        generator = np.random.default_rng((self.hyperparameters.seed, epoch))
        order = np.stack([generator.permutation(rows)[: self.images] for rows in self.rows], axis=1)
        views = generator.integers(0, self.components.shape[1], order.shape)
        views[generator.random(order.shape) < PLAIN_SHARE] = 0
        for start in range(first_step * batch_size, self.images, batch_size):
            step = slice(start, start + batch_size)
            rows = order[step]  # (B, M)
            components = torch.from_numpy(self.components[rows, views[step]].astype(np.float32))
            means = None if self.means is None else self.means[rows[:, 0]]
            yield TrainingBatch(components, torch.from_numpy(self.labels[rows].reshape(-1)), means)

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """The batch's loss and its logits, (B * M, C)."""
        logits = self.head(batch.inputs).flatten(0, 1)
        return self.criterion(logits, batch.labels), logits

    def updated(self) -> None:
        """The weights' average begins when most steps are made."""
        if self.optimizer.step_count > (1 - AVERAGED_SHARE) * self.optimizer.total_steps:
            self.average.update_parameters(self.head)

    def set_mode(self, mode: Mode) -> None:
        self.head.train(mode == "TRAIN")

    @torch.no_grad()
    def validate(self, watcher: Watcher) -> Validation:
        """The averaged weights' answers to the plain views of the validation split, by who has not seen them."""
        if not self.average.n_averaged:
            self.average.module.load_state_dict(self.head.state_dict())
        split, loss_sum, answers = self.data.validation, 0.0, []
        pieces = [slice(start, start + EVALUATION_ROWS) for start in range(0, len(split), EVALUATION_ROWS)]
        with weights_of(self.head, self.average.module):
            for rows in watcher.batches(pieces, "EVAL"):
                embeddings, labels = split.embeddings[rows, 0].astype(np.float32), torch.from_numpy(split.labels[rows])
                with watcher.phase("Forward"):
                    logits = self.answers(torch.from_numpy(embeddings))
                    watcher.see(labels, logits)
                    loss_sum += float(self.criterion(logits, labels)) * len(labels)
                answers.append(logits)
        labels = torch.from_numpy(split.labels)
        return Validation(loss_sum / len(split), torch.cat(answers), labels, self.held_out())

    def answers(self, embeddings: Tensor) -> Tensor:
        """Logits (N, C) of validation images: of the first member, if the others have learned from them."""
        if not self.learns_validation:
            return self.head(embeddings)  # type: ignore[no-any-return]
        components = self.head.project(embeddings).unsqueeze(1).expand(-1, self.head.members, -1)
        return self.head(components)[:, 0]  # type: ignore[no-any-return]

    def held_out(self) -> Validation | None:
        """Every image's answer of the member that has not seen it; None where there are no folds."""
        if self.head.members == 1:
            return None
        labels, logits = torch.from_numpy(self.labels), torch.empty(len(self.labels), self.head.class_count)
        head = self.average.module.eval()
        most = int(np.bincount(self.folds).max())
        members = range(self.head.members)
        own = np.stack([np.resize(np.flatnonzero(self.folds == member), most) for member in members], axis=1)
        for start in range(0, most, EVALUATION_ROWS):
            rows = own[start : start + EVALUATION_ROWS]  # (B, M); those of a smaller fold come again
            found = head(torch.from_numpy(self.components[rows, 0].astype(np.float32)))
            logits[torch.from_numpy(rows.reshape(-1))] = found.flatten(0, 1)
        return Validation(float(nn.functional.cross_entropy(logits, labels)), logits, labels)

    @torch.no_grad()
    def project(self, split: Split) -> npt.NDArray[np.float16]:
        """What the members see of every view, (N, views, P); the plain view again where a split has no other."""
        views, features = self.data.train.embeddings.shape[1:]
        found = np.empty((len(split), views, self.head.projection.shape[1]), np.float16)
        for start in range(0, len(split), EVALUATION_ROWS):
            embeddings = split.embeddings[start : start + EVALUATION_ROWS].astype(np.float32)
            components = self.head.project(torch.from_numpy(embeddings.reshape(-1, features))).numpy()
            found[start : start + EVALUATION_ROWS] = components.reshape(len(embeddings), -1, found.shape[2])
        return found

    def assign_folds(self) -> Rows:
        """Each image's fold, (N,), -1 of an image that all members see: as even as can be within each class, and one
        fold for all images of a group."""
        train, count = self.data.train, self.hyperparameters.folds
        if count == 1:
            return np.full(len(train), -1)
        groups = np.arange(len(train)) if train.groups is None else train.groups
        _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
        order = np.random.default_rng(self.hyperparameters.seed).permutation(len(first))
        order = order[np.argsort(train.labels[first][order], kind="stable")]  # class by class, dealt in turn
        dealt = np.empty(len(first), np.int64)
        dealt[order] = np.arange(len(first)) % (max(2, count - 1) if self.learns_validation else count)
        if not self.learns_validation:
            return dealt[group_of]
        return np.concatenate([dealt[group_of] + 1, np.zeros(len(self.data.validation), np.int64)])


@contextmanager
def weights_of(head: nn.Module, averaged: nn.Module) -> Iterator[None]:
    """Give the head, which the debugger watches, the averaged weights for as long as the block takes."""
    own = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    head.load_state_dict(averaged.state_dict())
    yield
    head.load_state_dict(own)


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
