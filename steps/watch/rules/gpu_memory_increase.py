"""GPUMemoryIncrease: a GPU's memory that keeps filling up."""

from dataclasses import dataclass

import numpy as np

from watch.rules.base import Profile
from watch.rules.figures import Floats, over_time
from watch.rules.gpu_rule import GpuRule
from watch.rules.parameters import integer, number


@dataclass(kw_only=True)
class GPUMemoryIncrease(GpuRule):
    """Fires where the mean of `window` samples of a GPU's memory is more than `increase` percentage points above the
    mean of the `window` samples before them. Nothing is judged in the first `patience` samples.

    Source: AWS guide, "List of Debugger built-in profiler rules", GPUMemoryIncrease; increase and window of the
    rulesconfig package, but the documented patience of 100 (the package's 1000 would never judge a run of minutes).
    """

    advice = (
        "Something keeps tensors alive from step to step. Keep losses and outputs as numbers (.item(), .detach()) "
        "rather than as tensors that hold the whole graph, and do not collect batches in a list."
    )
    needs = "no GPU has more samples than patience, and two windows of them"

    increase: float = number(5, above=0, at_most=100)
    patience: int = integer(100, at_least=1)
    window: int = integer(10, at_least=1)

    def evaluate(self, profile: Profile, now: float) -> str | None:
        gpus = self.gpus(profile, "GPUMemoryUtilization")
        self.evidence = over_time("GPU memory in use", "share of the GPU's memory (%)", gpus, {}) if gpus else None
        sentences = []
        for name, (_, values) in gpus.items():
            growth = self._growth(values)
            if len(growth):
                self.judged += 1
                if growth.max() > self.increase:
                    sentences.append(
                        f"The memory of {name} grew by {growth.max():.3g} percentage points from one window of "
                        f"{self.window} samples to the next (increase {self.increase:g})."
                    )
        return " ".join(sentences) or None

    def _growth(self, values: Floats) -> Floats:
        """At each sample after `patience`, the mean of the window that ends there less the mean of the one before."""
        sums = np.concatenate([[0.0], np.cumsum(values)])
        means = (sums[self.window :] - sums[: -self.window]) / self.window  # means[i] ends at sample i + window - 1
        growth: Floats = means[self.window :] - means[: -self.window]  # growth[i] ends at sample i + 2 * window - 1
        return growth[max(0, self.patience + 1 - 2 * self.window) :]
