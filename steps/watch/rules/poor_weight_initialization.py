"""PoorWeightInitialization: first weights from which a network does not learn."""

import math
from dataclasses import dataclass

import numpy as np

from watch.rules.base import Mode, TensorRule, Trial
from watch.rules.losses import mean_loss
from watch.rules.parameters import integer, number, patterns, state


@dataclass(kw_only=True)
class PoorWeightInitialization(TensorRule):
    """Fires within the first `steps` saved training steps, where

    - the largest variance of a layer's activation inputs is more than `threshold` times the smallest one's, or
    - the 5th and the 95th percentile of a gradient are less than `distribution_range` apart, or
    - the loss has found no new minimum for `patience` saved steps.

    Source: AWS guide, "List of Debugger built-in rules", PoorWeightInitialization.
    """

    advice = (
        "Good first weights differ from one another and keep the variance from layer to layer. Use the framework's "
        "own initialisation (Kaiming for ReLU, Xavier for tanh) and no constant; check that inputs are normalised."
    )
    needs = "no gradients, losses or activation inputs were saved in training"

    activation_inputs_regex: tuple[str, ...] = patterns((".*relu_input",))
    threshold: float = number(10.0, at_least=1)
    distribution_range: float = number(0.001, at_least=0)
    patience: int = integer(5, at_least=1)
    steps: int = integer(10, at_least=1)

    steps_seen: int = state(int)
    lowest_loss: float = state(lambda: math.inf)
    steps_since: int = state(int)  # the lowest loss

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        if mode.name != "TRAIN" or self.steps_seen >= self.steps:
            return None
        self.steps_seen += 1
        checks = (self._check_variances, self._check_gradients, self._check_loss)
        sentences = [check(trial, step, mode) for check in checks]
        return next((sentence for sentence in sentences if sentence), None)

    def _check_variances(self, trial: Trial, step: int, mode: Mode) -> str | None:
        inputs = self.names(trial, step, mode, regex=self.activation_inputs_regex)
        variances = _without_nan(
            {name: float(trial.tensor(name).reduction_value(step, "variance", mode=mode)) for name in inputs}
        )
        if len(variances) < 2:
            return None
        self.judged += 1
        largest = max(variances, key=lambda name: variances[name])
        smallest = min(variances, key=lambda name: variances[name])
        if not variances[largest] > self.threshold * variances[smallest]:
            return None
        return (
            f"At step {step} the variance of {largest} is {variances[largest]:.3g} and that of {smallest} "
            f"{variances[smallest]:.3g}, more than {self.threshold:g} times less (threshold)."
        )

    def _check_gradients(self, trial: Trial, step: int, mode: Mode) -> str | None:
        ranges = _without_nan(
            {
                name: float(np.subtract(*np.percentile(gradient, (95, 5))))
                for name, gradient in self.tensors(trial, step, mode, collections=("gradients",))
                if gradient.size
            }
        )
        if not ranges:
            return None
        self.judged += 1
        name = min(ranges, key=lambda name: ranges[name])
        limits = {"distribution_range": self.distribution_range}
        plot = self.plot("The narrowest gradient of the first steps", "95th - 5th percentile", limits)
        plot.add("narrowest gradient", step, ranges[name])
        if not ranges[name] < self.distribution_range:
            return None
        return (
            f"At step {step} the middle 90 % of {name} lie within {ranges[name]:.3g} "
            f"(distribution_range {self.distribution_range:g})."
        )

    def _check_loss(self, trial: Trial, step: int, mode: Mode) -> str | None:
        loss = mean_loss(self, trial, step, mode, None)
        if loss is None:
            return None
        self.judged += 1
        self.steps_since = 0 if loss < self.lowest_loss else self.steps_since + 1
        self.lowest_loss = min(loss, self.lowest_loss)
        if self.steps_since < self.patience:
            return None
        return (
            f"The loss has not fallen for {self.steps_since} saved steps up to step {step} (patience {self.patience})."
        )


def _without_nan(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not math.isnan(value)}
