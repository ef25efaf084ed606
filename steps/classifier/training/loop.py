"""The training loop: epochs of a stage, a validation after each, the best epoch kept.

A training is one stage or two: the head on embeddings (head_training.py), and the network on images
(fine_tuning.py). The loop is the same; what a step does is the stage's.

Of a stage, the epoch of the highest validation accuracy is kept. Of two stages, the clearly more accurate one; where
the difference is within chance, as it often is with a few hundred images, the one whose calibrated scores have the
lower log loss, which varies less.
"""

import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from classifier.job.failures import StepError, say
from classifier.training.calibration import calibrated_log_loss
from classifier.training.checkpoint import Checkpoints
from classifier.training.optimizer import AdamW
from classifier.training.processes import Processes

Mode = Literal["TRAIN", "EVAL"]
Phase = Literal["Forward", "Backward", "Optimizer", "Logging", "Checkpoint"]
Batch = TypeVar("Batch")
Parts = dict[str, dict[str, Tensor]]  # state dicts by the part of the network: head, backbone
CLEAR = 2.0  # standard deviations


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
class Validation:
    """What the network makes of the validation split."""

    loss: float
    logits: Tensor  # (N, C) float32
    labels: Tensor  # (N,) int64

    @property
    def accuracy(self) -> float:
        """Share of the images whose highest logit is their label's."""
        return int(self.right.sum()) / len(self.labels)

    @property
    def right(self) -> Tensor:
        """(N,) bool: whose highest logit is their label's."""
        return self.logits.argmax(dim=1) == self.labels


@dataclass(frozen=True)
class Kept:
    """An epoch, and what it learned and answered."""

    figures: EpochResult
    parts: Parts
    validation: Validation

    @cached_property
    def log_loss(self) -> float:
        """Of its calibrated scores."""
        return calibrated_log_loss(self.validation.logits.numpy(), self.validation.labels.numpy())

    def clearly_more_accurate_than(self, other: "Kept") -> bool:
        """Whether chance hardly explains it: McNemar's test (1947) on the images that only one of both has right."""
        ours, others = self.validation.right, other.validation.right
        gained, lost = int((ours & ~others).sum()), int((others & ~ours).sum())
        return gained - lost > CLEAR * math.sqrt(gained + lost)


@dataclass(frozen=True)
class TrainingResult:
    """Every epoch, the kept one with what it learned and answered, and why training ended early if it did."""

    kept: Kept
    epochs: list[EpochResult] = field(default_factory=list)
    stopped: str | None = None
    ended_early: str | None = None  # a sentence, where no more was to be expected of the epochs that were left
    second_stage_from: int | None = None  # the epoch with which another stage began


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


@dataclass(frozen=True)
class TrainingBatch:
    """This process's share of one step's images."""

    inputs: Tensor  # (B, ...) what the stage's network takes
    labels: Tensor  # (B,) int64
    size: int  # images of the step in all processes together
    means: npt.NDArray[np.float32] | None = None  # (B, 3), each image's mean per channel, normalised
    targets: Tensor | None = None  # (B, C) float32, probabilities, where images are mixed
    first: int = 0  # the share's first image within the step's
    copies: int = 1  # processes that have this very share


class Stage(Protocol):
    """What an epoch's steps train, and how that is judged."""

    epochs: int
    steps: int  # of an epoch
    lr_name: str  # the hyperparameter that holds the peak learning rate
    optimizer: AdamW
    processes: Processes

    def batches(self, epoch: int, first_step: int) -> Generator[TrainingBatch, None, None]:
        """An epoch's batches from a step on, drawn from (seed, epoch) alone."""
        ...

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """The share's part of the step's mean loss, a scalar, and its logits (B, C)."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Gradients of the whole step, in every process."""
        ...

    def updated(self) -> None:
        """The optimizer has made its step."""
        ...

    def set_mode(self, mode: Mode) -> None:
        """The coming steps train or evaluate."""
        ...

    def validate(self, watcher: Watcher) -> Validation:
        """The whole validation split, in evaluation mode."""
        ...

    def parts(self) -> Parts:
        """A copy of what would be deployed now."""
        ...

    def state(self) -> dict[str, Any]:
        """A copy of all that the coming steps depend on, besides the optimizer and torch's random numbers."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        ...


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches of one pass, the last of which may be smaller."""
    return math.ceil(images / batch_size)


