"""Watches a final training: tensors saved, steps timed, the machine sampled, rules judged, a report written.

    train.py --steps--> Monitor --+-- Debugger          losses, gradients, weights, activations (smdebug's format)
                                  +-- StepTimeline      where each step's time goes
                                  +-- OperatorProfile   torch.profiler over a few steps
                                  +-- Observation       the observer: a process that samples the machine and judges
Everything lands below the job's output directory. A monitor never costs a training: its parts say what went wrong with
them, and training goes on.
"""

import json
import math
import textwrap
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from classifier.data.training_data import TrainingData
from classifier.job.failures import say
from classifier.model.accuracy import wilson
from classifier.model.head import ClassifierHead
from classifier.training.debug_settings import DebugSettings
from classifier.training.head_training import EVALUATION_ROWS
from classifier.training.hyperparameters import Hyperparameters, hyperparameter_facts
from classifier.training.loop import Batch, Mode, Phase, Watcher
from classifier.training.results import TrainingResult, warnings_of
from watch.collect.observation import Observation, write_report
from watch.collect.operators import OperatorProfile, choose_steps
from watch.collect.smdebug_hook import Debugger, SaveIntervals
from watch.collect.timeline import StepTimeline
from watch.files import put

MEGABYTES: dict[Mode, int] = {"TRAIN": 32, "EVAL": 8}  # of tensors, about: all of them are packed into output.tar.gz
VERDICTS, NOT_JUDGED = {"NoIssuesFound": 0, "IssuesFound": 1}, -1  # as metrics


@dataclass(frozen=True)
class WatchedJob:
    """What a monitor has to know of the training it watches."""

    name: str
    node: str
    output_dir: Path
    data: TrainingData
    hyperparameters: Hyperparameters
    head_steps: int  # of an epoch of the head's training

    @property
    def steps_per_epoch(self) -> dict[Mode, int]:
        """Batches of one epoch."""
        return {"TRAIN": self.head_steps, "EVAL": math.ceil(len(self.data.validation) / EVALUATION_ROWS)}

    @property
    def fine_tuning_steps(self) -> int:
        """Batches of an epoch of the second stage; 0 where there is none."""
        found = self.hyperparameters
        return math.ceil(len(self.data.train) / found.finetune_batch_size) if found.fine_tunes else 0

    @property
    def training_steps(self) -> int:
        """Batches of the whole training."""
        found = self.hyperparameters
        return found.epochs * self.head_steps + found.finetune_epochs * self.fine_tuning_steps

    @property
    def last_stage(self) -> tuple[int, int]:
        """Its first batch, and the batches of an epoch."""
        if self.hyperparameters.fine_tunes:
            return self.hyperparameters.epochs * self.head_steps, self.fine_tuning_steps
        return 0, self.head_steps


class Monitor(Watcher):
    """A watcher that misses nothing. Use as a context manager around the training and what follows it."""

    def __init__(self, job: WatchedJob, settings: DebugSettings, *, head: ClassifierHead, criterion: nn.Module) -> None:
        self.job = job
        self.started = now()
        self._epochs_began: list[float] = []
        self._terminated: str | None = None
        profile_dir = job.output_dir / "profile"
        self.debugger = Debugger(job.output_dir / "tensors", intervals(job, settings, head))
        self.debugger.watch(head, criterion)
        self.timeline = StepTimeline(profile_dir, node=job.node)
        self.operators = operator_profile(profile_dir, job, settings.profiled_steps)
        settled: dict[str, Any] = {"sample_interval_ms": settings.sample_interval_ms, "node": job.node}
        settled["tensors_dir"] = str(self.debugger.out_dir)
        self.observation = Observation(job.output_dir, settings.rules, **settled)

    def __enter__(self) -> "Monitor":
        self.observation.__enter__()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._end("Failed", str(error), None)
            self.judge()
        self.observation.__exit__()

    @property
    def stopped_by_rule(self) -> str | None:
        """The sentence of the rule that asked to stop, if one did."""
        return self.observation.stop_requested

    @property
    def stop_requested(self) -> str | None:
        """Why the training shall end, if it shall."""
        return self._terminated or self.stopped_by_rule

    @stop_requested.setter
    def stop_requested(self, reason: str | None) -> None:
        self._terminated = reason

    def set_mode(self, mode: Mode) -> None:
        """Training and validation in turn; the first begins an epoch."""
        if mode == "TRAIN":
            self._epochs_began.append(time.monotonic())
        self.debugger.set_mode(mode)

    def batches(self, source: Iterable[Batch], mode: Mode) -> Iterator[Batch]:
        """Time each step and the wait for its batch; torch.profiler sees a few steps of the training."""
        for batch in self.timeline.batches(source, mode):
            if self.operators is None or mode == "EVAL":
                yield batch
                continue
            with self.operators.step():
                yield batch

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        return self.timeline.phase(name)

    def see_images(self, means: npt.NDArray[np.float32]) -> None:
        self.debugger.see_images(means)

    def see(self, labels: Tensor, logits: Tensor) -> None:
        self.debugger.see(labels, logits)

    def save_next_step(self) -> None:
        self.debugger.save_next_step()

    def training_ended(self, result: TrainingResult) -> None:
        """All steps are done: close what they wrote to, so that the rules can judge what is left."""
        self._end("Stopped" if result.stopped else "Completed", result.stopped, result)

    def judge(self) -> dict[str, str]:
        """The rules' verdicts, printed as metrics, and the report. Waits for the observer."""
        verdicts = self.observation.finish()
        if verdicts:
            say(" ".join(f"rule_{name}={VERDICTS.get(status, NOT_JUDGED)}" for name, status in verdicts.items()))
        write_report(self.job.output_dir)
        return verdicts

    def _end(self, outcome: str, reason: str | None, result: TrainingResult | None) -> None:
        self.debugger.close()
        self.timeline.close()
        if self.operators:
            self.operators.close()
        write_history(self.job.output_dir / "history.json", self._history(outcome, reason, result))

    def _history(self, outcome: str, reason: str | None, result: TrainingResult | None) -> dict[str, Any]:
        """What the report tells of the training as a whole."""
        ends = [*self._epochs_began[1:], time.monotonic()]  # one too many where no epoch was left to be done
        seconds = [round(end - began, 3) for began, end in zip(self._epochs_began, ends, strict=False)]
        epochs = [asdict(epoch) for epoch in result.epochs] if result else []
        unseen = [None] * (len(epochs) - len(seconds))  # before the checkpoint from which it went on
        return {
            "schema_version": 2,
            "job_name": self.job.name,
            "started": self.started,
            "ended": now(),
            "outcome": outcome,
            "reason": reason,
            "ended_early": result.ended_early if result else None,
            "warnings": warnings_of(self.job.data, result) if result else [],
            "hyperparameters": self.job.hyperparameters.to_dict(),
            "best_epoch": result.kept.figures.epoch if result else None,
            "fine_tuning_from_epoch": result.second_stage_from if result else None,
            "epochs": [{**epoch, "seconds": took} for epoch, took in zip(epochs, [*unseen, *seconds], strict=False)],
            "debugger_trouble": self.debugger.failure,
            "backbone": self.job.data.manifest["backbone"]["name"],
            "figures": figures(self.job, result),
            "facts": {
                "Backbone": self.job.data.manifest["backbone"]["name"],
                **hyperparameter_facts(self.job.hyperparameters.to_dict()),
                "Class names": textwrap.shorten(", ".join(self.job.data.classes), 500, placeholder=" …"),
                "Started": self.started,
            },
        }


