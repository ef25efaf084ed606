"""The training loop: epochs of a stage, a validation after each, the last one kept.

A training is one stage or two: the head on embeddings (head_training.py), then the network on images (fine_tuning.py).
"""

import math
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from classifier.job.failures import StepError, say
from classifier.training.job import Checkpoint, Processes
from classifier.training.optimizer import AdamW
from classifier.training.results import EpochResult, Kept, TrainingResult, Validation

Mode = Literal["TRAIN", "EVAL"]
Phase = Literal["Forward", "Backward", "Optimizer", "Logging", "Checkpoint"]
Batch = TypeVar("Batch")
STEPS_BETWEEN_LOOKS = 50  # at a GPU's loss: each look waits for all that the GPU has been given


class Watcher:
    """Sees a training happen, and may ask it to stop. This one looks away; trials have it."""

    stop_requested: str | None = None  # a sentence that says why

    def batches(self, source: Iterable[Batch], mode: Mode) -> Iterator[Batch]:
        """The batches of the source, each handed out within a step of its own."""
        return iter(source)

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        """Around a part of a step."""
        return nullcontext()

    def set_mode(self, mode: Mode) -> None: ...  # of the coming steps
    # A batch of the training, before its forward pass: (B, 3), each image's mean per channel, normalised.
    def see_images(self, means: npt.NDArray[np.float32]) -> None: ...
    # A batch of the validation, before its loss is computed: (rows,) int64 and (rows, C) float32.
    def see(self, labels: Tensor, logits: Tensor) -> None: ...
    def save_next_step(self) -> None: ...  # keep it whole, since training will end with it


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
    modules: dict[str, nn.Module]  # what coming steps depend on, besides the optimizer and torch's random numbers
    deployed: dict[str, nn.Module]  # averages of the weights, which are validated and kept: head, backbone if it learns

    # An epoch's batches from a step on, drawn from (seed, epoch) alone.
    def batches(self, epoch: int, first_step: int) -> Generator[TrainingBatch, None, None]: ...
    def forward(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]: ...  # mean loss, a scalar, and logits (B, C)
    def updated(self) -> None: ...  # the optimizer has made its step
    def set_mode(self, mode: Mode) -> None: ...  # of the coming steps
    def validate(self, watcher: Watcher) -> Validation: ...  # on the whole split, in evaluation mode


def train(
    stage: Stage,
    *,
    watcher: Watcher | None = None,
    checkpoint: Checkpoint | None = None,
    earlier: TrainingResult | None = None,
    patience: int = 0,
) -> TrainingResult:
    """Train, print one line per epoch, and keep what has been learned in the end.

    Args:
        watcher: When it asks to stop, training ends with the current step; an unfinished epoch counts only where there
            is no other.
        checkpoint: Where progress is kept, and from which an interrupted training goes on.
        earlier: The stage before; its epochs are counted, and what it learned is kept if it is better.
        patience: Training ends after so many epochs of this stage without a lower selection loss; 0 never ends it.
    """
    training = Training(stage, watcher or Watcher(), checkpoint, earlier, patience)
    training.resume()
    while len(training.epochs) < stage.epochs and not training.stopped and not training.ended_early:
        training.one_epoch()
    if training.ended_early:
        stage.processes.say(training.ended_early)
    before = earlier.epochs if earlier else []
    began = len(before) + 1 if before and training.epochs else None
    return TrainingResult(training.kept, [*before, *training.epochs], training.stopped, training.ended_early, began)