def train(
    stage: Stage,
    *,
    watcher: Watcher | None = None,
    checkpoints: Checkpoints | None = None,
    earlier: TrainingResult | None = None,
    patience: int = 0,
) -> TrainingResult:
    """Train, print one line per epoch, and return the one that is kept.

    Args:
        watcher: Is shown every step. When it asks to stop, training ends with the current step; an unfinished epoch
            counts only where there is no other.
        checkpoints: Where progress is kept, and from which an interrupted training goes on.
        earlier: The stage before; its epochs are counted, and its best one is kept if it is better.
        patience: Training ends after so many epochs of this stage without a better one; 0 never ends it.
    """
    run = _Run(stage, watcher or Watcher(), checkpoints, earlier, patience)
    if state := stage.processes.told(checkpoints.load() if checkpoints else None):
        run.restore(state)
        if checkpoints and len(run.epochs) < stage.epochs:
            say(f"Going on after {run.progress}, from the checkpoint {checkpoints.file}")
    while len(run.epochs) < stage.epochs and not run.stop and not run.ended_early:
        run.one_epoch()
    if run.ended_early:
        stage.processes.say(run.ended_early)
    return run.result()


@dataclass
class _Tally:
    """What an epoch's steps have seen so far, in all processes."""

    loss: float = 0.0
    correct: int = 0
    seen: int = 0


