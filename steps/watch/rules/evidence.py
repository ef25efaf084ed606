"""Evidence of a rule: a few curves and thresholds that a report can plot, small whatever the length of the run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MAXIMUM_POINTS = 400  # of a curve
MAXIMUM_CURVES = 12


@dataclass
class Curve:
    """Points of one curve. When it is full, every second one is dropped, and of later ones every second is left out."""

    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    stride: int = 1
    seen: int = 0

    def add(self, x: float, y: float) -> None:
        if self.seen % self.stride == 0:
            if len(self.x) == MAXIMUM_POINTS:
                self.x, self.y = self.x[::2], self.y[::2]
                self.stride *= 2
            if self.seen % self.stride == 0:
                self.x.append(x)
                self.y.append(y)
        self.seen += 1


@dataclass
class Evidence:
    """What a report plots for a rule: curves, and thresholds as horizontal lines. Labels name the unit."""

    title: str
    x_label: str
    y_label: str
    thresholds: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)

    def add(self, name: str, x: float, y: float) -> None:
        """Append one point to a curve; beyond a dozen curves, new ones are left out."""
        if name in self.curves or len(self.curves) < MAXIMUM_CURVES:
            self.curves.setdefault(name, Curve()).add(float(x), float(y))

    def replace(self, name: str, x: Sequence[float], y: Sequence[float]) -> None:
        """Set a whole curve; of long ones, points at even distances."""
        step = math.ceil(len(x) / MAXIMUM_POINTS) or 1
        self.curves[name] = Curve([float(value) for value in x[::step]], [float(value) for value in y[::step]])

    def as_json(self) -> dict[str, Any]:
        """The form in rules/status.json; values that are not finite become null."""
        return {
            "title": self.title,
            "x_label": self.x_label,
            "y_label": self.y_label,
            "series": [
                {"name": name, "x": [round(x, 3) for x in curve.x], "y": [finite(y) for y in curve.y]}
                for name, curve in self.curves.items()
            ],
            "thresholds": [{"name": name, "y": y} for name, y in self.thresholds.items()],
        }


def finite(value: float) -> float | None:
    """The value with 6 significant digits, or None for NaN and infinity, which JSON lacks."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