@dataclass
class Training:
    """One stage's training: what changes from step to step."""

    stage: Stage
    watcher: Watcher
    checkpoint: Checkpoint | None
    earlier: TrainingResult | None
    patience: int
    epochs: list[EpochResult] = field(default_factory=list)  # of this stage
    last: Kept | None = None  # of this stage
    stopped: str | None = None
    # Of the epoch that is under way: steps so far, rate of the first one, and sums of loss, right answers and images.
    step: int = 0
    epoch_lr: float = 0.0
    sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    @property
    def number(self) -> int:
        """Of the epoch that is under way, from 1, counted through all stages."""
        return len(self.epochs) + 1 + (len(self.earlier.epochs) if self.earlier else 0)

    @property
    def kept(self) -> Kept:
        """Of this stage and the one before."""
        if self.earlier and not (self.last and self.last.better_than(self.earlier.kept)):
            return self.earlier.kept
        assert self.last is not None
        return self.last

    @property
    def ended_early(self) -> str | None:
        """Why the epochs that are left are not worth their time, if they are not."""
        if not self.patience or not self.epochs or len(self.epochs) == self.stage.epochs or self.step or self.stopped:
            return None
        best = min(self.epochs, key=lambda epoch: epoch.selection_log_loss).epoch
        waited = self.number - 1 - best
        if waited < self.patience:
            return None
        return (
            f"Training ended after {len(self.epochs)} of {self.stage.epochs} epochs: none of the last {waited} was "
            f"better than epoch {best} (patience {self.patience})."
        )

    def one_epoch(self) -> None:
        """Train, validate, print the line from which metrics are read."""
        self.set_mode("TRAIN")
        if not self.step:
            self.epoch_lr = self.stage.optimizer.next_lr
        with closing(self.stage.batches(len(self.epochs) + 1, self.step)) as batches:  # ends those who load them
            for batch in self.watcher.batches(batches, "TRAIN"):
                self.train_step(batch)
                if self.stopped:
                    break
                self.save()
        if self.stopped:
            self.save(at_once=True)
            if self.last or self.earlier:
                return
        self.set_mode("EVAL")
        self.conclude(self.stage.validate(self.watcher))
        if not self.stopped:
            self.save(at_once=len(self.epochs) == self.stage.epochs or self.ended_early is not None)

    def set_mode(self, mode: Mode) -> None:
        self.watcher.set_mode(mode)
        self.stage.set_mode(mode)

    def train_step(self, batch: TrainingBatch) -> None:
        """Forward, backward, update; a GPU is waited for now and then only."""
        stage, watcher = self.stage, self.watcher
        if batch.means is not None:
            watcher.see_images(batch.means)
        with watcher.phase("Forward"):
            loss, logits = stage.forward(batch)
            self.sums = self.sums.to(loss.device)
            self.sums[0] += loss.detach() * len(batch.labels)
            self.sums[1] += (logits.detach().argmax(dim=1) == batch.labels).sum()
            self.sums[2] += len(batch.labels)
            looks = loss.device.type == "cpu" or self.step % STEPS_BETWEEN_LOOKS == 0 or self.step + 1 == stage.steps
            value, stops = stage.processes.sum([loss.item() if looks else 0.0, float(bool(watcher.stop_requested))])
        if not math.isfinite(value):
            watcher.save_next_step()  # the debugger shall have the step at which it happened
            stage.forward(batch)
            raise self.diverged("training", value)
        with watcher.phase("Backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        with watcher.phase("Optimizer"):
            stage.optimizer.step()
            stage.updated()
        self.step += 1
        if stops or (stage.processes.count == 1 and watcher.stop_requested):
            self.stopped = watcher.stop_requested or "Another process of the training was asked to stop."

    def conclude(self, validation: Validation) -> None:
        """The epoch's figures and its network."""
        if not math.isfinite(validation.loss):
            raise self.diverged("validation", validation.loss)
        loss, right, images = self.stage.processes.sum(self.sums.tolist())
        figures = (loss / images, right / images, validation.loss, validation.accuracy, self.epoch_lr)
        selection = validation.selection
        result = EpochResult(self.number, *figures, selection.accuracy, selection.calibrated_log_loss)
        self.epochs.append(result)
        self.step, self.sums = 0, torch.zeros_like(self.sums)
        parts = {
            part: {name: tensor.cpu().clone() for name, tensor in module.state_dict().items()}
            for part, module in self.stage.deployed.items()
        }
        self.last = Kept(result, parts, validation)
        line = (
            f"epoch={result.epoch} train_loss={result.train_loss:.4f} train_accuracy={result.train_accuracy:.4f} "
            f"validation_loss={result.validation_loss:.4f} validation_accuracy={result.validation_accuracy:.4f} "
            f"selection_accuracy={result.selection_accuracy:.4f} selection_log_loss={result.selection_log_loss:.4f}"
        )
        if self.stopped:  # nothing that a metric would be read from
            line = f"Epoch {result.epoch} was cut short; validation accuracy {result.validation_accuracy:.4f}"
        with self.watcher.phase("Logging"):
            self.stage.processes.say(line)

    def diverged(self, which: str, value: float) -> StepError:
        lr = self.stage.optimizer.lr
        return StepError(
            f"The {which} loss became {value} in epoch {self.number} at learning rate {lr:g}: "
            f"try a {self.stage.lr_name} of {lr / 10:g} or below."
        )

    def save(self, *, at_once: bool = False) -> None:
        """Write all that the coming steps depend on and what is kept of the past ones, if it is time."""
        if self.checkpoint and (at_once or time.monotonic() >= self.checkpoint.due_at):
            with self.watcher.phase("Checkpoint"):
                modules = {name: module.state_dict() for name, module in self.stage.modules.items()}
                progress = {name: getattr(self, name) for name in ("epochs", "last", "step", "epoch_lr", "sums")}
                optimizer, random = self.stage.optimizer.state(), torch.get_rng_state()
                self.checkpoint.save(
                    {"modules": modules, "optimizer": optimizer, "random": random, "progress": progress}
                )

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one of this training."""
        state = self.stage.processes.gather(self.checkpoint.load() if self.checkpoint else None)[0]
        if not state:
            return
        for name, module in self.stage.modules.items():
            module.load_state_dict(state["modules"][name])
        self.stage.optimizer.restore(state["optimizer"])
        torch.set_rng_state(state["random"])
        vars(self).update(state["progress"])
        if self.checkpoint and len(self.epochs) < self.stage.epochs:
            steps = f" and {self.step} steps" if self.step else ""
            say(f"Going on after epoch {self.number - 1}{steps}, from the checkpoint {self.checkpoint.file}")
