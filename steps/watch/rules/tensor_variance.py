"""TensorVariance: tensors that vary too much or too little."""

import math
from dataclasses import dataclass

from watch.rules.base import Mode, Trial
from watch.rules.parameters import ParameterError, number
from watch.rules.selection import ChosenTensorsRule


@dataclass(kw_only=True)
class TensorVariance(ChosenTensorsRule):
    """Fires at a step where a tensor's variance is above `max_threshold` or below `min_threshold`.

    At least one of the two has to be given, since the rule could never fire otherwise.

    Source: AWS guide, "List of Debugger built-in rules", TensorVariance.
    """

    advice = (
        "A variance far from the usual points to a bad initialisation or a learning rate that does not fit: gradients "
        "explode where it is too high and vanish where it is too low."
    )

    max_threshold: float | None = number(None, at_least=0)
    min_threshold: float | None = number(None, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_threshold is None and self.min_threshold is None:
            raise ParameterError(["max_threshold or min_threshold must be given."])

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        limits = {"max_threshold": self.max_threshold, "min_threshold": self.min_threshold}
        known_limits = {name: y for name, y in limits.items() if y is not None}
        sentence = None
        for name in self.chosen_names(trial, step, mode):
            variance = float(trial.tensor(name).reduction_value(step, "variance", mode=mode))
            self.judged += 1
            if mode.name == "TRAIN":
                self.plot("Variance", "variance", known_limits).add(name, step, variance)
            sentence = sentence or self._compare(name, variance, step, mode)
        return sentence

    def _compare(self, name: str, variance: float, step: int, mode: Mode) -> str | None:
        where = f"The variance of {name} is {variance:.3g} at step {step} of mode {mode.name}"
        if self.max_threshold is not None and variance > self.max_threshold:
            return f"{where}, above max_threshold ({self.max_threshold:g})."
        if self.min_threshold is not None and variance < self.min_threshold and not math.isnan(variance):
            return f"{where}, below min_threshold ({self.min_threshold:g})."
        return None
