"""Rules on one figure of each of some tensors: not finite, zeros, variance, change, dead ReLUs, saturated units.

AWS's rules are those of its guide, "List of Debugger built-in rules", with the defaults documented there.
"""

import math
from collections import deque
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from watch.read.tensors import TensorUnavailable
from watch.rules.base import Array, Mode, Names, NotNegative, Patterns, Percent, TensorRule, Trial, Within, state

AboveZero = Annotated[float, Within(above=0, at_most=100)]  # per cent
Found = tuple[float, str | None] | None  # a tensor's figure, and the words after its name where that is beyond a limit
TANH_FLAT, SIGMOID_FLAT = 3.0, 6.0  # beyond these, 99 % of the slope is gone
UNSEEN = 5  # saved training steps without an answer, after which a unit counts as dead
RELU, SQUASHING = r"(?i)(^|[._])relu\w*_output", r"(?i)(tanh|sigmoid)\w*_input"


class FigureRule(TensorRule):
    """A rule on one figure of each of some tensors: fires at a step where it is beyond a limit. With our semantics it
    must have been so at `patience` saved steps on end: what passes by itself is no fault."""

    patience: ClassVar[int] = 3
    axis: ClassVar[tuple[str, ...]]  # title and unit of the plot, parameters that are limits
    runs: dict[str, int] = state(dict)  # saved steps on end with the figure beyond the limit, by mode and tensor

    def chosen(self, trial: Trial, step: int, mode: Mode) -> list[str]:
        """Names of the tensors that it looks at."""
        raise NotImplementedError

    def look(self, trial: Trial, name: str, step: int, mode: Mode) -> Found:
        """What it finds at one of them; None where that has no such figure."""
        raise NotImplementedError

    def needed(self, name: str) -> int:
        """How many saved steps on end a tensor's figure must be beyond a limit."""
        return 1 if self.aws else self.patience

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        sentences, [title, unit, *limits] = [], self.axis
        for name in self.chosen(trial, step, mode):
            found, key = self.look(trial, name, step, mode), f"{mode.name} {name}"
            if found is None:
                continue
            self.judged += 1
            if mode.name == "TRAIN":
                self.plot(title, unit, self.limits(*limits)).add(name, step, found[0])
            self.runs[key] = self.runs.get(key, 0) + 1 if found[1] else 0
            if self.runs[key] >= self.needed(name):
                sentences.append(f"{name} {found[1]} at step {step} of mode {mode.name}")
        others = f", and so do {len(sentences) - 1} other tensors" if len(sentences) > 1 else ""
        return f"{sentences[0]}{others}." if sentences else None


class ChosenTensors(FigureRule):
    """A rule on the tensors that are in one of `collection_names` or match one of `tensor_regex`."""

    needs = "no tensor of the chosen collections or names was saved"
    choice_required: ClassVar[bool] = True
    collection_names: Names | None = None
    tensor_regex: Patterns | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        chosen = self.collection_names or self.tensor_regex or not self.choice_required
        self.require(bool(chosen), "collection_names or tensor_regex must say which tensors to look at.")

    def chosen(self, trial: Trial, step: int, mode: Mode) -> list[str]:
        if not (self.collection_names or self.tensor_regex):
            return trial.tensor_names(step=step, mode=mode)
        return self.names(trial, step, mode, collections=self.collection_names or (), regex=self.tensor_regex or ())


class ExplodingTensor(ChosenTensors):
    """Fires at a step where a tensor (by default any) holds NaN or, without `only_nan`, infinite values; of one saved
    as reductions, its mean absolute value is looked at. Fatal where a weight or loss is not finite at its last
    saved step. Ours wants gradients to be so at three saved steps on end: a gradient scaler tries out what is too
    large."""

    cause = "exploded"
    needs = "no tensors were saved"
    choice_required = False
    axis = "The largest value of each tensor", "largest |value|"
    only_nan: bool = False
    broken: dict[str, bool] = state(dict)  # weights and losses: whether they were, when last saved

    def look(self, trial: Trial, name: str, step: int, mode: Mode) -> Found:
        try:
            value = trial.tensor(name).value(step, mode=mode)
        except TensorUnavailable:
            peak = trial.tensor(name).reduction_value(step, "mean", mode=mode, abs=True)
        else:
            peak = float(np.max(np.abs(value), initial=0)) if value.dtype.kind in "fc" else 0.0
        if not name.startswith("gradient/"):
            exploded = not math.isfinite(peak)
            self.broken[name] = exploded and name in self.names(trial, step, mode, collections=("losses", "weights"))
            self.severity = "fatal" if any(self.broken.values()) else "problem"
        infinite = "holds infinite values" if math.isinf(peak) and not self.only_nan else None
        return peak, "holds NaN" if math.isnan(peak) else infinite

    def needed(self, name: str) -> int:
        return super().needed(name) if name.startswith("gradient/") else 1


