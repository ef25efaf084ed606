"""Rules on weights and gradients: exploding, vanishing, badly initialised, frozen, and the learning rate.

AWS's rules are those of its guide, "List of Debugger built-in rules", with the defaults documented there.
"""

import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np

from watch.read.tensors import TensorUnavailable
from watch.rules.base import (
    Array,
    ChosenTensors,
    Count,
    Mode,
    NotNegative,
    ParameterError,
    Patterns,
    Positive,
    TensorRule,
    Trial,
    Within,
    state,
)
from watch.rules.losses import Losses

EMBEDDING = re.compile(r"(?i)emb|token|wte|wpe|vocab")  # rows are looked up: their scale is not that of a layer
MOST = (64, 256)  # rows and columns of a weight that are kept
MOST_VALUES = 65_536  # of a gradient that are looked at


@dataclass
class Layer:
    """A weight of at least two dimensions over the training, as (outputs, inputs); no norm's, and no embedding's."""

    first: Array
    newest: Array
    fan_in: int
    position: int  # among the weights, as they were written
    changed: int = 0  # saved steps at which it differed from the one before
    largest: float = 0.0  # size of the weight
    change: float = 0.0  # since the step before, relative to the weight
    update: float = 0.0  # the largest change, of one step
    gradients: list[float] = field(default_factory=list)  # sizes of the elements that are not 0
    rows_differ: bool = False  # whether two outputs have ever differed

    @property
    def turned(self) -> float:
        """How far it has moved, relative to its first size, beside having shrunk or grown (by weight decay, say)."""
        scale = float(np.vdot(self.first, self.newest) / (np.vdot(self.first, self.first) or math.inf))
        return size(self.newest - scale * self.first) / (size(self.first) or math.inf)

    def gain(self, size: float) -> float:
        """About 0.6 to 2 in healthy layers: what the layer makes of inputs of size 1."""
        return size * math.sqrt(self.fan_in)


