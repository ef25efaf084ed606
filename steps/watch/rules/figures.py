"""Figures of a profile as rules want them: finite, side by side, and on one time axis."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from watch.rules.base import Profile
from watch.rules.evidence import Evidence

Floats = npt.NDArray[np.float64]
Curves = Mapping[str, tuple[Floats, Floats]]  # name -> (epoch seconds (N,), values (N,))
SNAPSHOT_SECONDS = 0.02  # figures this close together belong to one sample; the service's profiler takes the same


def finite_curves(profile: Profile, dimension: str) -> dict[str, tuple[Floats, Floats]]:
    """The figures of a dimension by name, without those that are no number; names without any are left out."""
    found = {}
    for name, (times, values) in profile.samples(dimension).items():
        known = np.isfinite(values)
        if known.any():
            found[name] = times[known], values[known]
    return found


def snapshots(lowest: Curves, highest: Curves) -> tuple[Floats, Floats, Floats]:
    """Samples in which both have figures: seconds, the lowest of the first, the highest of the second: (N,) each."""
    series = [*lowest.values(), *highest.values()]
    if not lowest or not highest:
        return np.array([]), np.array([]), np.array([])
    times = np.sort(np.concatenate([times for times, _ in series]))
    starts = times[np.concatenate([[True], np.diff(times) > SNAPSHOT_SECONDS])]
    low, high = np.full(len(starts), np.inf), np.full(len(starts), -np.inf)
    for at, values in lowest.values():
        np.minimum.at(low, np.searchsorted(starts, at, side="right") - 1, values)
    for at, values in highest.values():
        np.maximum.at(high, np.searchsorted(starts, at, side="right") - 1, values)
    both = np.isfinite(low) & np.isfinite(high)
    return starts[both], low[both], high[both]


def mean_curve(curves: Curves) -> tuple[Floats, Floats]:
    """Mean over all names (cores, GPUs) at each moment: seconds and values, (N,) each."""
    if not curves:
        return np.array([]), np.array([])
    times = np.concatenate([times for times, _ in curves.values()])
    values = np.concatenate([values for _, values in curves.values()])
    moments, place = np.unique(times, return_inverse=True)
    return moments, np.bincount(place, values) / np.bincount(place)


def over_time(title: str, unit: str, curves: Curves, thresholds: Mapping[str, float]) -> Evidence:
    """Curves against the seconds since the first figure of them all."""
    evidence = Evidence(title, "seconds since the first sample", unit, dict(thresholds))
    start = min((times[0] for times, _ in curves.values() if len(times)), default=0.0)
    for name, (times, values) in curves.items():
        evidence.replace(name, (times - start).tolist(), values.tolist())
    return evidence
