"""The training loop of the head: epochs over embeddings, a validation after each, the best epoch kept."""

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from checkpoint import Checkpoints
from failures import StepError, say
from head import ClassifierHead
from hyperparameters import Hyperparameters
from optimizer import AdamW
from training_data import Split, TrainingData

EVALUATION_ROWS = 4096  # rows of one forward pass in validation
PLAIN_SHARE = 0.5  # of an epoch's images are seen plain for certain, the rest in any view
Mode = Literal["TRAIN", "EVAL"]
Phase = Literal["Forward", "Backward", "Optimizer", "Logging", "Checkpoint"]
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class EpochResult:
    """One epoch's figures; losses are means over the images, with label smoothing and class weights if set."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    lr: float  # of the epoch's first step

    def better_than(self, other: "EpochResult | None") -> bool:
        """Higher validation accuracy, ties broken by the lower validation loss."""
        if other is None:
            return True
        return (self.validation_accuracy, -self.validation_loss) > (other.validation_accuracy, -other.validation_loss)


@dataclass(frozen=True)
class TrainingResult:
    """Every epoch, the best one, the head's state at its end, and why training ended early if it did."""

    best: EpochResult
    state: dict[str, Any]
    epochs: list[EpochResult] = field(default_factory=list)
    stopped: str | None = None


class Watcher:
    """Sees a training happen, and may ask it to stop. This one looks away; trials have it."""

    stop_requested: str | None = None  # a sentence that says why

    def set_mode(self, mode: Mode) -> None:
        """The coming steps train or evaluate."""

    def batches(self, source: Iterable[Batch], mode: Mode) -> Iterator[Batch]:
        """The batches of the source, each handed out within a step of its own."""
        return iter(source)

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        """Around a part of a step."""
        return NOTHING

    def see_images(self, means: npt.NDArray[np.float32]) -> None:
        """A batch of the training, before its forward pass: (B, 3), each image's mean per channel, normalised."""

    def see(self, labels: Tensor, logits: Tensor) -> None:
        """A batch of the validation: (rows,) int64 and (rows, C) float32, before its loss is computed."""

    def save_next_step(self) -> None:
        """The coming step is to be kept whole, since training will end with it."""


NOTHING: AbstractContextManager[None] = nullcontext()


def steps_per_epoch(images: int, batch_size: int) -> int:
    return math.ceil(images / batch_size)


def train(
    head: ClassifierHead,
    criterion: nn.Module,
    data: TrainingData,
    hyperparameters: Hyperparameters,
    *,
    watcher: Watcher | None = None,
    checkpoints: Checkpoints | None = None,
) -> TrainingResult:
    """Train, print one line per epoch, and return the best epoch.

    Args:
        head: Is trained in place; its state at the end is that of the last epoch.
        criterion: (N, C) logits and (N,) labels -> scalar loss. A module, so that the debugger can observe it.
        watcher: Is shown every step. When it asks to stop, the epoch ends with the current step.
        checkpoints: Where finished epochs are kept, and from which an interrupted training goes on.
    """
    run = _Run(head, criterion, data, hyperparameters, watcher or Watcher())
    if checkpoints and (state := checkpoints.load()):
        run.restore(state)
        say(f"Going on after epoch {len(run.epochs)}, from the checkpoint {checkpoints.file}")
    while len(run.epochs) < hyperparameters.epochs and not run.watcher.stop_requested:
        run.one_epoch()
        if checkpoints:
            with run.watcher.phase("Checkpoint"):
                _keep(run, checkpoints)
    assert run.best is not None
    return TrainingResult(run.best, run.best_state, run.epochs, run.watcher.stop_requested)


def _keep(run: "_Run", checkpoints: Checkpoints) -> None:
    """A whole epoch is kept; an interrupted one is not, and what is kept is written at once."""
    if not run.watcher.stop_requested:
        checkpoints.save(run.state())
    else:
        checkpoints.flush()