class Layers:
    """The layers of a network, from its saved training steps."""

    def __init__(self) -> None:
        self.layers: dict[str, Layer] = {}
        self.steps: list[int] = []
        self.sums: dict[str, float] = {}  # of the other parameters
        self.others_changed = False

    def add(self, rule: TensorRule, trial: Trial, step: int, mode: Mode) -> None:
        """Take a saved training step."""
        weights = set(rule.names(trial, step, mode, collections=("weights",))) if mode.name == "TRAIN" else ()
        names = [name for name in trial.written_names(step=step, mode=mode) if name in weights]
        if not names:
            return
        norms = rule.names(trial, step, mode, collections=("norms",))
        frozen = {f"gradient/{name}" for name in rule.names(trial, step, mode, collections=("frozen",))}  # stale ones
        gradients = set(rule.names(trial, step, mode, collections=("gradients",))) - frozen
        span = step - self.steps[-1] if self.steps else 1
        for name in names:
            value = trial.tensor(name).value(step, mode=mode)
            if name not in norms and not EMBEDDING.search(name) and value.ndim > 1 and value.size > 1:
                self._add(name, value, span)
            else:
                total = float(value.sum(dtype=np.float64))
                self.others_changed |= self.sums.setdefault(name, total) != total
            if name in self.layers and f"gradient/{name}" in gradients:
                gradient = trial.tensor(f"gradient/{name}").value(step, mode=mode)
                layer = self.layers[name]
                some = gradient.ravel()[:: 1 + gradient.size // MOST_VALUES]
                layer.gradients.append(size(some[some != 0]))
        self.steps.append(step)

    def _add(self, name: str, value: Array, span: int) -> None:
        matrix: Array = value.reshape(len(value), -1)
        strides = [math.ceil(length / most) for length, most in zip(matrix.shape, MOST, strict=True)]
        matrix = matrix[:: strides[0], :: strides[1]].astype(np.float64)
        if name not in self.layers:
            self.layers[name] = Layer(matrix, matrix, value[0].size, len(self.layers))
        layer = self.layers[name]
        layer.change = size(matrix - layer.newest) / (size(layer.newest) or math.inf)
        layer.changed += not np.array_equal(matrix, layer.newest)
        layer.update = np.fmax(layer.update, layer.change / math.sqrt(span))
        layer.largest = np.fmax(layer.largest, size(matrix)) if np.isfinite(size(matrix)) else math.inf
        layer.rows_differ |= not same_rows(matrix)
        layer.newest = matrix


def size(value: Array) -> float:
    """The root of the mean square."""
    return float(np.sqrt(np.mean(np.square(value, dtype=np.float64)))) if value.size else 0.0


def same_rows(matrix: Array) -> bool:
    """Whether all outputs of a layer have the same weights; a layer of one output has nothing to compare."""
    return len(matrix) > 1 and size(matrix - matrix[:1]) <= 1e-3 * size(matrix)


@dataclass(kw_only=True)
class LayersRule(TensorRule):
    """A rule on the layers and the losses of a whole training, with our semantics."""

    needs = "weights and losses were saved at too few training steps"
    fewest: ClassVar[int] = 5  # such steps
    axis: ClassVar[tuple[str, str]] = ("Change since the last saved step, relative to the weights", "change")

    layers: Layers = state(Layers)
    losses: Losses = state(Losses)

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        self.losses.add(trial, step, mode)
        seen = len(self.layers.steps)
        self.layers.add(self, trial, step, mode)
        for name, layer in self.layers.layers.items() if len(self.layers.steps) > seen else ():
            if (shown := self.shown(layer)) is not None:
                self.plot(*self.axis, {}).add(name, step, shown)
        return None

    def shown(self, layer: Layer) -> float | None:
        """The figure of a layer that is plotted."""
        return layer.change

    def conclude(self) -> str | None:
        if self.semantics == "aws" or min(len(self.layers.steps), len(self.losses.train)) < self.fewest:
            return None
        self.judged += 1
        return self.judge(self.layers.layers)

    def judge(self, layers: dict[str, Layer]) -> str | None:
        """A sentence if something is wrong with the training as a whole."""
        raise NotImplementedError

    def median(self, figure: Callable[[Layer], float]) -> float:
        """Of the layers that did not begin with zeros."""
        begun = [figure(layer) for layer in self.layers.layers.values() if size(layer.first)]
        return float(np.median(begun)) if begun else math.nan


@dataclass(kw_only=True)
class LearningRate(LayersRule):
    """Fires at the end if the weights have moved far too much or too little: a rule of ours.

    Too much: the median layer has grown more than `growth` times, and beyond `largest_gain` times the scale that keeps
    the size of its inputs, while single steps changed weights by more than `largest_update`; or beyond two thirds of
    that, while the loss has hardly fallen. Too little: no layer moved by more than `smallest_move` of itself, and the
    loss has hardly fallen.
    """

    growth: Positive = 3.0
    largest_gain: Positive = 3.0
    largest_update: Positive = 0.05
    smallest_move: Positive = 0.02

    def judge(self, layers: dict[str, Layer]) -> str | None:
        losses = self.losses
        growth = self.median(lambda layer: layer.largest / size(layer.first))
        gain = self.median(lambda layer: layer.gain(layer.largest))
        update = self.median(lambda layer: layer.update)
        limit = self.largest_gain * (2 / 3 if losses.hardly_fell else 1)
        ruined = losses.hardly_fell or (update > self.largest_update and not losses.learned_all)
        if growth > self.growth and gain > limit and ruined and not losses.broke_at_once:
            self.cause = "learning_rate_too_high"
            grew = f"grew {growth:,.3g} times, by {100 * update:,.3g} % in one step"
            words = grew if math.isfinite(growth + update) else "became infinite"
            return f"{losses.course}, and the weights {words}."
        moves = [size(layer.newest - layer.first) / size(layer.first) for layer in layers.values() if size(layer.first)]
        gradients = [
            any(layer.gradients or [1.0]) for layer in layers.values()
        ]  # without any, the rate is not to blame
        if self.layers.steps[-1] < 20 or not any(gradients) or not moves or not losses.hardly_fell:
            return None
        if not max(moves) < self.smallest_move:
            return None
        self.cause = "learning_rate_too_low"
        if max(moves) == 0:
            return f"No weight changed in {self.layers.steps[-1]:,} steps: the learning rate is 0."
        moved = f"the weights moved by {100 * max(moves):.2g} % in {self.layers.steps[-1]:,} steps"
        return f"{losses.course}, and {moved}."


@dataclass(kw_only=True)
class FrozenWeights(LayersRule):
    """Fires at the end if a layer never changed although others did: it has gradients, so the optimizer was not given
    it; or it has none, but layers before it learn, which nobody who tunes the last layers wants. A rule of ours.
    """

    cause = "frozen"
    fewest = 3

    def judge(self, layers: dict[str, Layer]) -> str | None:
        learning = [layer.position for layer in layers.values() if layer.changed]
        forgotten = [
            name
            for name, layer in layers.items()
            if not layer.changed
            and (any(layer.gradients) if layer.gradients else layer.position > min(learning, default=math.inf))
        ]
        if not forgotten or not (learning or self.layers.others_changed):
            return None
        return f"{len(forgotten)} of {len(layers)} layers never changed although others did: {listed(forgotten)}."


@dataclass(kw_only=True)
class VanishingGradient(LayersRule):
    """Fires at the end if a layer's gradients were, in the middle of the training, less than `share` of the largest
    layer's, and the loss had hardly fallen by then, or a third of the layers stood still. Biases, norms and embeddings
    are not looked at, nor are zeros.

    semantics aws: fires at a step where the mean of any gradient's absolute values is below `threshold`; the gradients
    of a bias, of a converged network or of a rare token are.
    """

    cause = "vanishing_gradients"
    axis = "Gradients of the layers, without zeros", "size"
    needs = "no gradients were saved, or at fewer than five training steps"

    threshold: NotNegative = 1e-7
    share: Positive = 0.001

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        if self.semantics == "watch":
            return super().evaluate(trial, step, mode)
        names = self.names(trial, step, mode, collections=("gradients",))
        means = {name: trial.tensor(name).reduction_value(step, "mean", mode=mode, abs=True) for name in names}
        known = {name: mean for name, mean in means.items() if not math.isnan(mean)}
        if not known:
            return None
        self.judged += 1
        name = min(known, key=lambda name: known[name])
        limits = {"threshold": self.threshold}
        self.plot("The smallest mean gradient", "mean of |gradient|", limits).add("smallest", step, known[name])
        weight = name.removeprefix("gradient/")
        found = f"The gradient of {weight} averages {known[name]:.3g} at step {step}"
        return f"{found}, below the threshold of {self.threshold:g}." if known[name] < self.threshold else None

    def shown(self, layer: Layer) -> float | None:
        return layer.gradients[-1] if layer.gradients else None

    def judge(self, layers: dict[str, Layer]) -> str | None:
        sizes = {name: float(np.median(layer.gradients)) for name, layer in layers.items() if layer.gradients}
        largest = max(sizes.values(), default=0.0)
        small = [name for name, found in sizes.items() if found < self.share * largest or found < self.threshold]
        stuck = len(small) > len(sizes) / 3 and all(layers[name].turned < 1e-3 for name in small)
        if not small or not (self.losses.learned_late or stuck):
            return None
        second = sorted(sizes.values())[:2][-1]  # where the first layer alone has small ones, the inputs are to blame
        if second > max(0.05 * largest, self.threshold):
            return None
        name = min(small, key=lambda name: sizes[name])
        times = f"{largest / sizes[name]:,.3g} times smaller than of the largest layer" if sizes[name] else "0"
        return f"The gradients of {name} are {times} in the median step, and {self.losses.course}."


@dataclass(kw_only=True)
class PoorWeightInitialization(LayersRule):
    """Fires at the end if the first weights were

    - all the same, and the outputs of a layer still are;
    - so large that the median layer makes more than `largest_gain` of inputs of size 1, and the first loss was more
      than half above that of guessing (where classes are not known: more than twice `largest_gain`); or
    - so small that it makes less than `smallest_gain` of them, and the loss has hardly fallen.

    semantics aws: fires within the first `steps` saved training steps, where the largest variance of a layer's
    activation inputs is more than `threshold` times the smallest one's, or the 5th and 95th percentile of a gradient
    are less than `distribution_range` apart, or the loss has found no new minimum for `patience` saved steps. The
    gradients of most healthy networks are, as is that of any single bias.
    """

    cause = "bad_initialisation"
    fewest = 3
    axis = "What a layer makes of inputs of size 1", "size"

    activation_inputs_regex: Patterns = (".*relu_input",)
    threshold: Annotated[float, Within(at_least=1)] = 10.0
    distribution_range: NotNegative = 0.001
    patience: Count = 5
    steps: Count = 10
    largest_gain: Positive = 3.0
    smallest_gain: Positive = 0.15

    seen: int = state(int)
    lowest: float = state(lambda: math.inf)
    since: int = state(int)  # the lowest loss
    classes: set[int] = state(set)

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        if self.semantics == "watch":
            for name in trial.tensor_names(step=step, mode=mode, collection="labels")[: len(self.classes) < 1000]:
                self.classes.update(np.unique(trial.tensor(name).value(step, mode=mode)).tolist())
            return super().evaluate(trial, step, mode)
        if mode.name != "TRAIN" or self.seen >= self.steps:
            return None
        self.seen += 1
        names = self.names(trial, step, mode, regex=self.activation_inputs_regex)
        variances = {name: trial.tensor(name).reduction_value(step, "variance", mode=mode) for name in names}
        gradients = self.tensors(trial, step, mode, collections=("gradients",))
        ranges = {name: float(np.subtract(*np.percentile(found, (95, 5)))) for name, found in gradients if found.size}
        loss = self.losses.add(trial, step, mode)
        self.judged += bool(len(variances) > 1 or ranges or loss is not None)
        if len(variances) > 1 and max(variances.values()) > self.threshold * min(variances.values()):
            times = f"more than {self.threshold:g} times less (threshold)"
            return f"At step {step} variances of activations are {max(variances.values()):.3g} and {times}."
        if ranges and min(ranges.values()) < self.distribution_range:
            name = min(ranges, key=lambda name: ranges[name])
            limit = f"(distribution_range {self.distribution_range:g})"
            return f"At step {step} the middle 90 % of {name} lie within {ranges[name]:.3g} {limit}."
        if loss is not None:
            self.since = 0 if loss < self.lowest else self.since + 1
            self.lowest = min(loss, self.lowest)
            if self.since >= self.patience:
                return f"The loss has not fallen for {self.since} saved steps (patience {self.patience})."
        return None

    def shown(self, layer: Layer) -> float | None:
        return layer.gain(size(layer.newest))

    def judge(self, layers: dict[str, Layer]) -> str | None:
        same = [
            name
            for name, layer in layers.items()
            if layer.gradients and ((size(layer.first) and same_rows(layer.first)) or not layer.rows_differ)
        ]
        if same:
            return f"All outputs of {listed(same)} began with the same weights."
        gain = self.median(lambda layer: layer.gain(size(layer.first)))
        scale = f"the median layer makes {gain:.2g} of inputs of size 1"
        first, guess = self.losses.first, math.log(len(self.classes)) if len(self.classes) > 1 else None
        if gain > self.largest_gain and (first > 1.5 * guess if guess else gain > 2 * self.largest_gain):
            return f"The first weights are too large: {scale}, and the first loss was {first:.3g}."
        if gain < self.smallest_gain and self.losses.hardly_fell:
            return f"The first weights are too small: {scale}, and {self.losses.course}."
        return None


@dataclass(kw_only=True)
class ExplodingTensor(ChosenTensors):
    """Fires at a step where a tensor holds an infinite value or NaN (NaN only, with `only_nan`).

    Without collection_names and tensor_regex every saved tensor is looked at; of one that was saved as reductions only,
    the mean absolute value is. It is fatal where a weight or loss is not finite at its last saved step. With our
    semantics gradients must be so at three saved steps on end: a gradient scaler tries out what is too large.
    """

    cause = "exploded"
    needs = "no tensors were saved"
    choice_required = False
    axis = "The largest value of each tensor", "largest |value|"

    only_nan: bool = False

    broken: dict[str, bool] = state(dict)  # weights and losses: whether they were, when last saved

    def figure(self, trial: Trial, name: str, step: int, mode: Mode) -> float | None:
        try:
            value = trial.tensor(name).value(step, mode=mode)
        except TensorUnavailable:
            peak = trial.tensor(name).reduction_value(step, "mean", mode=mode, abs=True)
        else:
            peak = float(np.max(np.abs(value), initial=0)) if value.dtype.kind in "fc" else 0.0
        if not name.startswith("gradient/"):
            self.broken[name] = not math.isfinite(peak) and bool(
                name in trial.tensor_names(step=step, mode=mode, collection="losses")
                or name in trial.tensor_names(step=step, mode=mode, collection="weights")
            )
            self.severity = "fatal" if any(self.broken.values()) else "problem"
        return peak

    def needed(self, name: str) -> int:
        return super().needed(name) if name.startswith("gradient/") else 1

    def wrong(self, name: str, figure: float) -> str | None:
        if math.isnan(figure):
            return "holds NaN"
        return "holds infinite values" if math.isinf(figure) and not self.only_nan else None


@dataclass(kw_only=True)
class AllZero(ChosenTensors):
    """Fires at a step where the share of zeros in a tensor reaches `threshold` per cent; with our semantics where it
    did at three saved steps on end, since some layers begin with zeros on purpose.
    """

    cause = "bad_initialisation"
    axis = "Zeros", "zeros (%)"

    threshold: Annotated[float, Within(above=0, at_most=100)] = 100.0

    def figure(self, trial: Trial, name: str, step: int, mode: Mode) -> float | None:
        value = trial.tensor(name).value(step, mode=mode)
        return float(100 * (1 - np.count_nonzero(value) / value.size)) if value.size else None

    def limits(self) -> dict[str, float | None]:
        return {"threshold": self.threshold}

    def wrong(self, name: str, figure: float) -> str | None:
        wrong = figure >= self.threshold
        return f"consists to {figure:.4g} % of zeros (threshold {self.threshold:g} %)" if wrong else None


@dataclass(kw_only=True)
class TensorVariance(ChosenTensors):
    """Fires at a step where a tensor's variance is above `max_threshold` or below `min_threshold`; with our semantics
    where it was at three saved steps on end. At least one of the two has to be given.
    """

    advice = "A variance far from the usual comes from a bad initialisation, or a learning rate that does not fit."
    axis = "Variance", "variance"

    max_threshold: NotNegative | None = None
    min_threshold: NotNegative | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_threshold is None and self.min_threshold is None:
            raise ParameterError(["max_threshold or min_threshold must be given."])

    def figure(self, trial: Trial, name: str, step: int, mode: Mode) -> float | None:
        return trial.tensor(name).reduction_value(step, "variance", mode=mode)

    def limits(self) -> dict[str, float | None]:
        return {"max_threshold": self.max_threshold, "min_threshold": self.min_threshold}

    def wrong(self, name: str, figure: float) -> str | None:
        if self.max_threshold is not None and figure > self.max_threshold:
            self.cause = "exploded"
            return f"has a variance of {figure:.3g}, above max_threshold ({self.max_threshold:g}),"
        if self.min_threshold is not None and figure < self.min_threshold:
            return f"has a variance of {figure:.3g}, below min_threshold ({self.min_threshold:g}),"
        return None


@dataclass(kw_only=True)
class UnchangedTensor(ChosenTensors):
    """Fires at a step where a tensor is numpy.allclose to what it was at the last `num_steps` steps at which it was
    saved in the same mode, this one included.
    """

    advice = "What does not change does not learn: is it given to the optimizer, and the learning rate not 0?"
    needs = "no tensor of the chosen collections or names was saved at num_steps steps"
    axis = "Change since the last saved step", "largest |change|"
    patience = 1

    num_steps: Annotated[int, Within(at_least=2, whole=True)] = 3
    rtol: NotNegative = 1e-5
    atol: NotNegative = 1e-8
    equal_nan: bool = False

    earlier: dict[tuple[str, str], deque[Array]] = state(dict)
    same: dict[str, bool] = state(dict)

    def figure(self, trial: Trial, name: str, step: int, mode: Mode) -> float | None:
        value = trial.tensor(name).value(step, mode=mode)
        earlier = self.earlier.setdefault((mode.name, name), deque(maxlen=self.num_steps - 1))
        close: dict[str, Any] = {"rtol": self.rtol, "atol": self.atol, "equal_nan": self.equal_nan}
        full = len(earlier) == self.num_steps - 1 and value.size > 0
        self.same[name] = full and all(old.shape == value.shape and np.allclose(value, old, **close) for old in earlier)
        change = np.abs(value - earlier[-1]).max() if full and earlier[-1].shape == value.shape else 0.0
        earlier.append(value)
        return float(change) if full else None

    def wrong(self, name: str, figure: float) -> str | None:
        return f"has not changed in {self.num_steps} saved steps," if self.same[name] else None


@dataclass(kw_only=True)
class WeightUpdateRatio(TensorRule):
    """Fires at a step where a weight's update, relative to the weight, is above `large_threshold` or below
    `small_threshold`. With our semantics only large ones count: LearningRate and FrozenWeights say what does not move;
    and weights of zeros, norms and biases are passed over.

    The ratio is mean(|weight now - weight before|) / (mean(|weight before|) + epsilon): AWS does not say how it makes
    one number of a tensor. Before is the previous saved training step, or with `num_steps` the earliest saved one that
    is at most so many steps back.
    """

    needs = "no weights were saved at two training steps"

    num_steps: Count | None = None
    large_threshold: Positive = 10.0
    small_threshold: NotNegative = 1e-8
    epsilon: Positive = 1e-9

    earlier: dict[str, deque[tuple[int, Array]]] = state(dict)

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        sentences = []
        norms = self.names(trial, step, mode, collections=("norms",)) if self.semantics == "watch" else ()
        weights = self.tensors(trial, step, mode, collections=("weights",)) if mode.name == "TRAIN" else ()
        for name, weight in weights:
            earlier = self.earlier.setdefault(name, deque(maxlen=64 if self.num_steps else 1))
            while self.num_steps and earlier and earlier[0][0] < step - self.num_steps:
                earlier.popleft()
            if earlier and name not in norms and (self.semantics == "aws" or np.any(earlier[0][1])):
                sentences.append(self._compare(name, step, weight, earlier[0]))
            earlier.append((step, weight))
        return next(filter(None, sentences), None)

    def _compare(self, name: str, step: int, weight: Array, before: tuple[int, Array]) -> str | None:
        ratio = float(np.mean(np.abs(weight - before[1])) / (np.mean(np.abs(before[1])) + self.epsilon))
        self.judged += 1
        limits = {"large_threshold": self.large_threshold, "small_threshold": self.small_threshold}
        self.plot("Size of the updates relative to the weights", "update / weight", limits).add(name, step, ratio)
        how = f"changed by {ratio:.3g} times its size" if math.isfinite(ratio) else "became infinite"
        changed = f"{name} {how} from step {before[0]} to step {step}"
        if ratio > self.large_threshold:
            self.cause = "learning_rate_too_high"
            return f"{changed}, above large_threshold ({self.large_threshold:g})."
        if ratio < self.small_threshold and self.semantics == "aws":
            self.cause = "learning_rate_too_low"
            return f"{changed}, below small_threshold ({self.small_threshold:g})."
        return None


def listed(names: list[str]) -> str:
    """At most three of them."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