class AllZero(ChosenTensors):
    """Fires at a step where the share of zeros in a tensor reaches `threshold` per cent."""

    cause = "bad_initialisation"
    axis = "Zeros", "zeros (%)", "threshold"
    threshold: AboveZero = 100.0

    def look(self, trial: Trial, name: str, step: int, mode: Mode) -> Found:
        value = trial.tensor(name).value(step, mode=mode)
        zeros = float(100 * (1 - np.count_nonzero(value) / max(1, value.size)))
        words = f"consists to {zeros:.4g} % of zeros (threshold {self.threshold:g} %)"
        return (zeros, words if zeros >= self.threshold else None) if value.size else None


class TensorVariance(ChosenTensors):
    """Fires at a step where a tensor's variance is above `max_threshold` or below `min_threshold`, one of which must
    be given."""

    advice = "A variance far from the usual comes from a bad initialisation, or a learning rate that does not fit."
    axis = "Variance", "variance", "max_threshold", "min_threshold"
    max_threshold: NotNegative | None = None
    min_threshold: NotNegative | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.limits("max_threshold", "min_threshold")
        self.require(bool(given), "max_threshold or min_threshold must be given.")

    def look(self, trial: Trial, name: str, step: int, mode: Mode) -> Found:
        variance, words = trial.tensor(name).reduction_value(step, "variance", mode=mode), None
        if self.max_threshold is not None and variance > self.max_threshold:
            self.cause, words = "exploded", f"above max_threshold ({self.max_threshold:g})"
        elif self.min_threshold is not None and variance < self.min_threshold:
            words = f"below min_threshold ({self.min_threshold:g})"
        return variance, words and f"has a variance of {variance:.3g}, {words},"


class UnchangedTensor(ChosenTensors):
    """Fires at a step where a tensor is numpy.allclose to what it was at the last `num_steps` steps at which it was
    saved in the same mode, this one included."""

    advice = "What does not change does not learn: is it given to the optimizer, and the learning rate not 0?"
    needs = "no tensor of the chosen collections or names was saved at num_steps steps"
    axis = "Change since the last saved step", "largest |change|"
    patience = 1
    num_steps: Annotated[int, Within(at_least=2, whole=True)] = 3
    rtol: NotNegative = 1e-5
    atol: NotNegative = 1e-8
    equal_nan: bool = False
    earlier: dict[tuple[str, str], deque[Array]] = state(dict)

    def look(self, trial: Trial, name: str, step: int, mode: Mode) -> Found:
        value = trial.tensor(name).value(step, mode=mode)
        kept = self.earlier.setdefault((mode.name, name), deque(maxlen=self.num_steps - 1))
        earlier = list(kept)
        kept.append(value)
        if len(earlier) < self.num_steps - 1 or not value.size:
            return None
        close: dict[str, Any] = {"rtol": self.rtol, "atol": self.atol, "equal_nan": self.equal_nan}
        same = all(old.shape == value.shape and np.allclose(value, old, **close) for old in earlier)
        change = float(np.abs(value - earlier[-1]).max()) if earlier[-1].shape == value.shape else 0.0
        return change, f"has not changed in {self.num_steps} saved steps," if same else None