class _Run:
    """One training: what changes from epoch to epoch."""

    def __init__(
        self,
        head: ClassifierHead,
        criterion: nn.Module,
        data: TrainingData,
        hyperparameters: Hyperparameters,
        watcher: Watcher,
    ) -> None:
        self.head, self.criterion, self.data, self.watcher = head, criterion, data, watcher
        self.hyperparameters = hyperparameters
        steps = hyperparameters.epochs * steps_per_epoch(len(data.train), hyperparameters.batch_size)
        self.optimizer = AdamW(
            head.parameters(), lr=hyperparameters.lr, weight_decay=hyperparameters.weight_decay, total_steps=steps
        )
        self.epochs: list[EpochResult] = []
        self.best: EpochResult | None = None
        self.best_state: dict[str, Any] = {}

    def one_epoch(self) -> None:
        """Train, validate, keep the best, print the line from which metrics are read."""
        epoch = len(self.epochs) + 1
        self.watcher.set_mode("TRAIN")
        self.head.train()
        lr = self.optimizer.next_lr
        train_loss, train_accuracy = self._train_epoch(epoch)
        self.watcher.set_mode("EVAL")
        self.head.eval()
        validation_loss, validation_accuracy = evaluate(self.head, self.criterion, self.data.validation, self.watcher)
        result = EpochResult(epoch, train_loss, train_accuracy, validation_loss, validation_accuracy, lr)
        self.epochs.append(result)
        if result.better_than(self.best):
            self.best = result
            self.best_state = {name: tensor.clone() for name, tensor in self.head.state_dict().items()}
        assert self.best is not None
        with self.watcher.phase("Logging"):
            say(
                f"epoch={epoch} train_loss={train_loss:.4f} train_accuracy={train_accuracy:.4f} "
                f"validation_loss={validation_loss:.4f} validation_accuracy={validation_accuracy:.4f} "
                f"best_validation_accuracy={self.best.validation_accuracy:.4f}"
            )

    def _train_epoch(self, epoch: int) -> tuple[float, float]:
        """One pass over the training images, one view of each. Returns mean loss and accuracy of those seen."""
        loss_sum, correct, seen = 0.0, 0, 0
        batches = _batches(self.data.train, self.hyperparameters, epoch)
        for embeddings, labels, rows in self.watcher.batches(batches, "TRAIN"):
            if self.data.train.input_means is not None:
                self.watcher.see_images(self.data.train.input_means[rows])
            value, logits = self._train_step(embeddings, labels)
            if not math.isfinite(value):
                self._diverged(value, epoch, embeddings, labels)
            loss_sum += value * len(labels)
            correct += int((logits.argmax(dim=1) == labels).sum())
            seen += len(labels)
            if self.watcher.stop_requested:
                break
        return loss_sum / seen, correct / seen

    def _train_step(self, embeddings: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """Forward, backward, update. Returns the loss and the logits (B, C), detached."""
        with self.watcher.phase("Forward"):
            logits = self.head(embeddings)
            loss = self.criterion(logits, labels)
            value = loss.item()
        if math.isfinite(value):
            with self.watcher.phase("Backward"):
                loss.backward()
            with self.watcher.phase("Optimizer"):
                self.optimizer.step()
        return value, logits.detach()

    def _diverged(self, value: float, epoch: int, embeddings: Tensor, labels: Tensor) -> None:
        """Let the debugger have the step at which it happened, then give up."""
        self.watcher.save_next_step()
        self.criterion(self.head(embeddings), labels)
        lr = self.hyperparameters.lr
        raise StepError(
            f"The training loss became {value} in epoch {epoch} at learning rate {lr:g}: "
            f"try a learning rate of {lr / 10:g} or below."
        )

    def state(self) -> dict[str, Any]:
        """Everything that the coming epochs depend on, and what is kept of the past ones."""
        return {
            "head": {name: tensor.clone() for name, tensor in self.head.state_dict().items()},
            "optimizer": self.optimizer.state(),
            "random": torch.get_rng_state(),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "best_epoch": self.best.epoch if self.best else 0,
            "best_head": self.best_state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.head.load_state_dict(state["head"])
        self.optimizer.restore(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.epochs = [EpochResult(**epoch) for epoch in state["epochs"]]
        self.best = self.epochs[state["best_epoch"] - 1]
        self.best_state = state["best_head"]


def _batches(
    split: Split, hyperparameters: Hyperparameters, epoch: int
) -> Iterator[tuple[Tensor, Tensor, npt.NDArray[np.int64]]]:
    """Batches in an order and with views drawn from (seed, epoch): (B, D) float32, (B,) int64, and their rows (B,)."""
    generator = np.random.default_rng((hyperparameters.seed, epoch))
    order = generator.permutation(len(split))
    views = generator.integers(0, split.embeddings.shape[1], len(split))
    views[generator.random(len(split)) < PLAIN_SHARE] = 0
    for start in range(0, len(split), hyperparameters.batch_size):
        rows = order[start : start + hyperparameters.batch_size]
        yield _tensor(split.embeddings[rows, views[rows]]), torch.from_numpy(split.labels[rows]), rows


def _tensor(embeddings: npt.NDArray[np.float16]) -> Tensor:
    return torch.from_numpy(embeddings.astype(np.float32))


def _plain_batches(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """The plain views in order: (rows, D) float32 and (rows,) int64."""
    for start in range(0, len(split), EVALUATION_ROWS):
        rows = slice(start, start + EVALUATION_ROWS)
        yield _tensor(split.embeddings[rows, 0]), torch.from_numpy(split.labels[rows])


@torch.no_grad()
def evaluate(
    head: ClassifierHead, criterion: nn.Module, split: Split, watcher: Watcher | None = None
) -> tuple[float, float]:
    """Mean loss and accuracy of a head in evaluation mode on the plain views."""
    watcher = watcher or Watcher()
    loss_sum, correct = 0.0, 0
    for embeddings, labels in watcher.batches(_plain_batches(split), "EVAL"):
        with watcher.phase("Forward"):
            logits = head(embeddings)  # (rows, C)
            watcher.see(labels, logits)
            loss_sum += float(criterion(logits, labels)) * len(labels)
        correct += int((logits.argmax(dim=1) == labels).sum())
    return loss_sum / len(split), correct / len(split)
