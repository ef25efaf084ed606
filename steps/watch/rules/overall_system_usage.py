"""OverallSystemUsage: how busy the machine was, as a whole. It never fires."""

from dataclasses import dataclass

import numpy as np

from watch.rules.base import Profile, ProfilerRule
from watch.rules.figures import finite_curves, mean_curve, over_time

RESOURCES = {
    "CPU": "CPUUtilization",
    "memory": "MemoryUsedPercent",
    "waiting for I/O": "I/OWaitPercentage",
    "GPU": "GPUUtilization",
    "GPU memory": "GPUMemoryUtilization",
}


@dataclass(kw_only=True)
class OverallSystemUsage(ProfilerRule):
    """Never fires: its evidence is the mean use of every resource over time, with median and 95th percentile.

    Source: AWS guide, "List of Debugger built-in profiler rules", OverallSystemUsage.
    """

    advice = "Compare what is used with what is paid for: a resource that is never near 100 % can be smaller."
    needs = "no system metrics were sampled"

    def evaluate(self, profile: Profile, now: float) -> str | None:
        curves = {}
        for name, dimension in RESOURCES.items():
            times, values = mean_curve(finite_curves(profile, dimension))
            if len(values):
                p50, p95 = np.quantile(values, (0.5, 0.95))
                curves[f"{name} (median {p50:.3g} %, 95th percentile {p95:.3g} %)"] = times, values
        if curves:
            self.judged += 1
            self.evidence = over_time("Use of the machine", "in use (%)", curves, {})
        return None
