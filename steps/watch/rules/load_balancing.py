"""LoadBalancing: GPUs of which some work more than others."""

import itertools
from dataclasses import dataclass

import numpy as np

from watch.rules.base import Profile
from watch.rules.figures import Floats, over_time
from watch.rules.gpu_rule import GpuRule
from watch.rules.parameters import integer, number

BINS = np.arange(0, 101, 2)  # percent of utilisation


@dataclass(kw_only=True)
class LoadBalancing(GpuRule):
    """Fires where the histograms of two GPUs' utilisation are further than `threshold` apart: the Jensen-Shannon
    distance, 0 for equal ones and 0.833 (the root of ln 2) for those without any overlap. GPUs are judged once each
    has more than `patience` samples.

    Source: AWS guide, "List of Debugger built-in profiler rules", LoadBalancing; threshold of the rulesconfig package,
    patience as documented (the package's 1000 would never judge a run of minutes).
    """

    advice = (
        "Some GPUs wait for others. Give every GPU the same number of images per step, and look for work that only one "
        "of them does: logging, saving, or gathering outputs."
    )
    needs = "there are not two GPUs with more samples than patience"

    threshold: float = number(0.5, at_least=0, at_most=1)
    patience: int = integer(10, at_least=1)

    def evaluate(self, profile: Profile, now: float) -> str | None:
        gpus = self.gpus(profile)
        self.evidence = over_time("GPU utilisation", "utilisation (%)", gpus, {}) if gpus else None
        seen = {
            name: np.histogram(np.clip(values, 0, 100), BINS)[0]
            for name, (_, values) in gpus.items()
            if len(values) > self.patience
        }
        distances = {pair: _distance(seen[pair[0]], seen[pair[1]]) for pair in itertools.combinations(seen, 2)}
        if not distances:
            return None
        self.judged += 1
        (first, second), distance = max(distances.items(), key=lambda item: item[1])
        if distance <= self.threshold:
            return None
        return (
            f"{first} and {second} are not equally busy: the histograms of their utilisation are {distance:.3g} apart "
            f"(threshold {self.threshold:g})."
        )


def _distance(first: Floats, second: Floats) -> float:
    """Jensen-Shannon distance of two histograms, natural logarithm."""
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2
    return float(np.sqrt(max(0.0, (_divergence(p, middle) + _divergence(q, middle)) / 2)))


def _divergence(p: Floats, q: Floats) -> float:
    """Kullback-Leibler divergence; bins that p never hits add nothing."""
    hit = p > 0
    return float(np.sum(p[hit] * np.log(p[hit] / q[hit])))
