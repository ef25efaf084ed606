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
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from classifier.data.training_data import TrainingData
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
NAMED = 5  # classes in a warning
NOTHING: AbstractContextManager[None] = nullcontext()
STEPS_BETWEEN_LOOKS = 50  # at a GPU's loss: each look waits for all that the GPU has been given


@dataclass(frozen=True)
class EpochResult:
    """One epoch's figures; losses are means over the images, with label smoothing and class weights if set."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    lr: float  # of the epoch's first step

    @property
    def rank(self) -> tuple[float, float]:
        """The higher, the better: by accuracy on validation, and where that ties by loss."""
        return self.validation_accuracy, -self.validation_loss


@dataclass(frozen=True)
class Validation:
    """What the network makes of the validation split."""

    loss: float
    logits: Tensor  # (N, C) float32
    labels: Tensor  # (N,) int64

    @property
    def right(self) -> Tensor:
        """(N,) bool: whose highest logit is their label's."""
        return self.logits.argmax(dim=1) == self.labels

    @property
    def accuracy(self) -> float:
        """Share of the images that are classified as they should be."""
        return int(self.right.sum()) / len(self.labels)

    @property
    def log_loss(self) -> float:
        """Of the calibrated scores."""
        return calibrated_log_loss(self.logits.numpy(), self.labels.numpy())


@dataclass(frozen=True)
class Kept:
    """An epoch, and what it learned and answered."""

    figures: EpochResult
    parts: Parts
    validation: Validation

    def better_than(self, other: "Kept") -> bool:
        """Of two stages: by accuracy, unless McNemar's test (1947), on the images that only one of both has right, puts
        the difference down to chance; then by the log loss of the calibrated scores. A tie goes to this one."""
        ours, others = self.validation.right, other.validation.right
        gained, lost = int((ours & ~others).sum()), int((others & ~ours).sum())
        if abs(gained - lost) > CLEAR * math.sqrt(gained + lost):
            return gained > lost
        return self.validation.log_loss <= other.validation.log_loss


@dataclass(frozen=True)
class TrainingResult:
    """Every epoch, the kept one with what it learned and answered, and why training ended early if it did."""

    kept: Kept
    epochs: list[EpochResult] = field(default_factory=list)
    stopped: str | None = None
    ended_early: str | None = None  # a sentence, where no more was to be expected of the epochs that were left
    second_stage_from: int | None = None  # the epoch with which another stage began


def warnings_of(data: TrainingData, result: TrainingResult) -> list[str]:
    """What looks wrong with a training that has ended well, one sentence each; none is the usual."""
    found, (began, kept) = [], (result.second_stage_from, result.kept.figures)
    missing = np.setdiff1d(data.validation.labels, data.train.labels)
    if len(missing):
        names = ", ".join(repr(data.classes[label]) for label in missing[:NAMED])
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        found.append(
            f"Validation has {int(np.isin(data.validation.labels, missing).sum())} images of {names}{more}, but "
            "training has none, so they cannot be recognised: add training images of every class."
        )
    predicted = np.unique(result.kept.validation.logits.argmax(dim=1).numpy())
    if len(predicted) == 1 and len(np.unique(data.validation.labels)) > 1:
        found.append(
            f"Every validation image was taken for {data.classes[predicted[0]]!r}: the training has learned nothing "
            "that tells classes apart. Try a lower learning rate, more epochs, and look at the images."
        )
    if began and not result.stopped and kept.epoch < began:
        reached = max(epoch.validation_accuracy for epoch in result.epochs if epoch.epoch >= began)
        found.append(
            "Fine-tuning brought nothing: by its answers on validation the head alone is better (its accuracy is "
            f"{kept.validation_accuracy:.4f}, fine-tuning reached {reached:.4f}), so the backbone is kept as it "
            "was. More images may help, or a lower finetune_lr; with model.finetune none, a head takes far less time."
        )
    return found


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


