"""The common part of the profiler rules that judge GPUs."""

from dataclasses import dataclass

import numpy as np

from watch.rules.base import Profile, ProfilerRule
from watch.rules.figures import Floats, finite_curves
from watch.rules.parameters import state

NO_GPU = "there is no GPU here: nothing to judge"


@dataclass(kw_only=True)
class GpuRule(ProfilerRule):
    """A rule that finds no issues on a machine without a GPU, and says so."""

    without_gpu: bool = state(bool)

    @property
    def note(self) -> str | None:
        return NO_GPU if self.without_gpu and not self.judged else super().note

    def gpus(self, profile: Profile, dimension: str = "GPUUtilization") -> dict[str, tuple[Floats, Floats]]:
        """Figures of each GPU: seconds (N,) and percent (N,), finite."""
        found = finite_curves(profile, dimension)
        self.without_gpu = not profile.samples("GPUUtilization") and bool(profile.samples("CPUUtilization"))
        return found


def quantile(values: Floats, share: float, window: int) -> float:
    """A quantile of the last `window` figures."""
    return float(np.quantile(values[-window:], share))
