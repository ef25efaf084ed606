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
    NotNegative,
    Patterns,
    Percent,
    Positive,
    TensorRule,
    Trial,
    Whole,
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
    def window(self) -> int:
        return max(5, len(self.train) // 10)

    @property
    def start(self) -> float:
        """The median of the first tenth of the training, or its first step, whichever is lower."""
        return min(self.first, float(np.median(self.train[: self.window])))

    @property
    def end(self) -> float:
        """The median of the last tenth of the training; infinite where that holds NaN."""
        found = float(np.median(self.train[-self.window :]))
        return math.inf if math.isnan(found) else found

    @property
    def hardly_fell(self) -> bool:
        """Whether the training has not taken away a tenth of the loss, at its end."""
        return not self.end < self.start - 0.1 * abs(self.start)

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
            return f"the loss rose {highest / self.first:,.3g} times"
        return f"the loss went from {self.start:.3g} to {self.end:.3g}"


@dataclass(kw_only=True)
class LossesRule(TensorRule):
    """A rule on the course of the losses."""

    needs = "fewer than eight training losses were saved"

    losses: Losses = state(Losses)

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        loss = self.losses.add(trial, step, mode)
        if loss is not None and mode.name in ("TRAIN", "EVAL"):
            self.plot("Loss", "loss", {}, "step of the mode").add(mode.name, step, loss)
        return None


@dataclass(kw_only=True)
class LossNotFinite(LossesRule):
    """Fires at a step whose loss is infinite or not a number: a rule of ours."""

    severity, cause = "fatal", "exploded"
    needs = "no losses were saved"

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        super().evaluate(trial, step, mode)
        if not self.losses.phases:
            return None
        self.judged += 1
        loss = self.losses.phases[-1][1][-1]
        words = "not a number" if math.isnan(loss) else "infinite"
        return None if math.isfinite(loss) else f"The {mode.name} loss is {words} at step {step}."


@dataclass(kw_only=True)
class LossExploding(LossesRule):
    """Fires at the end if the training ended with `ratio` times the loss of its first step or more: a rule of ours."""

    severity, cause = "fatal", "exploded"

    ratio: Positive = 3.0

    def conclude(self) -> str | None:
        if len(self.losses.train) < 8:
            return None
        self.judged += 1
        first, end = self.losses.first, self.losses.end
        if not (first > 0 and end >= self.ratio * first):
            return None
        return f"The loss was {first:.3g} at first and {end:.3g} at the end, and {max(self.losses.train):.3g} at worst."


@dataclass(kw_only=True)
class LossNotDecreasing(LossesRule):
    """Fires at the end if the training has not taken away `diff_percent` per cent of its first loss, or ended with
    `increase_threshold_percent` per cent more.

    semantics aws: fires at a step where a loss, against the last one that was saved at least `num_steps` steps before,
    has decreased by less than `diff_percent` per cent, or increased by more than `increase_threshold_percent`; that is
    the noise of single batches. It looks once in `num_steps` steps. Without `mode` the losses of EVAL are looked at;
    those of TRAIN as long as there are none of EVAL; else those of GLOBAL.

    AWS's guide: what the two percentages mean together is
    our reading of it.
    """

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
        if self.semantics == "watch":
            return super().evaluate(trial, step, mode)
        own = ("losses",) if self.use_losses_collection else ()
        collections = (*own, *(self.collection_names or ()))
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
        if step < self.compared.get(name, saved[0][0]) + self.num_steps:
            return None
        while len(saved) > 1 and saved[1][0] <= step - self.num_steps:
            saved.pop(0)
        self.compared[name] = step
        self.judged += 1
        old, steps = saved[0][1], f"from step {saved[0][0]} to step {step}"
        if not math.isfinite(loss):
            return f"{name} became {loss} {steps}."
        decrease = 100 * (old - loss) / abs(old) if old and math.isfinite(old) else math.nan
        if 0 <= decrease < self.diff_percent:
            return f"{name} decreased by {decrease:.3g} % {steps}, less than diff_percent ({self.diff_percent:g} %)."
        if -decrease > self.increase_threshold_percent:
            limit = f"increase_threshold_percent ({self.increase_threshold_percent:g} %)"
            return f"{name} increased by {-decrease:.3g} % {steps}, more than {limit}."
        return None

    def conclude(self) -> str | None:
        if self.semantics == "aws" or len(self.losses.train) < 8:
            return None
        self.judged += 1
        return f"All in all, {self.losses.course}." if self.losses.hardly_fell else None


@dataclass(kw_only=True)
class Overfit(LossesRule):
    """Fires at the end if the validation loss is three times the training loss, and further above it than a quarter of
    the loss at first (half, where it still falls); or a tenth, where it rose from its best by three times
    `ratio_threshold`. Most good models have some gap.

    semantics aws: fires at a validation step where (mean validation loss - mean training loss) / mean training loss has
    been above `ratio_threshold` for `patience` validation steps on end. The means are over the saved losses since the
    last change of the mode. Validation steps count from training step `start_step` on.

    AWS's guide: it does not say over which steps the means are.
    """

    cause = "overfitting"
    needs = "no losses were saved of both training and validation, or of fewer than three validations"

    tensor_regex: Patterns | None = None
    start_step: Whole = 0
    patience: Count = 1
    ratio_threshold: NotNegative = 0.1

    exceeded: int = state(int)  # how many validation steps on end

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        found = self.losses.add(trial, step, mode, self.tensor_regex)
        epochs = self.losses.epochs() if found is not None and mode.name == "EVAL" else []
        if not epochs or self.losses.steps[-1] < self.start_step:
            return None
        train, held = epochs[-1]
        plot = self.plot("Mean losses of training and validation", "loss", {})
        plot.add("training", self.losses.steps[-1], train)
        plot.add("validation", self.losses.steps[-1], held)
        if self.semantics == "watch" or not train > 0:
            return None
        self.judged += 1
        self.exceeded = self.exceeded + 1 if (held - train) / train > self.ratio_threshold else 0
        if self.exceeded < self.patience:
            return None
        limit = f"(ratio_threshold {100 * self.ratio_threshold:g} %)"
        above = f"Validation loss is {100 * (held - train) / train:.3g} % above training loss"
        return f"{above} at step {self.losses.steps[-1]} {limit}."

    def conclude(self) -> str | None:
        epochs = self.losses.epochs()
        if self.semantics == "aws" or len(epochs) < 3:
            return None
        self.judged += 1
        validation = [held for _, held in epochs]
        best, last = min(validation), min(validation[-2:])
        train, learned = self.losses.end, 0.9 * self.losses.start
        gap, at = (last - train) / self.losses.start, validation.index(best) + 1
        rose = last > (1 + 3 * self.ratio_threshold) * best and at <= len(epochs) - 3 and gap > 0.1
        falls = len(epochs) > 3 and last < 0.98 * min(validation[:-2])
        if not (learned > train > 0 and (rose or (gap > (0.5 if falls else 0.25) and last > 3 * train))):
            return None
        return f"The training loss fell to {train:.3g}, the validation loss is {last:.3g} after {best:.3g} at best."


@dataclass(kw_only=True)
class Overtraining(LossesRule):
    """Fires at the end if, of at least twenty validations, the last quarter was no better than the one before by a
    hundredth of the loss at first, while the training loss was below two hundredths of it: nothing is left to learn.

    semantics aws: fires at a step where the training loss has found no new optimum for `patience_train` saved steps,
    and the validation loss none for `patience_validation`. An optimum is new if it is lower than the last by at least
    `delta`. AWS does not say how the two losses go together; both have to stand still.
    """

    severity, cause = "hint", "overtrained"
    needs = "fewer than twenty validations were saved, or losses for less than the patience"

    patience_train: Count = 5
    patience_validation: Count = 10
    delta: NotNegative = 0.01

    optima: dict[str, tuple[float, int]] = state(dict)  # mode -> lowest loss, saved steps since

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        super().evaluate(trial, step, mode)
        if self.semantics == "watch" or not self.losses.phases or mode.name not in ("TRAIN", "EVAL"):
            return None
        loss = self.losses.phases[-1][1][-1]
        lowest, since = self.optima.get(mode.name, (math.inf, 0))
        better = loss < lowest and lowest - loss >= self.delta
        self.optima[mode.name] = (loss, 0) if better else (lowest, since + 1)
        train, held = (self.optima.get(name, (0.0, 0))[1] for name in ("TRAIN", "EVAL"))
        self.judged += train >= self.patience_train or held >= self.patience_validation
        if train < self.patience_train or held < self.patience_validation:
            return None
        patience = f"(patience {self.patience_train} and {self.patience_validation})"
        both = f"the training loss has not improved by {self.delta:g} for {train} saved steps"
        return f"At step {step} {both}, nor the validation loss for {held} {patience}."

    def conclude(self) -> str | None:
        validation, train = [held for _, held in self.losses.epochs()], self.losses
        if self.semantics == "aws" or len(validation) < 20:
            return None
        self.judged += 1
        quarter = len(validation) // 4
        before, last = (float(np.median(part)) for part in (validation[-2 * quarter : -quarter], validation[-quarter:]))
        known = np.median(train.train[-len(train.train) // 3 :]) < 0.02 * train.start
        if not known or last < before - 0.01 * train.start:
            return None
        first = f"validation loss was {before:.3g} in the third quarter and {last:.3g} in the last"
        return f"The {first}, while the training loss was near 0, at {train.end:.3g}."


@dataclass(kw_only=True)
class StalledTraining(TensorRule):
    """Fires when no tensor has been saved for more than `threshold` seconds; once for each time it stalls.

    With `stop_training_on_fire` the training is then asked to stop, as with the action stop; one that hangs for good
    does not hear it.
    """

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
        waited, stalled = self.now - (self.saved or self.now), self.stalled
        self.saved, self.stalled = self.now, False
        return None if stalled else self._judge(waited)

    def idle(self, now: float) -> str | None:
        if not self.saved or self.stalled:
            return None
        sentence = self._judge(now - self.saved)
        self.stalled = bool(sentence)
        return sentence

    def _judge(self, waited: float) -> str | None:
        if waited <= self.threshold:
            return None
        return f"No tensor was saved for {waited:.0f} seconds (threshold {self.threshold:g} seconds)."


@dataclass(kw_only=True)
class StalledTrainingRule(StalledTraining):
    """StalledTraining by the name that AWS's documentation has for it."""
