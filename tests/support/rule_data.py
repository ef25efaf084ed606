"""Saved tensors and profiles made of plain data, for rules.

A tensor is a number, nested lists, or {"parts": [[value, count], ...]} for many equal values, with an optional "shape".
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from watch.read.tensors import Mode, TensorUnavailable

COLLECTIONS = {  # smdebug's own, and those that the product's hook adds
    "losses": "[Ll]oss_(?!input).*output",
    "gradients": "^gradient",
    "weights": "^(?!gradient).*weight",
    "biases": "^(?!gradient).*bias",
    "relu_input": ".*relu_input",
    "relu_output": ".*relu_output",
}
REDUCTIONS = {"mean": np.mean, "min": np.min, "max": np.max, "variance": np.var, "std": np.std}


def array(data: Any) -> npt.NDArray[Any]:
    if isinstance(data, Mapping):
        parts = [np.full(count, value, np.float64) for value, count in data["parts"]]
        return np.concatenate(parts).reshape(data.get("shape", -1))
    return np.asarray(data, np.float64)


class DictTensor:
    """One tensor of a DictTrial."""

    def __init__(self, name: str, saved: Mapping[tuple[str, int], Mapping[str, npt.NDArray[Any]]]) -> None:
        self.name = name
        self.saved = saved

    def steps(self, mode: Any) -> list[int]:
        return [step for (found, step), tensors in self.saved.items() if found == mode.name and self.name in tensors]

    def value(self, step_num: int, mode: Any) -> npt.NDArray[Any]:
        try:
            return self.saved[mode.name, step_num][self.name]
        except KeyError as error:
            raise TensorUnavailable(self.name) from error

    def reduction_value(
        self, step_num: int, reduction_name: str, mode: Any, worker: str | None = None, abs: bool = False
    ) -> Any:
        value = self.value(step_num, mode)
        return REDUCTIONS[reduction_name](np.abs(value) if abs else value)


class DictTrial:
    """A run's saved tensors: `show` adds a step."""

    def __init__(self) -> None:
        self.saved: dict[tuple[str, int], dict[str, npt.NDArray[Any]]] = {}

    def show(self, step: int, mode: Mode, tensors: Mapping[str, Any]) -> None:
        self.saved[mode.name, step] = {name: array(data) for name, data in tensors.items()}

    def steps(self, mode: Any) -> list[int]:
        return [step for found, step in self.saved if found == mode.name]

    def tensor_names(
        self, *, step: int | None = None, mode: Any, regex: Any = None, collection: str | None = None
    ) -> list[str]:
        names = {
            name for (found, at), tensors in self.saved.items() if (found, at) == (mode.name, step) for name in tensors
        }
        patterns = regex if regex is not None else [COLLECTIONS[collection]] if collection else [".*"]
        return sorted({name for name in names if any(re.search(pattern, name) for pattern in patterns)})

    def tensor(self, tname: str) -> DictTensor:
        return DictTensor(tname, self.saved)


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
