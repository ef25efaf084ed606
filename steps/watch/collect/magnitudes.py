"""Magnitudes of gradients, weights, biases and losses over the steps, for the report's plots."""

import math
from typing import Any

import numpy as np

from watch.read.tensors import SavedStep, SavedTensors, TensorUnavailable
from watch.rules.evidence import Curve, finite

PARAMETERS = ("gradients", "weights", "biases")  # collections whose tensors have names such as Net_fc1.weight


class Magnitudes:
    """Collects a few hundred points per tensor while the steps go by, whatever the length of the run."""

    def __init__(self) -> None:
        self._parameters: dict[str, dict[str, Curve]] = {collection: {} for collection in PARAMETERS}
        self._losses: dict[str, Curve] = {"TRAIN": Curve(), "EVAL": Curve()}

    def add(self, saved: SavedTensors, step: SavedStep) -> None:
        """Take a training step's mean absolute values, and any step's mean loss; what cannot be read is left out."""
        losses = [_number(saved, name, step, absolute=False) for name in _members(saved, "losses", step)]
        known = [loss for loss in losses if loss is not None]
        if known and step.mode.name in self._losses:
            self._losses[step.mode.name].add(step.step, math.fsum(known) / len(known))
        if step.mode.name == "TRAIN":
            for collection, curves in self._parameters.items():
                for name in _members(saved, collection, step):
                    mean = _number(saved, name, step, absolute=True)
                    if mean is not None:
                        curves.setdefault(_short(name), Curve()).add(step.step, mean)

    def as_json(self) -> dict[str, Any]:
        """The form of rules/series.json."""
        found: dict[str, Any] = {
            collection: {name: _points(curve, "abs_mean") for name, curve in curves.items()}
            for collection, curves in self._parameters.items()
        }
        return found | {"losses": {mode: _points(curve, "value") for mode, curve in self._losses.items()}}


def _members(saved: SavedTensors, collection: str, step: SavedStep) -> list[str]:
    return saved.tensor_names(step=step.step, mode=step.mode, collection=collection)


def _number(saved: SavedTensors, name: str, step: SavedStep, *, absolute: bool) -> float | None:
    try:
        with np.errstate(all="ignore"):
            return saved.tensor(name).reduction_value(step.step, "mean", mode=step.mode, abs=absolute)
    except TensorUnavailable:
        return None


def _short(name: str) -> str:
    """hidden.weight of gradient/ClassifierHead_hidden.weight."""
    return name.removeprefix("gradient/").partition("_")[2] or name


def _points(curve: Curve, y_name: str) -> dict[str, Any]:
    return {"step": [int(x) for x in curve.x], y_name: [finite(y) for y in curve.y]}
