"""Axes: from values to places on the paper, linear or logarithmic, and the ticks that a person would choose."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from classifier.reports.page import number_text

LOG_FROM_RATIO = 100.0  # between the largest and the smallest value
NICE_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
LARGEST = 1e150  # beyond which differences and ratios overflow; what lies there is drawn at the edge
ROOM = 0.05  # of the range, beyond the outermost values


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` on an axis of `length` units."""

    low: float
    high: float
    length: float
    log: bool = False
    ticks: tuple[float, ...] = ()

    def at(self, value: float) -> float:
        """The place of a value, 0 to length; values beyond the ends are put at the ends."""
        inside = min(max(value, self.low), self.high)
        if self.log:
            return self.length * math.log(inside / self.low) / math.log(self.high / self.low)
        return self.length * (inside - self.low) / (self.high - self.low)

    def labels(self) -> list[tuple[float, str]]:
        """The place and the text of each tick."""
        return [(self.at(value), number_text(value)) for value in self.ticks]


def fitted(values: Sequence[float], length: float, *, log: bool | None = None, limits: Sequence[float] = ()) -> Scale:
    """A scale on which every value has its place.

    Args:
        values: finite numbers; may be empty.
        length: of the axis.
        log: whether it is logarithmic; None chooses by the values, which must be positive for that.
        limits: further values that the axis must reach, as 0 and 100 of a percentage; it then ends there.
    """
    known = [min(max(value, -LARGEST), LARGEST) for value in (*values, *limits)] or [0.0, 1.0]
    low, high = min(known), max(known)
    if log is None:
        log = low > 0 and high / low >= LOG_FROM_RATIO
    if log and low > 0:
        return log_scale(max(low, 1 / LARGEST), max(high, 1 / LARGEST), length)
    return linear_scale(low, high, length, set(limits))


def log_scale(low: float, high: float, length: float) -> Scale:
    """Decades, at most six of them labelled."""
    spread = max(high / low, 1.5) ** ROOM
    low, high = low / spread, high * spread
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    step = max(1, math.ceil((last - first + 1) / 6))
    ticks = [10.0**power for power in range(first, last + 1, step)]
    if len(ticks) < 3:
        powers = range(math.floor(math.log10(low)), last + 1)
        ticks = [found for power in powers for digit in (1, 2, 5) if low <= (found := digit * 10.0**power) <= high]
    return Scale(low, high, length, log=True, ticks=tuple(ticks))


def linear_scale(low: float, high: float, length: float, fixed: set[float]) -> Scale:
    """Three to six ticks at round numbers."""
    if high == low:
        room = abs(low) * ROOM or 0.5
        low, high = low - room, high + room
    else:
        room = ROOM * (high - low)
        low, high = (low if low in fixed else low - room), (high if high in fixed else high + room)
    step = nice_step((high - low) / 4)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Scale(low, high, length, ticks=tuple(n * step for n in range(first, last + 1)))


def counted_scale(values: Sequence[float], length: float) -> Scale:
    """A scale for whole numbers, as epochs and steps are: ticks fall on whole numbers only."""
    known = values or [0.0, 1.0]
    low, high = min(known), max(known)
    if high == low:
        return Scale(low - 0.5, high + 0.5, length, ticks=(low,))
    step = max(1, round(nice_step((high - low) / 4)))
    first = math.ceil(low / step)
    ticks = [float(n * step) for n in range(first, math.floor(high / step) + 1)]
    return Scale(low, high, length, ticks=tuple(ticks))


def nice_step(rough: float) -> float:
    """The next larger of 1, 2, 2.5, 5 times a power of ten."""
    if not 0 < rough < math.inf:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in NICE_STEPS if step * power >= rough * (1 - 1e-9))
