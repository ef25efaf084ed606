"""Charts as inline SVG. Colours come from the style sheet, so that they suit the theme; chart.js adds values and zoom.

A chart is drawn about as large as it is shown, the width of a phone's screen: its texts are as large as the page's.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from watch.report.page import environment, number_text

WIDTH, HEIGHT = 360, 210  # px, as in macros.html
TOP, RIGHT, BOTTOM = 6, 10, 34  # around the plot; what is left of it depends on the texts there
CHARACTER_PX = 6.4
COLOURS = 8
SHOWN_POINTS = 300  # a line; more cannot be told apart at this size
LONGEST_TEXT = 40  # characters of a legend's entry
LOG_FROM_RATIO = 100.0  # between the largest and the smallest value
LARGEST = 1e150  # beyond which differences and ratios overflow; what lies there is drawn at the edge
MOST_TICKS = 6
Point = tuple[float, float | None]


@dataclass(frozen=True)
class Line:
    """One series; None in `y` is a value that is no number, as the loss of a training that diverged."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    kind: str = "line"  # or "dots", or "area": filled down to the axis
    titles: Sequence[str] = ()  # of dots: what is said about each when pointed at


@dataclass(frozen=True)
class Chart:
    """What a chart shows. Labels name the quantity and its unit."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    thresholds: Mapping[str, float] = field(default_factory=dict)
    marks: Mapping[str, float] = field(default_factory=dict)  # places on the x axis worth a vertical line
    best: tuple[float, float, str] | None = None  # a point worth a ring, and its name
    y_limits: Sequence[float] = ()  # values that the axis must reach, as 0 and 100 of a percentage
    log_y: bool | None = None  # None: by the values
    log_x: bool = False
    whole_x: bool = False
    categories: Sequence[str] = ()  # names of x = 0, 1, 2 ...
    note: str = ""


@dataclass(frozen=True)
class Mark:
    """A line, or with a radius (px) a dot."""

    css_class: str
    points: Sequence[Point]
    title: str = ""
    radius: float = 0.0

    def values(self, member: int) -> str:
        """Return the x (0) or y (1) of all points as JSON, for chart.js."""
        found = (point[member] for point in self.points)
        return json.dumps([None if value is None else float(f"{value:.5g}") for value in found], separators=(",", ":"))


@dataclass(frozen=True)
class Axis:
    """From `low` to `high` (logarithms, if `log`), drawn over so many px."""

    low: float
    high: float
    log: bool
    length: float

    def place(self, value: float) -> float:
        """Return the px from the axis's beginning; what lies beyond an end is drawn there."""
        at = min(max(value, -LARGEST), LARGEST)
        at = math.log10(at) if self.log and at > 0 else self.low if self.log else at
        return self.length * min(max((at - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self, *, whole: bool = False) -> list[float]:
        """Return at most six round values."""
        if self.log:
            powers = range(math.floor(self.low), math.ceil(self.high) + 1)
            digits = (1,) if math.floor(self.high) - math.ceil(self.low) >= 2 else (1, 2, 5)
            places = [power + math.log10(digit) for power in powers for digit in digits]
            found = [10**place for place in places if self.low <= place <= self.high]
            return found[:: -(-len(found) // MOST_TICKS)] if found else [10**self.low]
        power = 10.0 ** math.floor(math.log10((self.high - self.low) / MOST_TICKS))
        steps = [power * size for size in (1, 2, 5, 10, 20) if not whole or power * size >= 1] or [1.0]
        step = next(size for size in steps if (self.high - self.low) / size <= MOST_TICKS or size == steps[-1])
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [number * step for number in range(first, last + 1)] or [self.low]


def chart(wanted: Chart) -> Markup:
    """Return the figure; one that has nothing to show says so."""
    known = [y for line in wanted.lines for y in line.y if y is not None]
    names = told_apart([line.name for line in wanted.lines], LONGEST_TEXT)
    macros = environment().get_template("watch/report/macros.html").module
    place = geometry(wanted, known) if known else None
    marks = list(marks_of(wanted, place["x_axis"], place["y_axis"])) if place else []
    return Markup(macros.chart_figure(wanted, names, place, marks))  # type: ignore[attr-defined]


def geometry(wanted: Chart, known: Sequence[float]) -> dict[str, Any]:
    """Return the axes, what is written along them, and what is read aloud."""
    reached = [min(max(y, -LARGEST), LARGEST) for y in (*known, *wanted.y_limits, *wanted.thresholds.values())]
    low, high = min(reached), max(reached)
    log_y = low > 0 and (wanted.log_y if wanted.log_y is not None else high / low >= LOG_FROM_RATIO)
    xs = [*itertools.chain(*(line.x for line in wanted.lines)), *wanted.marks.values()]
    y_axis = axis((low, high), log_y, HEIGHT - TOP - BOTTOM, fixed=() if log_y else wanted.y_limits)
    y_ticks = [(y, number_text(y)) for y in y_axis.ticks()]
    left = 8 + CHARACTER_PX * max(len(text) for _, text in y_ticks)
    across = (-0.5, len(wanted.categories) - 0.5) if wanted.categories else (min(xs), max(xs))
    x_axis = axis(across, wanted.log_x, WIDTH - left - RIGHT, fixed=across if wanted.categories else ())
    if wanted.categories:
        room = max(3, 50 // len(wanted.categories))  # characters
        x_ticks = [(float(n), shortened(name, room)) for n, name in enumerate(wanted.categories)]
    else:
        x_ticks = [(x, number_text(x)) for x in x_axis.ticks(whole=wanted.whole_x)]
    spoken = f"{wanted.y_label} over {wanted.x_label}, between {number_text(min(known))} and {number_text(max(known))}"
    return {"x_axis": x_axis, "y_axis": y_axis, "x_ticks": x_ticks, "y_ticks": y_ticks, "left": left, "spoken": spoken}


def axis(ends: tuple[float, float], log: bool, length: float, *, fixed: Sequence[float] = ()) -> Axis:
    """Return an axis that reaches a little beyond the values, except where an end is fixed."""
    low, high = (math.log10(end) if log else min(max(end, -LARGEST), LARGEST) for end in ends)
    room = 0.05 * (high - low) or 0.05 * abs(low) or 0.5
    fixed_high = ends[1] in fixed and high > low  # zeros alone must not make an axis of no length
    return Axis(low if ends[0] in fixed else low - room, high if fixed_high else high + room, log, length)


def marks_of(wanted: Chart, x_axis: Axis, y_axis: Axis) -> Iterator[Mark]:
    """Yield what is drawn of each line, then what is drawn over the lines."""
    for number, line in enumerate(wanted.lines):
        colour, points = f"c{number % COLOURS}", list(zip(line.x, line.y, strict=False))
        if line.kind == "dots":
            titles = itertools.chain(line.titles, itertools.repeat(""))
            yield from (Mark(f"dot {colour}", [point], title, 4) for point, title in zip(points, titles, strict=False))
            continue
        points = thinned(sorted(points, key=lambda point: point[0]), SHOWN_POINTS)
        holes = [True, *(y is None for _, y in points), True]
        yield Mark(f"{line.kind} {colour}", points, line.name)
        for n, point in enumerate(points):
            if holes[n : n + 3] == [True, False, True]:
                yield Mark(f"dot {colour}", [point], "", 3)
            elif point[1] is None:
                yield Mark("dot lost", [point], "", 3)
    (left, right), (low, high) = (
        (10**axis.low, 10**axis.high) if axis.log else (axis.low, axis.high) for axis in (x_axis, y_axis)
    )
    yield from (Mark("threshold", [(left, y), (right, y)]) for y in wanted.thresholds.values())
    yield from (Mark("mark", [(x, low), (x, high)]) for x in wanted.marks.values())
    if wanted.best:
        yield Mark("dot best", [wanted.best[:2]], "", 6.5)


def histogram(name: str, values: Sequence[float], bins: int = 40) -> Line:
    """Return the outline of how many values lie where."""
    heights, edges = np.histogram(values, bins=bins)
    outline = np.repeat(heights, 2)
    return Line(name, np.repeat(edges, 2).tolist(), [0.0, *outline.tolist(), 0.0], "area")


def thinned(points: list[Point], limit: int) -> list[Point]:
    """Return at most about `limit` points: of each stretch its lowest, its highest and what is not a number."""
    if len(points) <= limit:
        return points
    size = -(-2 * len(points) // limit)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        known = sorted((point for point in stretch if point[1] is not None), key=lambda point: point[1] or 0.0)
        lost = [point for point in stretch if point[1] is None]
        kept += sorted({*known[:1], *known[-1:], *lost[:1]}, key=lambda point: point[0])
    return kept


def told_apart(names: Sequence[str], limit: int) -> list[str]:
    """Return names of at most `limit` characters that still differ: of long ones the beginning that they share is left
    out, as that of `backbone.blocks.0.weight` and `backbone.blocks.1.weight`."""
    if len(names) < 2 or max(map(len, names)) <= limit:
        return [shortened(name, limit) for name in names]
    split = [name.split(".") for name in names]
    shared = len(list(itertools.takewhile(lambda column: len(set(column)) == 1, zip(*split, strict=False))))
    rests = [("…" if shared else "") + ".".join(parts[shared:]) for parts in split]
    return [rest if len(rest) <= limit else f"{rest[: limit - 1]}…" for rest in rests]


def shortened(name: str, limit: int) -> str:
    """Return at most `limit` characters; the end of a long text tells most, as that of `head.3.weight`."""
    return name if len(name) <= limit else f"…{name[-(limit - 1) :]}"
