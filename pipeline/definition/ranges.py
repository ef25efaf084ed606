"""What a tuning job searches: `ParameterRanges` of HyperParameterTuningJobConfig, checked and scaled.

A range maps the unit interval onto its hyperparameter, so that the sampler knows nothing of scales: `text_at(u)` is the
value at `u` in [0, 1] as SageMaker hands it to a training job, a string. A categorical range has `values` instead.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.definition.paths import listing
from pipeline.suggestion import did_you_mean

MAX_RANGES = 30  # of all kinds together, ParameterRanges
MAX_CATEGORIES = 30  # CategoricalParameterRange.Values
_AUTO_LOGARITHMIC_RATIO = 100.0  # Auto takes the logarithmic scale for positive bounds at least this far apart


@dataclass(frozen=True)
class Scale:
    """A monotonic map of a hyperparameter onto the axis that is searched evenly, and back."""

    forward: Callable[[float], float]
    backward: Callable[[float], float]


SCALES = {
    "Linear": Scale(lambda value: value, lambda position: position),
    "Logarithmic": Scale(math.log, math.exp),
    "ReverseLogarithmic": Scale(lambda value: -math.log1p(-value), lambda position: -math.expm1(-position)),
}


@dataclass(frozen=True)
class ContinuousRange:
    """Floating-point values from `low` to `high`, both included."""

    name: str
    low: float
    high: float
    scale: str

    @property
    def combinations(self) -> float:
        """How many different values there are."""
        return math.inf if self.low < self.high else 1

    def text_at(self, unit: float) -> str:
        """The value at `unit` in [0, 1]."""
        return repr(min(max(_between(self.scale, self.low, self.high, unit), self.low), self.high))

    def unit_of(self, text: str) -> float | None:
        """Where in [0, 1] a value lies; None outside the range."""
        value = _number(text)
        if value is None or not self.low <= value <= self.high or self.low == self.high:
            return None
        return _position(self.scale, self.low, self.high, value)


@dataclass(frozen=True)
class IntegerRange:
    """Whole numbers from `low` to `high`, both included."""

    name: str
    low: int
    high: int
    scale: str

    @property
    def combinations(self) -> float:
        """How many different values there are."""
        return self.high - self.low + 1

    def text_at(self, unit: float) -> str:
        """The value at `unit` in [0, 1]; on the linear scale each has an equal share."""
        value = _between(self.scale, self.low - 0.5, self.high + 0.5, unit)
        return str(min(max(round(value), self.low), self.high))

    def unit_of(self, text: str) -> float | None:
        """Where in [0, 1] a value lies; None outside the range."""
        value = _number(text)
        if value is None or not self.low <= value <= self.high or self.low == self.high:
            return None
        return _position(self.scale, self.low - 0.5, self.high + 0.5, value)


@dataclass(frozen=True)
class CategoricalRange:
    """One of some texts."""

    name: str
    values: tuple[str, ...]

    @property
    def combinations(self) -> float:
        """How many different values there are."""
        return len(self.values)


Range = ContinuousRange | IntegerRange | CategoricalRange


class RangeError(ValueError):
    """One range is not acceptable; the sentence says why."""


def _number(text: str) -> float | None:
    """What a text says, if it is a number."""
    try:
        return float(text.strip('"'))
    except ValueError:
        return None


def _position(scale: str, low: float, high: float, value: float) -> float:
    start, end = SCALES[scale].forward(low), SCALES[scale].forward(high)
    return min(max((SCALES[scale].forward(value) - start) / (end - start), 0.0), 1.0)


def _between(scale: str, low: float, high: float, unit: float) -> float:
    start, end = SCALES[scale].forward(low), SCALES[scale].forward(high)
    return SCALES[scale].backward(start + unit * (end - start))


def read_ranges(parameter_ranges: Mapping[str, Any]) -> tuple[list[Range], list[str]]:
    """The ranges in their order (integer, continuous, categorical), and a sentence for each fault."""
    ranges: list[Range] = []
    faults: list[str] = []
    for kind, entry in _entries(parameter_ranges):
        try:
            ranges.append(_KINDS[kind](_name(kind, entry), entry))
        except RangeError as error:
            faults.append(str(error))
    names = [str(entry.get("Name")) for _, entry in _entries(parameter_ranges)]
    faults += [f"Hyperparameter '{name}' has two ranges." for name in sorted(set(names)) if names.count(name) > 1]
    if not names:
        faults.append("ParameterRanges must hold at least one range, but holds none.")
    if len(names) > MAX_RANGES:
        faults.append(f"ParameterRanges must hold at most {MAX_RANGES} ranges, but holds {len(names)}.")
    if parameter_ranges.get("AutoParameters"):
        faults.append("AutoParameters (Autotune) are not known to the local target; give each of them a range.")
    return ranges, faults


def _entries(parameter_ranges: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for kind in _KINDS:
        for entry in parameter_ranges.get(kind) or []:
            yield kind, entry


def _name(kind: str, entry: Mapping[str, Any]) -> str:
    name = entry.get("Name")
    if not isinstance(name, str) or not name:
        raise RangeError(f"A member of {kind} needs a Name, but has {name!r}.")
    return name


def _continuous(name: str, entry: Mapping[str, Any]) -> ContinuousRange:
    low, high = _bounds(name, entry, float, "a number")
    return ContinuousRange(name, low, high, _scale(name, entry, low, high, tuple(SCALES)))


def _integer(name: str, entry: Mapping[str, Any]) -> IntegerRange:
    low, high = _bounds(name, entry, int, "a whole number")
    return IntegerRange(name, int(low), int(high), _scale(name, entry, low, high, ("Linear", "Logarithmic")))


def _categorical(name: str, entry: Mapping[str, Any]) -> CategoricalRange:
    values = entry.get("Values")
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_CATEGORIES:
        found = f"{len(values)} values" if isinstance(values, list) else repr(values)
        raise RangeError(f"Range '{name}' must list 1 to {MAX_CATEGORIES} values, but has {found}.")
    texts = tuple(str(value) for value in values)
    twice = [text for text in dict.fromkeys(texts) if texts.count(text) > 1]
    if twice:
        raise RangeError(f"Range '{name}' lists {listing(twice)} more than once.")
    return CategoricalRange(name, texts)


_KINDS: dict[str, Callable[[str, Mapping[str, Any]], Range]] = {
    "IntegerParameterRanges": _integer,
    "ContinuousParameterRanges": _continuous,
    "CategoricalParameterRanges": _categorical,
}


def _bounds(name: str, entry: Mapping[str, Any], parse: Callable[[str], float], noun: str) -> tuple[float, float]:
    low, high = (_bound(name, key, entry.get(key), parse, noun) for key in ("MinValue", "MaxValue"))
    if low > high:
        raise RangeError(f"Range '{name}' must have MinValue <= MaxValue, but goes from {low} to {high}.")
    return low, high


def _bound(name: str, key: str, found: Any, parse: Callable[[str], float], noun: str) -> float:
    try:
        value = parse(str(found))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RangeError(f"Range '{name}' must have {noun} as {key}, but has {found!r}.")
    return value


def _scale(name: str, entry: Mapping[str, Any], low: float, high: float, accepted: tuple[str, ...]) -> str:
    scale = str(entry.get("ScalingType", "Auto"))
    if scale == "Auto":
        return "Logarithmic" if low > 0 and high / low >= _AUTO_LOGARITHMIC_RATIO else "Linear"
    if scale not in accepted:
        known = ("Auto", *accepted)
        near = did_you_mean(scale, known)
        raise RangeError(f"Range '{name}' must have one of {listing(known)} as ScalingType, but has {scale!r}.{near}")
    if scale == "Logarithmic" and low <= 0:
        raise RangeError(f"Range '{name}' must have MinValue > 0 on the logarithmic scale, but starts at {low}.")
    if scale == "ReverseLogarithmic" and not 0 <= low <= high < 1:
        raise RangeError(
            f"Range '{name}' must lie in 0 <= x < 1 on the reverse logarithmic scale, but goes from {low} to {high}."
        )
    return scale
