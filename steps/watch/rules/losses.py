"""Rules on losses: not finite, exploding, standing still, better on what was learned by heart, or no longer coming.

AWS's rules are those of its guide, "List of Debugger built-in rules", with the defaults documented there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from watch.rules.base import (
    Count,
    Mode,
    Names,
    Nat,
    NotNegative,
    Patterns,
    Percent,
    Positive,
    TensorRule,
    Trial,
    figure,
    state,
)

PREFERENCE = ("EVAL", "TRAIN", "GLOBAL")


@dataclass
class Losses:
    """The losses of a run: of each saved training step, and the means of each validation and of the training since."""

    train: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    phases: list[tuple[str, list[float]]] = field(default_factory=list)  # mode and losses, since it last changed

    def add(self, trial: Trial, step: int, mode: Mode, regex: Sequence[str] | None = None) -> float | None:
        """Take a step's loss, the mean of its scalar losses, and return it; None where it has none."""
        named = {"regex": list(regex)} if regex else {"collection": "losses"}
        values = [trial.tensor(name).value(step, mode) for name in trial.tensor_names(step=step, mode=mode, **named)]
        scalars = [float(value.reshape(())) for value in values if value.size == 1]
        if not scalars:
            return None
        loss = math.fsum(scalars) / len(scalars)
        if not self.phases or self.phases[-1][0] != mode.name:
            self.phases.append((mode.name, []))
        self.phases[-1][1].append(loss)
        if mode.name == "TRAIN":
            self.train.append(loss)
            self.steps.append(step)
        return loss

    def epochs(self) -> list[tuple[float, float]]:
        """(mean training loss, mean validation loss) of each validation, and of the training just before it."""
        pairs = zip(self.phases, self.phases[1:], strict=False)
        both = [(train, held) for (mode, train), (next_mode, held) in pairs if (mode, next_mode) == ("TRAIN", "EVAL")]
        return [(float(np.mean(train)), float(np.mean(held))) for train, held in both]

    @property
    def first(self) -> float:
        return self.train[0] if self.train else math.nan

    @property
    def start(self) -> float:
        """The median of the first tenth of the training, or its first step, whichever is lower."""
        return min(self.first, float(np.median(self.train[: max(5, len(self.train) // 10)])))

    @property
    def end(self) -> float:
        """The median of the last tenth of the training; infinite where that holds NaN."""
        found = float(np.median(self.train[-max(5, len(self.train) // 10) :]))
        return math.inf if math.isnan(found) else found

    @property
    def hardly_fell(self) -> bool:
        """Whether the training has not taken away a tenth of the loss, at its end."""
        return not self.train or not self.end < self.start - 0.1 * abs(self.start)

    @property
    def learned_all(self) -> bool:
        """Whether next to nothing of the loss is left at the end: whatever the steps were, they led there."""
        return self.end < 0.05 * abs(self.start)

    @property
    def broke_at_once(self) -> bool:
        """Whether the loss became infinite or not a number without having risen: an input or a target is to blame."""
        broken = next((at for at, loss in enumerate(self.train) if not math.isfinite(loss)), None)
        return broken == 0 or (broken is not None and max(self.train[:broken]) <= 1.5 * abs(self.first))

    @property
    def learned_late(self) -> bool:
        """Whether the loss was above four fifths of its start for half of the training."""
        return not float(np.median(self.train)) < self.start - 0.2 * abs(self.start)

    @property
    def course(self) -> str:
        """Such as "the loss rose 12 times" or "the loss went from 2.3 to 2.29"."""
        highest = max((loss for loss in self.train if math.isfinite(loss)), default=math.nan)
        if highest > 1.5 * self.first > 0:
            return f"the loss rose {figure(highest / self.first)} times"
        return f"the loss went from {self.start:.3g} to {self.end:.3g}"


class LossesRule(TensorRule):
    """A rule on the course of the losses."""

    needs = "fewer than eight training losses were saved"
    losses: Losses = state(Losses)

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        loss = self.losses.add(trial, step, mode)
        if loss is not None and mode.name in ("TRAIN", "EVAL"):
            self.plot("Loss", "loss", x="step of the mode").add(mode.name, step, loss)
        return None


class LossNotFinite(LossesRule):
    """Fires at a step whose loss is infinite or not a number: a rule of ours."""

    severity, cause = "fatal", "exploded"
    needs = "no losses were saved"

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        super().evaluate(trial, step, mode)
        loss = self.losses.phases[-1][1][-1] if self.counts(bool(self.losses.phases)) else 0.0
        words = "not a number" if math.isnan(loss) else "infinite"
        return None if math.isfinite(loss) else f"The {mode.name} loss is {words} at step {step}."


class LossExploding(LossesRule):
    """Fires at the end if the training ended with `ratio` times the loss of its first step or more: a rule of ours."""

    severity, cause = "fatal", "exploded"
    ratio: Positive = 3.0

    def conclude(self) -> str | None:
        if not self.counts(len(self.losses.train) >= 8):
            return None
        first, end = self.losses.first, self.losses.end
        found = f"The loss was {first:.3g} at first and {end:.3g} at the end, and {max(self.losses.train):.3g}"
        return f"{found} at worst." if first > 0 and end >= self.ratio * first else None


class LossNotDecreasing(LossesRule):
    """Fires at the end if the training has not taken away a tenth of its first loss. AWS: once in `num_steps` steps,
    where a loss has, since so many steps, decreased by less than `diff_percent` per cent or increased by more than
    `increase_threshold_percent` (both together are our reading): the noise of batches. Without `mode`, losses of
    EVAL, of TRAIN while there are none, or of GLOBAL."""

    cause = "stalled"
    collection_names: Names | None = None
    tensor_regex: Patterns | None = None
    use_losses_collection: bool = True
    num_steps: Count = 10
    diff_percent: Percent = 0.1
    increase_threshold_percent: Percent = 5.0
    mode: Literal["EVAL", "TRAIN", "GLOBAL"] | None = None
    saved: dict[str, list[tuple[int, float]]] = state(dict)  # by mode and name
    compared: dict[str, int] = state(dict)  # step

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        if not self.aws:
            return super().evaluate(trial, step, mode)
        self.needs = "no loss of the mode that is looked at was saved num_steps steps after another"
        collections = (*("losses",)[: self.use_losses_collection], *(self.collection_names or ()))
        found = self.tensors(trial, step, mode, collections=collections, regex=self.tensor_regex or ())
        scalars = {f"{name} of mode {mode.name}": float(value.reshape(())) for name, value in found if value.size == 1}
        for name, loss in scalars.items():
            self.saved.setdefault(name, []).append((step, loss))
        modes = {name.rpartition(" ")[2] for name in self.saved}
        if mode.name != (str(self.mode or "") or next((one for one in PREFERENCE if one in modes), mode.name)):
            return None
        return next(filter(None, [self._compare(name, step, loss) for name, loss in scalars.items()]), None)

    def _compare(self, name: str, step: int, loss: float) -> str | None:
        saved = self.saved[name]
        if not self.counts(step >= self.compared.get(name, saved[0][0]) + self.num_steps):
            return None
        while len(saved) > 1 and saved[1][0] <= step - self.num_steps:
            saved.pop(0)
        self.compared[name] = step
        old, steps = saved[0][1], f"from step {saved[0][0]} to step {step}"
        if not math.isfinite(loss):
            return f"{name} became {loss} {steps}."
        decrease = 100 * (old - loss) / abs(old) if old and math.isfinite(old) else math.nan
        if 0 <= decrease < self.diff_percent:
            return f"{name} decreased by {decrease:.3g} % {steps}, less than diff_percent ({self.diff_percent:g} %)."
        limit = f"increase_threshold_percent ({self.increase_threshold_percent:g} %)"
        found = f"{name} increased by {-decrease:.3g} % {steps}, more than {limit}."
        return found if -decrease > self.increase_threshold_percent else None

    def conclude(self) -> str | None:
        enough = self.counts(not self.aws and len(self.losses.train) >= 8)
        return f"All in all, {self.losses.course}." if enough and self.losses.hardly_fell else None


class Overfit(LossesRule):
    """Fires at the end if the validation loss is three times the training loss and a quarter of the first loss above
    it (half, where it still falls); or a tenth, where it rose from its best by three times `ratio_threshold`. AWS:
    where it was above the training loss by a share of `ratio_threshold` for `patience` validation steps on end from
    training step `start_step` on, both means since the mode last changed (which AWS does not say); most good models
    have some gap."""

    cause = "overfitting"
    needs = "no losses were saved of both training and validation, or of fewer than three validations"
    tensor_regex: Patterns | None = None
    start_step: Nat = 0
    patience: Count = 1
    ratio_threshold: NotNegative = 0.1
    exceeded: int = state(int)  # how many validation steps on end

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        found = self.losses.add(trial, step, mode, self.tensor_regex)
        epochs = self.losses.epochs() if found is not None and mode.name == "EVAL" else []
        if not epochs or (at := self.losses.steps[-1]) < self.start_step:
            return None
        for name, loss in zip(("training", "validation"), epochs[-1], strict=True):
            self.plot("Mean losses of training and validation", "loss").add(name, at, loss)
        train, held = epochs[-1]
        if not self.counts(self.aws and train > 0):
            return None
        self.exceeded = self.exceeded + 1 if (held - train) / train > self.ratio_threshold else 0
        above = f"Validation loss is {100 * (held - train) / train:.3g} % above training loss"
        found_at = f"{above} at step {at} (ratio_threshold {100 * self.ratio_threshold:g} %)."
        return found_at if self.exceeded >= self.patience else None

    def conclude(self) -> str | None:
        validation = [held for _, held in self.losses.epochs()]
        if not self.counts(not self.aws and len(validation) >= 3):
            return None
        best, last, train, start = min(validation), min(validation[-2:]), self.losses.end, self.losses.start
        gap, at = (last - train) / start, validation.index(best) + 1
        rose = last > (1 + 3 * self.ratio_threshold) * best and at <= len(validation) - 3 and gap > 0.1
        found = f"The training loss fell to {train:.3g}, the validation loss is {last:.3g} after {best:.3g} at best."
        falls = len(validation) > 3 and last < 0.98 * min(validation[:-2])
        above = gap > (0.5 if falls else 0.25) and last > 3 * train
        return found if 0.9 * start > train > 0 and (rose or above) else None


class Overtraining(LossesRule):
    """Fires at the end if, of at least twenty validations, the last quarter was no better than the one before by a
    hundredth of the first loss, and the training loss below two hundredths of it. AWS: at a step where the training
    loss has not been lower by `delta` for `patience_train` saved steps, and (our reading) the validation loss for
    `patience_validation`."""

    severity, cause = "hint", "overtrained"
    needs = "fewer than twenty validations were saved, or losses for less than the patience"
    patience_train: Count = 5
    patience_validation: Count = 10
    delta: NotNegative = 0.01
    optima: dict[str, tuple[float, int]] = state(dict)  # mode -> lowest loss, saved steps since

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        super().evaluate(trial, step, mode)
        if not self.aws or not self.losses.phases or mode.name not in ("TRAIN", "EVAL"):
            return None
        loss = self.losses.phases[-1][1][-1]
        lowest, since = self.optima.get(mode.name, (math.inf, 0))
        better = loss < lowest and lowest - loss >= self.delta
        self.optima[mode.name] = (loss, 0) if better else (lowest, since + 1)
        train, held = (self.optima.get(name, (0.0, 0))[1] for name in ("TRAIN", "EVAL"))
        still = train >= self.patience_train, held >= self.patience_validation
        self.counts(any(still))
        found = f"At step {step} the training loss has not improved by {self.delta:g} for {train} saved steps, nor the"
        patience = f"(patience {self.patience_train} and {self.patience_validation})"
        return f"{found} validation loss for {held} {patience}." if all(still) else None

    def conclude(self) -> str | None:
        held, train = [loss for _, loss in self.losses.epochs()], self.losses.train
        if not self.counts(not self.aws and len(held) >= 20):
            return None
        quarter, start = len(held) // 4, self.losses.start
        before, last = (float(np.median(part)) for part in (held[-2 * quarter : -quarter], held[-quarter:]))
        found = f"The validation loss was {before:.3g} in the third quarter and {last:.3g} in the last, while the"
        learned = np.median(train[-len(train) // 3 :]) < 0.02 * start and not last < before - 0.01 * start
        return f"{found} training loss was near 0, at {self.losses.end:.3g}." if learned else None


class StalledTraining(TensorRule):
    """Fires once each time that no tensor has been saved for more than `threshold` seconds. With
    `stop_training_on_fire` the training is asked to stop, as with the action stop; one that hangs for good does not
    hear it."""

    cause = "stalled"
    needs = "no tensors were saved"
    threshold: Positive = 1800.0
    stop_training_on_fire: bool = False
    saved: float = state(float)  # epoch seconds of the newest step
    stalled: bool = state(bool)

    @property
    def wants_stop(self) -> bool:
        return self.stop_training_on_fire

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        self.judged += 1
        sentence = self.idle(self.now)
        self.saved, self.stalled = self.now, False
        return sentence

    def idle(self, now: float) -> str | None:
        waited = now - (self.saved or now)
        if self.stalled or waited <= self.threshold:
            return None
        self.stalled = True
        return f"No tensor was saved for {waited:.0f} seconds (threshold {self.threshold:g} seconds)."


class StalledTrainingRule(StalledTraining):
    """StalledTraining by the name that AWS's documentation has for it."""
