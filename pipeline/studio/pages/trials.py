"""The trials of a search as parallel coordinates: an axis for each hyperparameter and the objective, a line a trial."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SHOWN_TRIALS = 300  # the best
WIDTH, HEIGHT, TOP, SIDE = 860, 260, 26, 70  # in pixels


@dataclass(frozen=True)
class Axis:
    """An axis: its place, what stands at it, and where a value lies on it (None: nowhere)."""

    name: str
    x: float
    ticks: list[tuple[float, str]]
    y_of: Callable[[Any], float | None]


def plot(search: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return axes and lines of a search and its DescribeHyperParameterTuningJob; None with no trial that has ended."""
    sign = -1 if search["objective_type"] == "Maximize" else 1
    ended = [trial for trial in search["trials"] if trial["objective"] is not None]
    best = sorted(ended, key=lambda trial: sign * trial["objective"])[:SHOWN_TRIALS]
    if not best:
        return None
    ranges = job.get("HyperParameterTuningJobConfig", {}).get("ParameterRanges", {})
    scales = {each["Name"]: each.get("ScalingType") for kind in ranges.values() for each in kind or ()}
    columns = {name: [trial["hyperparameters"].get(name) for trial in best] for name in best[0]["hyperparameters"]}
    columns[search["objective_metric"] or "objective"] = [trial["objective"] for trial in best]
    gap = (WIDTH - 2 * SIDE) / max(1, len(columns) - 1)
    axes = [
        axis(name, SIDE + number * gap, values, is_log="Logarithmic" in str(scales.get(name)))
        for number, (name, values) in enumerate(columns.items())
    ]
    lines = []
    for number, trial in enumerate(best):
        values = [each[number] for each in columns.values()]
        points = [(at.x, at.y_of(value)) for at, value in zip(axes, values, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points if y is not None)
        title = ", ".join(f"{at.name}={value}" for at, value in zip(axes, values, strict=True))
        lines.append({"points": path, "title": title, "is_winner": trial["winner"]})
    lines.sort(key=lambda line: line["is_winner"])  # what is drawn last lies on top
    return {"axes": axes, "lines": lines, "width": WIDTH, "height": HEIGHT, "left_out": len(ended) - len(best)}


def axis(name: str, x: float, values: list[Any], *, is_log: bool) -> Axis:
    """Return the axis of some values: of numbers from the least to the largest, else one place for each."""
    numbers = [number_of(value) for value in values if value is not None]
    length = HEIGHT - 2 * TOP
    if None in numbers:
        names = sorted({str(value) for value in values if value is not None})
        places = {text: TOP + length * (n + 0.5) / len(names) for n, text in enumerate(names)}
        return Axis(name, x, [(y, text) for text, y in places.items()], lambda value: places.get(str(value)))
    known = [number for number in numbers if number is not None]
    low, high = min(known), max(known)
    scale = math.log if is_log and low > 0 else float
    span = (scale(high) - scale(low)) or 1.0

    def y_of(value: Any) -> float | None:
        return None if value is None else TOP + length * (1 - (scale(float(value)) - scale(low)) / span)

    ticks = [(y, text) for number in dict.fromkeys((high, low)) if (y := y_of(number)) and (text := f"{number:.4g}")]
    return Axis(f"{name} (log)" if scale is math.log else name, x, ticks, y_of)


def number_of(value: Any) -> float | None:
    """Return a finite number, or None for any other text."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