class DeadRelu(FigureRule):
    """Fires where more than `dead_layer` per cent of a layer's ReLUs have answered to no sample of five saved training
    steps. Layers are found by type, or names with relu in them; leaky ReLUs are none. AWS: at a step where more
    than `threshold_layer` per cent answer to less than `threshold_inactivity` per cent of a batch; by
    `tensor_regex`."""

    cause = "dead_relus"
    needs = "no outputs of ReLUs were saved, or at fewer than five training steps"
    tensor_regex: Patterns = (".*relu_output",)
    threshold_inactivity: AboveZero = 1.0
    threshold_layer: Percent = 50.0
    dead_layer: Percent = 75.0  # in place of threshold_layer, with our semantics
    silent: dict[str, npt.NDArray[np.int64]] = state(dict)  # saved steps on end without an answer, of each unit

    @property
    def axis(self) -> tuple[str, ...]:  # type: ignore[override]
        return "Dead ReLUs", "dead (%)", "threshold_layer" if self.aws else "dead_layer"

    def chosen(self, trial: Trial, step: int, mode: Mode) -> list[str]:
        if self.aws:
            return self.names(trial, step, mode, regex=self.tensor_regex)
        names = self.names(trial, step, mode, collections=("relu_output",), regex=(*self.tensor_regex, RELU))
        return names if mode.name == "TRAIN" else []

    def look(self, trial: Trial, name: str, step: int, mode: Mode) -> Found:
        output = by_unit(trial.tensor(name).value(step, mode=mode))
        silent = self.silent.get(name, np.zeros(output.shape[1], np.int64))
        if self.aws and output.size:
            dead = 100 * np.mean(~(output <= 0), axis=0) < self.threshold_inactivity
        elif not output.size or not (output >= 0).all() or len(silent) != output.shape[1]:
            return None
        else:
            self.silent[name] = np.where((output > 0).any(axis=0), 0, silent + 1)
            dead = self.silent[name] >= UNSEEN
        percent, [(limit, value)] = float(100 * np.mean(dead)), self.limits(self.axis[2]).items()
        words = f"has {percent:.4g} % of dead ReLUs ({limit} {value:g} %)"
        return percent, words if value and percent > value else None


class SaturatedActivation(FigureRule):
    """Fires where more than `threshold_layer` per cent of a layer's inputs are where tanh or sigmoid is flat, beyond 3
    and 6. Layers are found by type, or names with tanh or sigmoid. AWS: where so many nodes have inputs within the
    limits, which are where float32 ends, for less than `threshold_inactivity` per cent of the samples."""

    cause = "saturated"
    needs = "no inputs of tanh or sigmoid were saved"
    axis = "Saturated units", "saturated (%)", "threshold_layer"
    tensor_regex: Patterns = (".*tanh_input|.*sigmoid_input",)
    threshold_tanh_min: float = -9.4999
    threshold_tanh_max: float = 9.4999
    threshold_sigmoid_min: float = -23.0
    threshold_sigmoid_max: float = 16.99999
    threshold_inactivity: AboveZero = 1.0
    threshold_layer: Percent = 50.0
    tanh: set[str] = state(set)  # names of its inputs, found by type

    def chosen(self, trial: Trial, step: int, mode: Mode) -> list[str]:
        if self.aws:
            return self.names(trial, step, mode, regex=self.tensor_regex)
        self.tanh.update(trial.tensor_names(step=step, mode=mode, collection="tanh_input"))
        regex = (*self.tensor_regex, SQUASHING)
        return self.names(trial, step, mode, collections=("tanh_input", "sigmoid_input"), regex=regex)

    def look(self, trial: Trial, name: str, step: int, mode: Mode) -> Found:
        value, tanh = by_unit(trial.tensor(name).value(step, mode=mode)), name in self.tanh or "tanh" in name.lower()
        if not value.size:
            return None
        if self.aws:
            low = self.threshold_tanh_min if tanh else self.threshold_sigmoid_min
            high = self.threshold_tanh_max if tanh else self.threshold_sigmoid_max
            active = ~((value <= low) | (value >= high))
            saturated = 100 * active.mean(axis=0) < self.threshold_inactivity
        else:
            saturated = ~(np.abs(value) < (TANH_FLAT if tanh else SIGMOID_FLAT))
        percent = float(100 * np.mean(saturated))
        words = f"is saturated to {percent:.4g} % (threshold_layer {self.threshold_layer:g} %)"
        return percent, words if percent > self.threshold_layer else None


def by_unit(value: Array) -> Array:
    """(cases, units): a channel of a convolution is one unit, since its weights are shared."""
    if value.ndim < 2:
        return value.reshape(1, -1)
    axis = 1 if value.ndim == 4 else -1
    return np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])
