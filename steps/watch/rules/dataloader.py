"""Dataloader: too few, or too many, processes that load data."""

from dataclasses import dataclass

import numpy as np

from watch.rules.base import Profile, ProfilerRule
from watch.rules.figures import finite_curves, over_time
from watch.rules.parameters import number


@dataclass(kw_only=True)
class Dataloader(ProfilerRule):
    """Fires where the median number of loader processes is below `min_threshold` % of the cores, or above
    `max_threshold` %. Counted are the training's child processes, while there are any: a training that reads its
    batches from memory has none, and is not judged.

    Source: AWS guide, "List of Debugger built-in profiler rules", DataLoader; defaults of the rulesconfig package.
    """

    advice = (
        "As many loader processes as there are cores keep the training fed without getting in each other's way: set "
        "the number of workers accordingly."
    )
    needs = "no loader process ran beside the training"

    min_threshold: float = number(70, at_least=0)
    max_threshold: float = number(200, at_least=0)

    def evaluate(self, profile: Profile, now: float) -> str | None:
        cores = len(finite_curves(profile, "CPUUtilization"))
        workers = finite_curves(profile, "ProcessWorkers")
        counts = np.concatenate([values[values > 0] for _, values in workers.values()]) if workers else np.array([])
        if not cores or not len(counts):
            return None
        self.judged += 1
        fewest, most = cores * self.min_threshold / 100, cores * self.max_threshold / 100
        thresholds = {"min_threshold": fewest, "max_threshold": most}
        self.evidence = over_time("Loader processes", "processes", workers, thresholds)
        median = float(np.median(counts))
        if fewest <= median <= most:
            return None
        word, limit, name = ("few", fewest, "min_threshold") if median < fewest else ("many", most, "max_threshold")
        return (
            f"Too {word} loader processes for {cores} cores: {median:g} in the median, and {limit:g} is the limit by "
            f"{name} ({getattr(self, name):g} %)."
        )