class _Run:
    """One stage's training: what changes from step to step."""

    def __init__(
        self,
        stage: Stage,
        watcher: Watcher,
        checkpoints: Checkpoints | None,
        earlier: TrainingResult | None,
        patience: int,
    ) -> None:
        self.stage, self.watcher, self.checkpoints, self.earlier = stage, watcher, checkpoints, earlier
        self.patience = patience
        self.epochs: list[EpochResult] = []
        self.own: Kept | None = None  # the best of this stage
        self.step, self.tally, self.epoch_lr = 0, _Tally(), 0.0  # of the epoch that is under way
        self.stop: str | None = None

    def result(self) -> TrainingResult:
        kept = self.kept
        assert kept is not None
        before = self.earlier.epochs if self.earlier else []
        began = len(before) + 1 if before and self.epochs else None
        epochs = [*before, *self.epochs]
        return TrainingResult(kept, epochs, self.stop, self.ended_early, began)

    @property
    def kept(self) -> Kept | None:
        """Of this stage and the one before; a tie goes to this one."""
        own, before = self.own, self.earlier.kept if self.earlier else None
        if own is None or before is None:
            return own or before
        if own.clearly_more_accurate_than(before):
            return own
        if before.clearly_more_accurate_than(own):
            return before
        return own if own.log_loss <= before.log_loss else before

    @property
    def ended_early(self) -> str | None:
        """Why the epochs that are left are not worth their time, if they are not."""
        left = self.stage.epochs - len(self.epochs)
        if not self.patience or self.own is None or left <= 0 or self.step or self.stop:
            return None
        waited = self._number - self.own.figures.epoch - 1
        if waited < self.patience:
            return None
        return (
            f"Training ended after {len(self.epochs)} of {self.stage.epochs} epochs: none of the last {waited} was "
            f"better than epoch {self.own.figures.epoch} (patience {self.patience})."
        )

    @property
    def progress(self) -> str:
        """How far the training is, in words."""
        epoch = f"epoch {self._number - 1}"
        return f"{epoch} and {self.step} steps" if self.step else epoch

    @property
    def _number(self) -> int:
        """Of the epoch that is under way, counted from 1 through all stages."""
        return len(self.epochs) + 1 + (len(self.earlier.epochs) if self.earlier else 0)

    def one_epoch(self) -> None:
        """Train, validate, keep the best, print the line from which metrics are read."""
        self.watcher.set_mode("TRAIN")
        self.stage.set_mode("TRAIN")
        if self.step == 0:
            self.epoch_lr = self.stage.optimizer.next_lr
        self._train()
        if self.stop:
            self._keep(at_once=True)
            if self.own or self.earlier:
                return
        self.watcher.set_mode("EVAL")
        self.stage.set_mode("EVAL")
        validation = self.stage.validate(self.watcher)
        self._conclude(validation)
        if not self.stop:
            self._keep(at_once=len(self.epochs) == self.stage.epochs or self.ended_early is not None)

    def _conclude(self, validation: Validation) -> None:
        """The epoch's figures; its network if it is this stage's best so far."""
        if not math.isfinite(validation.loss):
            self._give_up("validation", validation.loss)
        loss, accuracy = self.tally.loss / self.tally.seen, self.tally.correct / self.tally.seen
        result = EpochResult(self._number, loss, accuracy, validation.loss, validation.accuracy, self.epoch_lr)
        self.epochs.append(result)
        self.step, self.tally = 0, _Tally()
        if result.better_than(self.own.figures if self.own else None):
            self.own = Kept(result, self.stage.parts(), validation)
        kept = self.kept
        assert kept is not None
        with self.watcher.phase("Logging"):
            self.stage.processes.say(self._line(result, kept.figures))

    def _line(self, result: EpochResult, kept: EpochResult) -> str:
        """What is printed of an epoch; of one that was cut short, nothing that a metric would be read from."""
        if self.stop:
            return f"Epoch {result.epoch} was cut short; validation accuracy {result.validation_accuracy:.4f}"
        return (
            f"epoch={result.epoch} train_loss={result.train_loss:.4f} train_accuracy={result.train_accuracy:.4f} "
            f"validation_loss={result.validation_loss:.4f} validation_accuracy={result.validation_accuracy:.4f} "
            f"best_validation_accuracy={kept.validation_accuracy:.4f}"
        )

    def _train(self) -> None:
        """What is left of one pass over the training images."""
        with closing(self.stage.batches(len(self.epochs) + 1, self.step)) as batches:  # ends those who load them
            for batch in self.watcher.batches(batches, "TRAIN"):
                if batch.means is not None:
                    self.watcher.see_images(batch.means)
                self._train_step(batch)
                if self.stop:
                    break
                if self.step < self.stage.steps:
                    self._keep()

    def _train_step(self, batch: TrainingBatch) -> None:
        """Forward, backward, update, and the step's figures from all processes."""
        with self.watcher.phase("Forward"):
            loss, logits = self.stage.forward(batch)
            correct = (logits.detach().argmax(dim=1) == batch.labels).sum() / batch.copies
            wants = 1.0 if self.watcher.stop_requested else 0.0
            value, right, stops = self.stage.processes.sum([loss.item(), float(correct), wants])
        if not math.isfinite(value):
            self._diverged(value, batch)
        with self.watcher.phase("Backward"):
            self.stage.backward(loss)
        with self.watcher.phase("Optimizer"):
            self.stage.optimizer.step()
            self.stage.updated()
        self.step += 1
        self.tally.loss += value * batch.size
        self.tally.correct += round(right)
        self.tally.seen += batch.size
        if stops or (self.stage.processes.count == 1 and self.watcher.stop_requested):
            self.stop = self.watcher.stop_requested or "Another process of the training was asked to stop."

    def _diverged(self, value: float, batch: TrainingBatch) -> None:
        """Let the debugger have the step at which it happened, then give up."""
        self.watcher.save_next_step()
        self.stage.forward(batch)
        self._give_up("training", value)

    def _give_up(self, which: str, value: float) -> None:
        lr = self.stage.optimizer.lr
        raise StepError(
            f"The {which} loss became {value} in epoch {self._number} at learning rate {lr:g}: "
            f"try a {self.stage.lr_name} of {lr / 10:g} or below."
        )

    def _keep(self, *, at_once: bool = False) -> None:
        if self.checkpoints and (at_once or self.checkpoints.due()):
            with self.watcher.phase("Checkpoint"):
                self.checkpoints.save(self.state())

    def state(self) -> dict[str, Any]:
        """Everything that the coming steps depend on, and what is kept of the past ones."""
        return {
            "stage": self.stage.state(),
            "optimizer": self.stage.optimizer.state(),
            "random": torch.get_rng_state(),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "step": self.step,
            "tally": asdict(self.tally),
            "epoch_lr": self.epoch_lr,
            "best": self._best_state(self.own) if self.own else None,
        }

    def _best_state(self, own: Kept) -> dict[str, Any]:
        answered = own.validation
        validation = {"loss": answered.loss, "logits": answered.logits, "labels": answered.labels}
        return {"epoch": asdict(own.figures), "parts": own.parts, "validation": validation}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.stage.restore(state["stage"])
        self.stage.optimizer.restore(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.epochs = [EpochResult(**epoch) for epoch in state["epochs"]]
        self.step, self.tally, self.epoch_lr = state["step"], _Tally(**state["tally"]), state["epoch_lr"]
        if best := state["best"]:
            self.own = Kept(EpochResult(**best["epoch"]), best["parts"], Validation(**best["validation"]))