@dataclass(frozen=True)
class TrainingBatch:
    """This process's images of one step."""

    inputs: Tensor  # (B, ...) what the stage's network takes
    labels: Tensor  # (B,) int64
    means: npt.NDArray[np.float32] | None = None  # (B, 3), each image's mean per channel, normalised
    targets: Tensor | None = None  # (B, C) float32, probabilities, where images are mixed


class Stage(Protocol):
    """What an epoch's steps train, and how that is judged."""

    epochs: int
    steps: int  # of an epoch
    lr_name: str  # the hyperparameter that holds the peak learning rate
    optimizer: AdamW
    processes: Processes

    def batches(self, epoch: int, first_step: int) -> Generator[TrainingBatch, None, None]:
        """An epoch's batches from a step on, drawn from (seed, epoch) alone."""

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """The batch's mean loss, a scalar, and its logits (B, C)."""

    def updated(self) -> None:
        """The optimizer has made its step."""

    def set_mode(self, mode: Mode) -> None:
        """The coming steps train or evaluate."""

    def validate(self, watcher: Watcher) -> Validation:
        """The whole validation split, in evaluation mode."""

    def parts(self) -> Parts:
        """A copy of what would be deployed now."""

    def state(self) -> dict[str, Any]:
        """All that the coming steps depend on, besides the optimizer and torch's random numbers."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""


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
    training = Training(stage, watcher or Watcher(), checkpoints, earlier, patience)
    if state := stage.processes.broadcast(checkpoints.load() if checkpoints else None):
        training.restore(state)
        if checkpoints and len(training.epochs) < stage.epochs:
            steps = f" and {training.step} steps" if training.step else ""
            say(f"Going on after epoch {training.number - 1}{steps}, from the checkpoint {checkpoints.file}")
    while len(training.epochs) < stage.epochs and not training.stop and not training.ended_early:
        training.one_epoch()
    if training.ended_early:
        stage.processes.say(training.ended_early)
    return training.result()


@dataclass
class Training:
    """One stage's training: what changes from step to step."""

    stage: Stage
    watcher: Watcher
    checkpoints: Checkpoints | None
    earlier: TrainingResult | None
    patience: int
    epochs: list[EpochResult] = field(default_factory=list)
    best: Kept | None = None  # of this stage
    stop: str | None = None
    # Of the epoch that is under way: steps so far, rate of the first one, and sums of loss, right answers and images.
    step: int = 0
    epoch_lr: float = 0.0
    sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    @property
    def number(self) -> int:
        """Of the epoch that is under way, counted from 1 through all stages."""
        return len(self.epochs) + 1 + (len(self.earlier.epochs) if self.earlier else 0)

    @property
    def kept(self) -> Kept:
        """Of this stage and the one before."""
        before = self.earlier.kept if self.earlier else None
        kept = self.best if before is None or (self.best and self.best.better_than(before)) else before
        assert kept is not None
        return kept

    @property
    def ended_early(self) -> str | None:
        """Why the epochs that are left are not worth their time, if they are not."""
        if not self.patience or self.best is None or len(self.epochs) >= self.stage.epochs or self.step or self.stop:
            return None
        best = self.best.figures.epoch
        waited = self.number - best - 1
        if waited < self.patience:
            return None
        return (
            f"Training ended after {len(self.epochs)} of {self.stage.epochs} epochs: none of the last {waited} was "
            f"better than epoch {best} (patience {self.patience})."
        )

    def result(self) -> TrainingResult:
        before = self.earlier.epochs if self.earlier else []
        began = len(before) + 1 if before and self.epochs else None
        return TrainingResult(self.kept, [*before, *self.epochs], self.stop, self.ended_early, began)

    def one_epoch(self) -> None:
        """Train, validate, keep the best, print the line from which metrics are read."""
        self.watcher.set_mode("TRAIN")
        self.stage.set_mode("TRAIN")
        if self.step == 0:
            self.epoch_lr = self.stage.optimizer.next_lr
        with closing(self.stage.batches(len(self.epochs) + 1, self.step)) as batches:  # ends those who load them
            for batch in self.watcher.batches(batches, "TRAIN"):
                self._train_step(batch)
                if self.stop:
                    break
                if self.step < self.stage.steps:
                    self._save()
        if self.stop:
            self._save(at_once=True)
            if self.best or self.earlier:
                return
        self.watcher.set_mode("EVAL")
        self.stage.set_mode("EVAL")
        self._conclude(self.stage.validate(self.watcher))
        if not self.stop:
            self._save(at_once=len(self.epochs) == self.stage.epochs or self.ended_early is not None)

    def _train_step(self, batch: TrainingBatch) -> None:
        """Forward, backward, update; a GPU is waited for now and then only."""
        if batch.means is not None:
            self.watcher.see_images(batch.means)
        last = self.step + 1 == self.stage.steps
        with self.watcher.phase("Forward"):
            loss, logits = self.stage.forward(batch)
            self.sums = self.sums.to(loss.device)
            self.sums[0] += loss.detach() * len(batch.labels)
            self.sums[1] += (logits.detach().argmax(dim=1) == batch.labels).sum()
            self.sums[2] += len(batch.labels)
            looks = loss.device.type == "cpu" or last or self.step % STEPS_BETWEEN_LOOKS == 0
            wants = 1.0 if self.watcher.stop_requested else 0.0
            value, stops = self.stage.processes.sum([loss.item() if looks else 0.0, wants])
        if not math.isfinite(value):
            self.watcher.save_next_step()  # the debugger shall have the step at which it happened
            self.stage.forward(batch)
            self._give_up("training", value)
        with self.watcher.phase("Backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        with self.watcher.phase("Optimizer"):
            self.stage.optimizer.step()
            self.stage.updated()
        self.step += 1
        if stops or (self.stage.processes.count == 1 and self.watcher.stop_requested):
            self.stop = self.watcher.stop_requested or "Another process of the training was asked to stop."

    def _conclude(self, validation: Validation) -> None:
        """The epoch's figures; its network if it is this stage's best so far."""
        if not math.isfinite(validation.loss):
            self._give_up("validation", validation.loss)
        loss, right, images = self.stage.processes.sum(self.sums.tolist())
        figures = (loss / images, right / images, validation.loss, validation.accuracy)
        result = EpochResult(self.number, *figures, self.epoch_lr)
        self.epochs.append(result)
        self.step, self.sums = 0, torch.zeros_like(self.sums)
        if self.best is None or result.rank > self.best.figures.rank:
            self.best = Kept(result, self.stage.parts(), validation)
        with self.watcher.phase("Logging"):
            self.stage.processes.say(self._line(result))

    def _line(self, result: EpochResult) -> str:
        """What is printed of an epoch; of one that was cut short, nothing that a metric would be read from."""
        if self.stop:
            return f"Epoch {result.epoch} was cut short; validation accuracy {result.validation_accuracy:.4f}"
        return (
            f"epoch={result.epoch} train_loss={result.train_loss:.4f} train_accuracy={result.train_accuracy:.4f} "
            f"validation_loss={result.validation_loss:.4f} validation_accuracy={result.validation_accuracy:.4f} "
            f"best_validation_accuracy={self.kept.figures.validation_accuracy:.4f}"
        )

    def _give_up(self, which: str, value: float) -> None:
        lr = self.stage.optimizer.lr
        raise StepError(
            f"The {which} loss became {value} in epoch {self.number} at learning rate {lr:g}: "
            f"try a {self.stage.lr_name} of {lr / 10:g} or below."
        )

    def _save(self, *, at_once: bool = False) -> None:
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
            "under way": (self.step, self.epoch_lr, self.sums),
            "best": asdict(self.best) if self.best else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.stage.restore(state["stage"])
        self.stage.optimizer.restore(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.epochs = [EpochResult(**epoch) for epoch in state["epochs"]]
        self.step, self.epoch_lr, self.sums = state["under way"]
        if best := state["best"]:
            self.best = Kept(EpochResult(**best["figures"]), best["parts"], Validation(**best["validation"]))
