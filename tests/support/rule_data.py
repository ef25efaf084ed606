"""Saved tensors and profiles made of plain data, for rules.

A tensor is a number, nested lists, or {"parts": [[value, count], ...]} for many equal values, with an optional "shape".
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def array(data: Any) -> npt.NDArray[Any]:
    if isinstance(data, Mapping):
        parts = [np.full(count, value, np.float64) for value, count in data["parts"]]
        return np.concatenate(parts).reshape(data.get("shape", -1))
    return np.asarray(data, np.float64)


class DictProfile:
    """A profile: {"samples": {dimension: {name: curve}}, "steps": {...}, "phases": {name: seconds}}.

    A curve is {"start": seconds, "interval": seconds, "values": tensor}; steps are {"starts": tensor, "durations":
    tensor, "mode": "TRAIN"}.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data

    def refresh(self) -> None:
        """Plain data do not change."""

    def samples(
        self, dimension: str, name: str | None = None
    ) -> dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        curves = self.data.get("samples", {}).get(dimension, {})
        return {found: _curve(curve) for found, curve in curves.items() if name in (None, found)}

    def steps(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], list[str]]:
        steps = self.data.get("steps", {"starts": [], "durations": []})
        durations = array(steps["durations"])
        starts = array(steps["starts"]) if "starts" in steps else np.concatenate([[0.0], np.cumsum(durations)[:-1]])
        modes: Sequence[str] = steps.get("modes") or [steps.get("mode", "TRAIN")] * len(durations)
        return starts, durations, list(modes)

    def phases(self) -> dict[str, float]:
        return dict(self.data.get("phases", {}))


def _curve(curve: Mapping[str, Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    values = array(curve["values"])
    return curve.get("start", 0.0) + curve.get("interval", 0.5) * np.arange(len(values)), values
