"""What a debugger rule is: parameters, a condition, evidence and advice.

A rule is a dataclass; its fields are its documented parameters, and making one checks them. A TensorRule is shown every
saved step of one worker once, in order, and answers with a sentence if its condition is met at it, or at the end of the
run. A ProfilerRule is shown the profile so far, again and again. Both remember what they need, never the whole run:
there may be 100,000 steps. A class of this kind in a file of your own is a rule (rules/registry.py says where):

    from watch.rules.base import Mode, Positive, TensorRule, Trial


    class LargeLoss(TensorRule):
        '''Fires at a step whose loss is above `limit`.'''

        advice = "Lower the learning rate."
        needs = "no losses were saved"
        limit: Positive = 100.0

        def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
            for name, loss in self.tensors(trial, step, mode, collections=("losses",)):
                self.judged += 1
                self.plot("Loss", "loss", {"limit": self.limit}).add(name, step, loss.mean())
                if loss.mean() > self.limit:
                    return f"{name} is {loss.mean():.3g} at step {step} (limit {self.limit:g})."
            return None
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, dataclass_transform, get_args, get_origin, get_type_hints

import numpy.typing as npt

from watch.read.profile import ProfileReader
from watch.read.tensors import Mode, SavedTensors

__all__ = ["Mode", "Profile", "ProfilerRule", "Rule", "TensorRule", "Trial"]

Array = npt.NDArray[Any]
Trial = SavedTensors
Profile = ProfileReader
Kind = Literal["tensor", "profiler"]
Semantics = Literal["watch", "aws"]
Severity = Literal["fatal", "problem", "hint"]
MAXIMUM_POINTS = 400  # of a curve
MAXIMUM_CURVES = 12


class ParameterError(ValueError):
    """One sentence per mistake in a rule's parameters."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__(" ".join(sentences))
        self.sentences = sentences


@dataclass(frozen=True)
class Within:
    """Reads a number within limits, also from its text: YAML's 1e-7 is one, and all of SageMaker's RuleParameters."""

    at_least: float = -math.inf
    at_most: float = math.inf
    above: float = -math.inf
    whole: bool = False

    def __call__(self, value: Any) -> float:
        try:
            found = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            found = math.nan
        if not math.isfinite(found) or (self.whole and not found.is_integer()):
            raise ValueError(f"a {'whole ' * self.whole}number, but got {value!r}")
        low, words = (self.above, "above") if found <= self.above else (self.at_least, "at least")
        if found <= self.above or found < self.at_least:
            raise ValueError(f"{words} {low:g}, but got {value}")
        if found > self.at_most:
            raise ValueError(f"at most {self.at_most:g}, but got {value}")
        return int(found) if self.whole else found


def _flag(value: Any) -> bool:
    if (text := str(value).lower()) not in ("true", "false"):
        raise ValueError(f"true or false, but got {value!r}")
    return text == "true"


def _names(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"a list of strings, but got {value!r}")
    found = tuple(part.strip() for part in parts if part.strip())
    if not found:
        raise ValueError("a list of at least one string, but got none")
    return found


def _patterns(value: Any) -> tuple[str, ...]:
    for pattern in (found := _names(value)):
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"a regular expression, but {pattern!r} is none ({error})") from error
    return found


# types of parameters; each is read also from text, None only where a field says `| None`
Count = Annotated[int, Within(at_least=1, whole=True)]
Nat = Annotated[int, Within(at_least=0, whole=True)]
Positive = Annotated[float, Within(above=0)]
NotNegative = Annotated[float, Within(at_least=0)]
Percent = Annotated[float, Within(at_least=0, at_most=100)]
Share = Annotated[float, Within(at_least=0, at_most=1)]
Names = Annotated[tuple[str, ...], _names]
Patterns = Annotated[tuple[str, ...], _patterns]  # looked for anywhere in a tensor's name, as smdebug does
READERS: Mapping[Any, Callable[[Any], Any]] = {float: Within(), int: Within(whole=True), bool: _flag, str: str}


def read_parameter(value: Any, accepted: Any) -> Any:
    """Return a parameter's value as its annotation has it; a ValueError says what must be."""
    kinds = get_args(accepted) if get_origin(accepted) in (Union, UnionType) else (accepted,)
    if value is None and NoneType in kinds:
        return None
    if get_origin(kinds[0]) is Literal:
        words = {str(word).lower(): word for word in get_args(kinds[0])}
        if str(value).lower() not in words:
            raise ValueError(f"one of {', '.join(words.values())}, but got {value!r}")
        return words[str(value).lower()]
    [read] = getattr(kinds[0], "__metadata__", None) or [READERS.get(kinds[0], lambda same: same)]
    return read(value)


def state(factory: Callable[[], Any]) -> Any:
    """A field that is no parameter: what the rule remembers between two steps."""
    return field(init=False, repr=False, default_factory=factory)


def known(value: Any) -> Any:
    """A field that is no parameter, with its first value."""
    return field(init=False, repr=False, default=value)


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
        curves = [(name, [round(x, 3) for x in curve.x], curve.y) for name, curve in self.curves.items()]
        series = [{"name": name, "x": x, "y": [finite(value) for value in y]} for name, x, y in curves]
        thresholds = [{"name": name, "y": y} for name, y in self.thresholds.items()]
        found = {"title": self.title, "x_label": self.x_label, "y_label": self.y_label}
        return {**found, "series": series, "thresholds": thresholds}


