"""AllZero: tensors that consist of zeros."""

from dataclasses import dataclass

import numpy as np

from watch.rules.base import Mode, Trial
from watch.rules.parameters import number
from watch.rules.selection import ChosenTensorsRule


@dataclass(kw_only=True)
class AllZero(ChosenTensorsRule):
    """Fires at a step where the share of zeros in a tensor reaches `threshold` per cent.

    Source: AWS guide, "List of Debugger built-in rules", AllZero.
    """

    advice = (
        "A part of the network that is all zeros does not learn and passes nothing on. Check the initialisation and "
        "that the data are not zero; zero activations behind a ReLU call for a lower learning rate."
    )

    threshold: float = number(100.0, above=0, at_most=100)

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        shares = {
            name: 100 * (1 - np.count_nonzero(value) / value.size) for name, value in self.chosen(trial, step, mode)
        }
        if not shares:
            return None
        self.judged += 1
        name = max(shares, key=lambda name: shares[name])
        largest = shares[name]
        if mode.name == "TRAIN":
            plot = self.plot("The largest share of zeros in a tensor", "zeros (%)", {"threshold": self.threshold})
            plot.add("largest share", step, largest)
        if largest < self.threshold:
            return None
        return (
            f"{name} consists to {largest:.4g} % of zeros at step {step} of mode {mode.name} "
            f"(threshold {self.threshold:g} %)."
        )
