"""WeightUpdateRatio: weights that change too fast or too slowly."""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from watch.rules.base import Array, Mode, TensorRule, Trial
from watch.rules.parameters import integer, number, state

MAXIMUM_EARLIER = 64  # saved steps of a weight that are remembered


@dataclass(kw_only=True)
class WeightUpdateRatio(TensorRule):
    """Fires at a step where a weight's update, relative to the weight, is above `large_threshold` or below
    `small_threshold`.

    The ratio is mean(|weight now - weight before|) / (mean(|weight before|) + epsilon): AWS does not say how it makes
    one number of a tensor, and ratios of single elements would be ruled by those next to zero. Before is the previous
    saved training step, or with `num_steps` the earliest saved one that is at most so many steps back.

    Source: AWS guide, "List of Debugger built-in rules", WeightUpdateRatio.
    """

    advice = (
        "Updates should be about a thousandth of the weights. Where they are far larger, lower the learning rate; "
        "where they are almost zero, raise it, and check that the layer is meant to be trained."
    )
    needs = "no weights were saved at two training steps"

    num_steps: int | None = integer(None, at_least=1)
    large_threshold: float = number(10.0, above=0)
    small_threshold: float = number(1e-8, at_least=0)
    epsilon: float = number(1e-9, above=0)

    earlier: dict[str, deque[tuple[int, Array]]] = state(dict)

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        if mode.name != "TRAIN":
            return None
        sentence = None
        for name, weight in self.tensors(trial, step, mode, collections=("weights",)):
            before = self._before(name, step)
            self.earlier[name].append((step, weight))
            if before is not None:
                sentence = sentence or self._judge(name, step, weight, before)
        return sentence

    def _before(self, name: str, step: int) -> tuple[int, Array] | None:
        earlier = self.earlier.setdefault(name, deque(maxlen=MAXIMUM_EARLIER if self.num_steps else 1))
        while self.num_steps and earlier and earlier[0][0] < step - self.num_steps:
            earlier.popleft()
        return earlier[0] if earlier else None

    def _judge(self, name: str, step: int, weight: Array, before: tuple[int, Array]) -> str | None:
        old_step, old = before
        ratio = float(np.mean(np.abs(weight - old)) / (np.mean(np.abs(old)) + self.epsilon))
        self.judged += 1
        limits = {"large_threshold": self.large_threshold, "small_threshold": self.small_threshold}
        self.plot("Size of the updates relative to the weights", "update / weight", limits).add(name, step, ratio)
        changed = f"{name} changed by {ratio:.3g} times its size from step {old_step} to step {step}"
        if ratio > self.large_threshold:
            return f"{changed}, above large_threshold ({self.large_threshold:g})."
        if ratio < self.small_threshold and not math.isnan(ratio):
            return f"{changed}, below small_threshold ({self.small_threshold:g})."
        return None
