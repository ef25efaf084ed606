"""The trials of a search as parallel coordinates: an axis for each hyperparameter and the objective, a line a trial."""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pipeline.service.comparison import shorten_number

SHOWN_TRIALS = 300  # the best
WIDTH, HEIGHT, TOP, SIDE = 860, 260, 26, 70  # in pixels


def plot(search: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    """Return axes and lines of a search and its DescribeHyperParameterTuningJob; no lines while no trial has ended."""
    sign = -1 if search["objective_type"] == "Maximize" else 1
    ended = [trial for trial in search["trials"] if trial["objective"] is not None]
    best = sorted(ended, key=lambda trial: sign * trial["objective"])[:SHOWN_TRIALS]
    best.sort(key=lambda trial: trial["winner"])  # what is drawn last lies on top
    ranges = job.get("HyperParameterTuningJobConfig", {}).get("ParameterRanges", {})
    scales = {each["Name"]: str(each.get("ScalingType")) for kind in ranges.values() for each in kind or ()}
    columns = {name: [trial["hyperparameters"].get(name) for trial in best] for name in scales}
    columns[search["objective_metric"] or "objective"] = [trial["objective"] for trial in best]
    axes, places = [], []
    for number, (name, values) in enumerate(columns.items()):
        is_log = "Logarithmic" in scales.get(name, "")
        heights, labels = scale(values, is_log=is_log)
        x = SIDE + number * (WIDTH - 2 * SIDE) / max(1, len(columns) - 1)
        ticks = [(heights[text], shorten_number(text)) for text in labels]
        axes.append({"name": f"{name} (log)" if is_log else name, "x": x, "ticks": ticks})
        places.append([f"{x:.1f},{heights[str(value)]:.1f}" if value is not None else "" for value in values])
    lines = [
        {
            "points": " ".join(points),
            "title": ", ".join(f"{name}={values[number]}" for name, values in columns.items()),
            "is_winner": best[number]["winner"],
        }
        for number, points in enumerate(zip(*places, strict=True))
    ]
    return {"axes": axes, "lines": lines, "width": WIDTH, "height": HEIGHT, "left_out": len(ended) - len(best)}


def scale(values: list[Any], *, is_log: bool) -> tuple[dict[str, float], list[str]]:
    """Return where each value lies on an axis, and those that are written beside it: all, of numbers the ends."""
    texts = sorted({str(value) for value in values if value is not None})
    numbers: dict[str, float] = {}
    with suppress(ValueError):
        numbers = {text: math.log(float(text)) if is_log else float(text) for text in texts}
    labels = sorted(numbers, key=lambda text: numbers[text])[:: max(1, len(numbers) - 1)]
    if not all(map(math.isfinite, numbers.values())) or len(numbers) < len(texts):
        numbers, labels = {text: float(place) for place, text in enumerate(texts)}, texts
    low, high = min(numbers.values(), default=0.0), max(numbers.values(), default=0.0)
    length = HEIGHT - 2 * TOP
    return {text: TOP + length * (high - n) / ((high - low) or 1.0) for text, n in numbers.items()}, labels