def figures(job: WatchedJob, result: TrainingResult | None) -> dict[str, str]:
    """Return the report's headline figures; of the accuracy, which the epoch was chosen by, with the 95 % interval."""
    validation, found = len(job.data.validation), dict[str, str]()
    if result:
        accuracy = result.kept.figures.validation_accuracy
        low, high = wilson(accuracy, validation)
        found["Validation accuracy (selected on)"] = f"{accuracy:.1%} (95 %: {low:.1%} to {high:.1%})"
        found["Kept epoch"] = f"{result.kept.figures.epoch} of {len(result.epochs)}"
    images = {"Train images": f"{len(job.data.train):,}", "Validation images": f"{validation:,}"}
    return {**found, **images, "Classes": f"{len(job.data.classes):,}"}


def intervals(job: WatchedJob, settings: DebugSettings, head: ClassifierHead) -> Any:
    """When losses and tensors are saved."""
    found, epochs = job.hyperparameters, job.hyperparameters.all_epochs
    steps: dict[Mode, int] = {"TRAIN": job.training_steps, "EVAL": epochs * job.steps_per_epoch["EVAL"]}
    train_rows = max(found.batch_size, found.finetune_batch_size if found.fine_tunes else 0)
    rows: dict[Mode, int] = {"TRAIN": train_rows, "EVAL": min(len(job.data.validation), EVALUATION_ROWS)}
    return save_intervals(head, settings.interval(job.training_steps), steps=steps, rows=rows, epochs=epochs)


def save_intervals(
    head: ClassifierHead, asked: int, *, steps: dict[Mode, int], rows: dict[Mode, int], epochs: int
) -> SaveIntervals:
    """Losses as often as asked for and once per validation; tensors as often if that is affordable.

    `steps` are those of the whole training, `rows` those of one batch.
    """
    parameters = sum(parameter.numel() for parameter in head.parameters())
    activations = 2 * head.members * head.hidden_units  # per row: before and after the ReLU
    values = {"TRAIN": 2 * parameters, "EVAL": parameters}  # gradients exist in training only
    losses: dict[Mode, int] = {"TRAIN": asked, "EVAL": steps["EVAL"] // epochs}
    tensors = dict(losses)
    for mode, interval in losses.items():
        megabytes_per_save = 4 * (values[mode] + rows[mode] * activations) / 1e6  # float32
        affordable = math.ceil(steps[mode] * megabytes_per_save / MEGABYTES[mode])
        tensors[mode] = interval * math.ceil(max(1, affordable / interval))  # a multiple, so that losses are there too
    return SaveIntervals(losses, tensors)


def operator_profile(profile_dir: Path, job: WatchedJob, steps: int) -> OperatorProfile | None:
    """torch.profiler over at most so many steps of the last stage; None where it is off or the training too short."""
    first, per_epoch = job.last_stage
    chosen = choose_steps(job.training_steps - first, per_epoch=per_epoch)
    if chosen is None or not steps:
        return None
    return OperatorProfile(profile_dir, first + chosen[0], min(steps, chosen[1]))


def write_history(path: Path, document: dict[str, Any]) -> None:
    """Whole or not at all; losses that are not finite stay as they are. A full disk is said, not raised."""
    try:
        put(path, json.dumps(document, ensure_ascii=False))
    except OSError as error:
        say(f"{path.name} could not be written: {error}")


def now() -> str:
    """The time, as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
