"""The training loop of the head: epochs over embeddings, a validation after each, the best epoch kept."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from failures import StepError, say
from head import ClassifierHead
from hyperparameters import Hyperparameters
from optimizer import AdamW
from training_data import Split, TrainingData

EVALUATION_ROWS = 4096  # rows of one forward pass in validation
PLAIN_SHARE = 0.5  # of an epoch's images are seen plain for certain, the rest in any view
Mode = Literal["TRAIN", "EVAL"]


@dataclass(frozen=True)
class EpochResult:
    """One epoch's figures; losses are means over the images, with label smoothing and class weights if set."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float

    def better_than(self, other: "EpochResult | None") -> bool:
        """Higher validation accuracy, ties broken by the lower validation loss."""
        if other is None:
            return True
        return (self.validation_accuracy, -self.validation_loss) > (other.validation_accuracy, -other.validation_loss)


@dataclass(frozen=True)
class TrainingResult:
    """The best epoch and the head's state at its end."""

    best: EpochResult
    state: dict[str, Any]


def steps_per_epoch(images: int, batch_size: int) -> int:
    return math.ceil(images / batch_size)


def train(
    head: ClassifierHead,
    criterion: nn.Module,
    data: TrainingData,
    hyperparameters: Hyperparameters,
    *,
    set_mode: Callable[[Mode], None] = lambda mode: None,
) -> TrainingResult:
    """Train, print one line per epoch, and return the best epoch.

    Args:
        head: Is trained in place; its state at the end is that of the last epoch.
        criterion: (N, C) logits and (N,) labels -> scalar loss. A module, so that the debugger can observe it.
        set_mode: Told before every pass over a split whether it trains or evaluates.
    """
    steps = hyperparameters.epochs * steps_per_epoch(len(data.train), hyperparameters.batch_size)
    optimizer = AdamW(
        head.parameters(), lr=hyperparameters.lr, weight_decay=hyperparameters.weight_decay, total_steps=steps
    )
    best: EpochResult | None = None
    state: dict[str, Any] = {}
    for epoch in range(1, hyperparameters.epochs + 1):
        set_mode("TRAIN")
        head.train()
        train_loss, train_accuracy = _train_epoch(head, criterion, data.train, hyperparameters, epoch, optimizer)
        set_mode("EVAL")
        head.eval()
        validation_loss, validation_accuracy = evaluate(head, criterion, data.validation)
        result = EpochResult(epoch, train_loss, train_accuracy, validation_loss, validation_accuracy)
        if result.better_than(best):
            best = result
            state = {name: tensor.clone() for name, tensor in head.state_dict().items()}
        assert best is not None
        say(
            f"epoch={epoch} train_loss={train_loss:.4f} train_accuracy={train_accuracy:.4f} "
            f"validation_loss={validation_loss:.4f} validation_accuracy={validation_accuracy:.4f} "
            f"best_validation_accuracy={best.validation_accuracy:.4f}"
        )
    assert best is not None
    return TrainingResult(best, state)


def _train_epoch(
    head: ClassifierHead,
    criterion: nn.Module,
    split: Split,
    hyperparameters: Hyperparameters,
    epoch: int,
    optimizer: AdamW,
) -> tuple[float, float]:
    """One pass over the training images, one view of each. Returns mean loss and accuracy."""
    loss_sum, correct = 0.0, 0
    for embeddings, labels in _batches(split, hyperparameters, epoch):
        logits = head(embeddings)
        loss = criterion(logits, labels)
        value = loss.item()
        if not math.isfinite(value):
            raise StepError(
                f"The training loss became {value} in epoch {epoch} at learning rate {hyperparameters.lr:g}: "
                f"try a learning rate of {hyperparameters.lr / 10:g} or below."
            )
        loss.backward()
        optimizer.step()
        loss_sum += value * len(labels)
        correct += int((logits.detach().argmax(dim=1) == labels).sum())
    return loss_sum / len(split), correct / len(split)


def _batches(split: Split, hyperparameters: Hyperparameters, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in an order and with views drawn from (seed, epoch): (B, D) float32 and (B,) int64."""
    generator = np.random.default_rng((hyperparameters.seed, epoch))
    order = generator.permutation(len(split))
    views = generator.integers(0, split.embeddings.shape[1], len(split))
    views[generator.random(len(split)) < PLAIN_SHARE] = 0
    for start in range(0, len(split), hyperparameters.batch_size):
        rows = order[start : start + hyperparameters.batch_size]
        yield _tensor(split.embeddings[rows, views[rows]]), torch.from_numpy(split.labels[rows])


def _tensor(embeddings: npt.NDArray[np.float16]) -> Tensor:
    return torch.from_numpy(embeddings.astype(np.float32))


@torch.no_grad()
def evaluate(head: ClassifierHead, criterion: nn.Module, split: Split) -> tuple[float, float]:
    """Mean loss and accuracy of a head in evaluation mode on the plain views."""
    loss_sum, correct = 0.0, 0
    for start in range(0, len(split), EVALUATION_ROWS):
        rows = slice(start, start + EVALUATION_ROWS)
        labels = torch.from_numpy(split.labels[rows])
        logits = head(_tensor(split.embeddings[rows, 0]))  # (rows, C)
        loss_sum += float(criterion(logits, labels)) * len(labels)
        correct += int((logits.argmax(dim=1) == labels).sum())
    return loss_sum / len(split), correct / len(split)
