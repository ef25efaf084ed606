"""Rules on weights and gradients: exploding, vanishing, badly initialised, frozen, and the learning rate.

AWS's rules are those of its guide, "List of Debugger built-in rules", with the defaults documented there.
"""

import math
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np

from watch.rules.base import (
    Array,
    Count,
    Mode,
    NotNegative,
    Patterns,
    Positive,
    TensorRule,
    Trial,
    Within,
    figure,
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
    changed: bool = False  # whether it has ever differed from the step before
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

    def add(self, matrix: Array, span: int) -> None:
        """Take the weight as it is `span` steps after the last one."""
        self.change = size(matrix - self.newest) / (size(self.newest) or math.inf)
        self.changed |= not np.array_equal(matrix, self.newest)
        self.update = np.fmax(self.update, self.change / math.sqrt(span))
        self.largest = np.fmax(self.largest, size(matrix)) if np.isfinite(size(matrix)) else math.inf
        self.rows_differ |= not same_rows(matrix)
        self.newest = matrix


def size(value: Array) -> float:
    """The root of the mean square."""
    return float(np.sqrt(np.mean(np.square(value, dtype=np.float64)))) if value.size else 0.0


def same_rows(matrix: Array) -> bool:
    """Whether all outputs of a layer have the same weights; a layer of one output has nothing to compare."""
    return len(matrix) > 1 and size(matrix - matrix[:1]) <= 1e-3 * size(matrix)


class LayersRule(TensorRule):
    """A rule on the layers and the losses of a whole training, with our semantics."""

    needs = "weights and losses were saved at too few training steps"
    fewest: ClassVar[int] = 5  # such steps
    axis: ClassVar[tuple[str, str]] = ("Change since the last saved step, relative to the weights", "change")
    losses: Losses = state(Losses)
    layers: dict[str, Layer] = state(dict)
    saved: list[int] = state(list)  # training steps
    sums: dict[str, float] = state(dict)  # of the parameters that are no layers
    others_changed: bool = state(bool)  # whether any of these has

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        self.losses.add(trial, step, mode)
        if mode.name != "TRAIN":
            return None
        weights, norms, gradients, frozen = (
            set(trial.tensor_names(step=step, mode=mode, collection=name))
            for name in ("weights", "norms", "gradients", "frozen")
        )
        names = [name for name in trial.written_names(step=step, mode=mode) if name in weights]
        if not names:
            return None
        span = step - self.saved[-1] if self.saved else 1
        for name in names:
            value = trial.tensor(name).value(step, mode=mode)
            if name in norms or EMBEDDING.search(name) or value.ndim < 2 or value.size < 2:
                total = float(value.sum(dtype=np.float64))
                self.others_changed |= self.sums.setdefault(name, total) != total
                continue
            rows: Array = value.reshape(len(value), -1)
            strides = [math.ceil(length / most) for length, most in zip(rows.shape, MOST, strict=True)]
            matrix = rows[:: strides[0], :: strides[1]].astype(np.float64)
            layer = self.layers.setdefault(name, Layer(matrix, matrix, value[0].size))
            layer.add(matrix, span)
            if f"gradient/{name}" in gradients and name not in frozen:  # whose gradients are stale
                gradient = trial.tensor(f"gradient/{name}").value(step, mode=mode)
                some = gradient.ravel()[:: 1 + gradient.size // MOST_VALUES]
                layer.gradients.append(size(some[some != 0]))
        for name, layer in self.layers.items():
            if (shown := self.shown(layer)) is not None:
                self.plot(*self.axis).add(name, step, shown)
        self.saved.append(step)
        return None

    def shown(self, layer: Layer) -> float | None:
        """The figure of a layer that is plotted."""
        return layer.change

    def conclude(self) -> str | None:
        enough = min(len(self.saved), len(self.losses.train)) >= self.fewest
        return self.judge() if self.counts(enough and not self.aws) else None

    def judge(self) -> str | None:
        """A sentence if something is wrong with the training as a whole."""
        raise NotImplementedError

    @property
    def begun(self) -> list[Layer]:
        """The layers that did not begin with zeros."""
        return [layer for layer in self.layers.values() if size(layer.first)]


class LearningRate(LayersRule):
    """Fires at the end if the median layer has grown more than `growth` times and beyond `largest_gain` times the
    scale that keeps the size of its inputs, in steps of more than `largest_update` (or the loss hardly fell, and
    beyond two thirds of it); or no layer moved by more than `smallest_move` of itself and the loss hardly fell: a
    rule of ours."""

    growth: Positive = 3.0
    largest_gain: Positive = 3.0
    largest_update: Positive = 0.05
    smallest_move: Positive = 0.02

    def judge(self) -> str | None:
        losses, steps = self.losses, self.saved[-1]
        figures = [(one.largest / size(one.first), one.gain(one.largest), one.update) for one in self.begun]
        growth, gain, update = np.median(figures or [(math.nan,) * 3], axis=0).tolist()
        limit = self.largest_gain * (2 / 3 if losses.hardly_fell else 1)
        ruined = losses.hardly_fell or (update > self.largest_update and not losses.learned_all)
        if growth > self.growth and gain > limit and ruined and not losses.broke_at_once:
            self.cause = "learning_rate_too_high"
            grew = f"grew {figure(growth)} times, by {figure(100 * update)} % in one step"
            words = grew if math.isfinite(growth + update) else "became infinite"
            return f"{losses.course.capitalize()}, and the weights {words}."
        moves = [size(layer.newest - layer.first) / size(layer.first) for layer in self.begun]
        arrived = any(any(layer.gradients or [1.0]) for layer in self.layers.values())  # else the rate is not to blame
        if steps < 20 or not arrived or not losses.hardly_fell or not max(moves, default=math.inf) < self.smallest_move:
            return None
        self.cause = "learning_rate_too_low"
        if max(moves) == 0:
            return f"No weight changed in {steps:,} steps: the learning rate is 0."
        return f"{losses.course.capitalize()}, and the weights moved by {100 * max(moves):.2g} % in {steps:,} steps."


class FrozenWeights(LayersRule):
    """Fires at the end if a layer never changed although others did: it has gradients, so the optimizer was not given
    it; or it has none, but layers before it learn, which nobody who tunes the last layers wants. A rule of ours."""

    cause = "frozen"
    fewest = 3

    def judge(self) -> str | None:
        first, still = math.inf, []
        for number, (name, layer) in enumerate(self.layers.items()):
            first = min(first, number) if layer.changed else first
            if not layer.changed and (any(layer.gradients) if layer.gradients else number > first):
                still.append(name)
        if not still or (first == math.inf and not self.others_changed):
            return None
        return f"{len(still)} of {len(self.layers)} layers never changed although others did: {listed(still)}."


class VanishingGradient(LayersRule):
    """Fires at the end if a layer's gradients were, in the middle of the training, less than `share` of the largest
    layer's, and the loss had hardly fallen by then or a third of the layers stood still; without biases, norms,
    embeddings, zeros. AWS: at a step where the mean of any gradient's absolute values is below `threshold`, as a
    bias's or a converged network's is."""

    cause = "vanishing_gradients"
    axis = "Gradients of the layers, without zeros", "size"
    needs = "no gradients were saved, or at fewer than five training steps"
    threshold: NotNegative = 1e-7
    share: Positive = 0.001

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        if not self.aws:
            return super().evaluate(trial, step, mode)
        names = self.names(trial, step, mode, collections=("gradients",))
        means = ((trial.tensor(name).reduction_value(step, "mean", mode=mode, abs=True), name) for name in names)
        mean, name = min((found for found in means if not math.isnan(found[0])), default=(math.nan, ""))
        if not self.counts(not math.isnan(mean)):
            return None
        plot = self.plot("The smallest mean gradient", "mean of |gradient|", self.limits("threshold"))
        plot.add("smallest", step, mean)
        found = f"The gradient of {name.removeprefix('gradient/')} averages {mean:.3g} at step {step}"
        return f"{found}, below the threshold of {self.threshold:g}." if mean < self.threshold else None

    def shown(self, layer: Layer) -> float | None:
        return layer.gradients[-1] if layer.gradients else None

    def judge(self) -> str | None:
        found = [(float(np.median(layer.gradients)), name) for name, layer in self.layers.items() if layer.gradients]
        if not found:
            return None
        sizes = [size for size, _ in found]
        largest, second = max(sizes), sorted(sizes)[:2][-1]
        small = [one for one in found if one[0] < max(self.threshold, self.share * largest)]
        stuck = len(small) > len(found) / 3 and all(self.layers[name].turned < 1e-3 for _, name in small)
        if not small or not (self.losses.learned_late or stuck):
            return None
        if second > max(self.threshold, 0.05 * largest):  # where the first layer alone is small, inputs are to blame
            return None
        smallest, name = min(small, key=lambda one: one[0])
        times = f"{figure(largest / smallest)} times smaller than of the largest layer" if smallest else "0"
        return f"The gradients of {name} are {times} in the median step, and {self.losses.course}."


class PoorWeightInitialization(LayersRule):
    """Fires at the end if the outputs of a layer began alike and stayed so; or the median layer made more than
    `largest_gain` of inputs of size 1 and the first loss was half above guessing (without labels: it made twice
    that); or less than `smallest_gain`, and the loss hardly fell. AWS: within the first `steps` saved steps, where
    the largest variance of an activation's inputs is more than `threshold` times the smallest, or the 5th and 95th
    percentile of a gradient are less than `distribution_range` apart, as of most, or the loss has found no new
    minimum for `patience` steps."""

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
    classes: set[int] = state(set)
    seen: int = state(int)  # training steps
    lowest: float = state(lambda: math.inf)
    since: int = state(int)  # the lowest loss

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        if not self.aws:
            for name in trial.tensor_names(step=step, mode=mode, collection="labels")[: len(self.classes) < 1000]:
                self.classes.update(np.unique(trial.tensor(name).value(step, mode=mode)).tolist())
            return super().evaluate(trial, step, mode)
        if mode.name != "TRAIN" or self.seen >= self.steps:
            return None
        self.seen += 1
        names = self.names(trial, step, mode, regex=self.activation_inputs_regex)
        variances = [trial.tensor(name).reduction_value(step, "variance", mode=mode) for name in names]
        gradients = self.tensors(trial, step, mode, collections=("gradients",))
        ranges = [(float(np.subtract(*np.percentile(value, (95, 5)))), name) for name, value in gradients if value.size]
        loss = self.losses.add(trial, step, mode)
        self.judged += bool(len(variances) > 1 or ranges or loss is not None)
        if len(variances) > 1 and max(variances) > self.threshold * min(variances):
            times = f"more than {self.threshold:g} times less (threshold)"
            return f"At step {step} variances of activations are {max(variances):.3g} and {times}."
        narrowest, name = min(ranges, key=lambda one: one[0], default=(math.inf, ""))
        if narrowest < self.distribution_range:
            limit = f"(distribution_range {self.distribution_range:g})"
            return f"At step {step} the middle 90 % of {name} lie within {narrowest:.3g} {limit}."
        if loss is None:
            return None
        self.since, self.lowest = 0 if loss < self.lowest else self.since + 1, min(loss, self.lowest)
        found = f"The loss has not fallen for {self.since} saved steps (patience {self.patience})."
        return found if self.since >= self.patience else None

    def shown(self, layer: Layer) -> float | None:
        return layer.gain(size(layer.newest))

    def judge(self) -> str | None:
        learning = [(name, layer) for name, layer in self.layers.items() if layer.gradients]
        began = {name for name, layer in learning if size(layer.first) and same_rows(layer.first)}
        if same := [name for name, layer in learning if name in began or not layer.rows_differ]:
            return f"All outputs of {listed(same)} began with the same weights."
        gain = float(np.median([layer.gain(size(layer.first)) for layer in self.begun] or [math.nan]))
        scale = f"the median layer makes {gain:.2g} of inputs of size 1"
        first, guess = self.losses.first, math.log(len(self.classes)) if len(self.classes) > 1 else None
        if gain > self.largest_gain and (first > 1.5 * guess if guess else gain > 2 * self.largest_gain):
            return f"The first weights are too large: {scale}, and the first loss was {first:.3g}."
        if gain < self.smallest_gain and self.losses.hardly_fell:
            return f"The first weights are too small: {scale}, and {self.losses.course}."
        return None


class WeightUpdateRatio(TensorRule):
    """Fires at a step where mean(|weight now - weight before|) / (mean(|weight before|) + epsilon), our reading of
    AWS, is above `large_threshold`; AWS's also below `small_threshold`, and for weights that were zero, norms, biases.
    Before is the previous saved training step, or with `num_steps` the earliest saved one at most so many steps
    back."""

    needs = "no weights were saved at two training steps"
    num_steps: Count | None = None
    large_threshold: Positive = 10.0
    small_threshold: NotNegative = 1e-8
    epsilon: Positive = 1e-9
    earlier: dict[str, deque[tuple[int, Array]]] = state(dict)
    from_zero: set[str] = state(set)  # a warmup's first steps make such a weight many times as large

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        sentences = []
        norms = () if self.aws else self.names(trial, step, mode, collections=("norms",))
        weights = self.tensors(trial, step, mode, collections=("weights",)) if mode.name == "TRAIN" else ()
        for name, weight in weights:
            if not self.aws and not np.any(weight):
                self.from_zero.add(name)
            earlier = self.earlier.setdefault(name, deque(maxlen=64 if self.num_steps else 1))
            while self.num_steps and earlier and earlier[0][0] < step - self.num_steps:
                earlier.popleft()
            if earlier and name not in norms and name not in self.from_zero:
                sentences.append(self._compare(name, step, weight, earlier[0]))
            earlier.append((step, weight))
        return next(filter(None, sentences), None)

    def _compare(self, name: str, step: int, weight: Array, before: tuple[int, Array]) -> str | None:
        ratio = float(np.mean(np.abs(weight - before[1])) / (np.mean(np.abs(before[1])) + self.epsilon))
        self.judged += 1
        limits = self.limits("large_threshold", "small_threshold")
        self.plot("Size of the updates relative to the weights", "update / weight", limits).add(name, step, ratio)
        how = f"changed by {figure(ratio)} times its size" if math.isfinite(ratio) else "became infinite"
        changed = f"{name} {how} from step {before[0]} to step {step}"
        if ratio > self.large_threshold:
            self.cause = "learning_rate_too_high"
            return f"{changed}, above large_threshold ({self.large_threshold:g})."
        if ratio < self.small_threshold and self.aws:
            self.cause = "learning_rate_too_low"
            return f"{changed}, below small_threshold ({self.small_threshold:g})."
        return None


def listed(names: list[str]) -> str:
    """At most three of them."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