def figure(value: float) -> str:
    """Three digits, and no exponent where people would write none."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def finite(value: float) -> float | None:
    """The value with 6 significant digits, or None for NaN and infinity, which JSON lacks."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


@dataclass_transform(kw_only_default=True, field_specifiers=(field,))
@dataclass(kw_only=True)
class Rule:
    """The common part of all rules. A ParameterError says which parameters have values that are not accepted.

    A subclass sets advice, needs, severity and cause; a rule may change them by what it found before it answers."""

    def __init_subclass__(cls) -> None:
        made = {name: value for name, value in vars(cls).items() if isinstance(value, Field)}
        dataclass(kw_only=True)(cls)
        for name in [name for name, value in made.items() if value.default is MISSING]:
            setattr(cls, name, made[name])  # which dataclass took away: its author may decorate the class once more

    kind: Kind = known("tensor")
    advice: str = known("")  # what to do when it fires; default: as of its cause
    needs: str = known("there was nothing to judge")  # what was missing, if so
    severity: Severity = known("problem")
    cause: str | None = known(None)  # of those in rules/diagnosis.py
    judged: int = known(0)  # how often there was enough data to answer
    evidence: Evidence | None = known(None)
    semantics: Semantics = "watch"  # aws: as AWS documents the rule, where ours differs

    def __post_init__(self) -> None:
        sentences, types = [], get_type_hints(type(self), include_extras=True)
        for name in ("semantics", *self.parameter_names()):
            try:
                setattr(self, name, read_parameter(getattr(self, name), types[name]))
            except ValueError as error:
                sentences.append(f"{name} must be {error}.")
        if sentences:
            raise ParameterError(sentences)

    def require(self, met: bool, sentence: str) -> None:
        """Raise a ParameterError, unless what must hold between parameters does."""
        if not met:
            raise ParameterError([sentence])

    @classmethod
    def parameter_names(cls) -> list[str]:
        return [item.name for item in fields(cls) if item.init and item.name != "semantics"]

    def parameters(self) -> dict[str, Any]:
        """The parameters by their documented names, as JSON."""
        found = {name: getattr(self, name) for name in self.parameter_names()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    def plot(self, title: str, unit: str, limits: Mapping[str, float] = {}, x: str = "training step") -> Evidence:
        """The rule's evidence, made when there is a first point to plot, with limits by name."""
        self.evidence = self.evidence or Evidence(title, x, unit, dict(limits))
        return self.evidence

    def limits(self, *names: str) -> dict[str, float]:
        """Parameters that are limits, and set, by their names."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def counts(self, enough: bool) -> bool:
        """Whether there is enough data to answer, which is counted."""
        self.judged += enough
        return enough

    @property
    def aws(self) -> bool:
        return self.semantics == "aws"

    @property
    def wants_stop(self) -> bool:
        """Whether its own parameters ask for the training to stop when it fires."""
        return False

    @property
    def note(self) -> str | None:
        """Why the verdict says little, if it does."""
        return None if self.judged else f"too little data: {self.needs}"


class TensorRule(Rule):
    """A rule on saved tensors."""

    now: float = known(0.0)  # epoch seconds at which the step shown was saved

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        """Judge a saved step, which counts within its mode: a sentence if the condition is met at it.

        A TensorUnavailable that reading raises passes the step over."""
        raise NotImplementedError

    def idle(self, now: float) -> str | None:
        """Judge that nothing new was saved by `now`, epoch seconds. Called after every look at the disk."""
        return None

    def conclude(self) -> str | None:
        """Judge the whole run, once, when the training is over."""
        return None

    def tensors(self, trial: Trial, step: int, mode: Mode, **chosen: Sequence[str]) -> Iterator[tuple[str, Array]]:
        """Names and values of the step's tensors that `names` returns."""
        for name in self.names(trial, step, mode, **chosen):
            yield name, trial.tensor(name).value(step, mode=mode)

    def names(
        self, trial: Trial, step: int, mode: Mode, *, collections: Sequence[str] = (), regex: Sequence[str] = ()
    ) -> list[str]:
        """Names of the step's tensors that are in a collection or match a pattern; in order, each once."""
        found = {name for each in collections for name in trial.tensor_names(step=step, mode=mode, collection=each)}
        return sorted(found.union(trial.tensor_names(step=step, mode=mode, regex=list(regex)) if regex else ()))


class ProfilerRule(Rule):
    """A rule on system metrics and step times."""

    kind = "profiler"
    cause = "machine"
    scan_interval_us: Count = 60_000_000  # it is evaluated that often, and at the end in any case

    def evaluate(self, profile: Profile, now: float) -> str | None:
        """Judge the profile so far, until `now`, epoch seconds: a sentence while the condition is met."""
        raise NotImplementedError

    def summarise(self, fired: Mapping[str, Sequence[str]]) -> str | None:
        """Judge by what the other profiler rules found: their sentences by name. Only ProfilerReport answers."""
        return None
