"""VanishingGradient: gradients too small to learn from."""

import math
from dataclasses import dataclass

from watch.rules.base import Mode, TensorRule, Trial
from watch.rules.parameters import number


@dataclass(kw_only=True)
class VanishingGradient(TensorRule):
    """Fires at a step where the mean of a gradient's absolute values is below `threshold`.

    Source: AWS guide, "List of Debugger built-in rules", VanishingGradient.
    """

    advice = (
        "Gradients this small no longer change the weights. Try a higher learning rate, ReLU instead of sigmoid or "
        "tanh, batch normalisation, or another weight initialisation."
    )
    needs = "no gradients were saved"

    threshold: float = number(1e-7, at_least=0)

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        means = {
            name: float(trial.tensor(name).reduction_value(step, "mean", mode=mode, abs=True))
            for name in self.names(trial, step, mode, collections=("gradients",))
        }
        if not means:
            return None
        self.judged += 1
        known = {name: mean for name, mean in means.items() if not math.isnan(mean)} or means
        name = min(known, key=lambda name: known[name])
        smallest = known[name]
        plot = self.plot("The smallest mean gradient", "mean of |gradient|", {"threshold": self.threshold})
        plot.add("smallest gradient", step, smallest)
        if not smallest < self.threshold:
            return None
        weight = name.removeprefix("gradient/")
        return (
            f"The gradient of {weight} averages {smallest:.3g} at step {step}, "
            f"below the threshold of {self.threshold:g}."
        )
