"""What a debugger rule is: parameters, a condition, evidence and advice.

A rule is a dataclass; its fields are its documented parameters, and making one checks them. A TensorRule is shown every
saved step of one worker once, in order, and answers with a sentence if its condition is met at it, or at the end of the
run. A ProfilerRule is shown the profile so far, again and again. Both remember what they need, never the whole run:
there may be 100,000 steps. A class of this kind in a file of your own is a rule (rules/registry.py says where):

    from dataclasses import dataclass

    from watch.rules.base import Mode, Positive, TensorRule, Trial


    @dataclass(kw_only=True)
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
from dataclasses import dataclass, field, fields
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

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
        limits = (found > self.above, "above", self.above), (found >= self.at_least, "at least", self.at_least)
        for kept, words, limit in (*limits, (found <= self.at_most, "at most", self.at_most)):
            if not kept:
                raise ValueError(f"{words} {limit:g}, but got {value}")
        return int(found) if self.whole else found


def _flag(value: Any) -> bool:
    try:
        return {"true": True, "false": False}[str(value).lower()]
    except KeyError:
        raise ValueError(f"true or false, but got {value!r}") from None


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
Whole = Annotated[int, Within(at_least=0, whole=True)]
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
    metadata = getattr(kinds[0], "__metadata__", None)
    return (metadata[0] if metadata else READERS.get(kinds[0], lambda same: same))(value)


def state(factory: Callable[[], Any]) -> Any:
    """A field that is no parameter: what the rule remembers between two steps."""
    return field(init=False, repr=False, default_factory=factory)


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
        curves = self.curves.items()
        return {
            "title": self.title,
            "x_label": self.x_label,
            "y_label": self.y_label,
            "series": [
                {"name": name, "x": [round(x, 3) for x in curve.x], "y": [finite(y) for y in curve.y]}
                for name, curve in curves
            ],
            "thresholds": [{"name": name, "y": y} for name, y in self.thresholds.items()],
        }


def finite(value: float) -> float | None:
    """The value with 6 significant digits, or None for NaN and infinity, which JSON lacks."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


@dataclass(kw_only=True)
class Rule:
    """The common part of all rules. A ParameterError says which parameters have values that are not accepted.

    A subclass sets advice, needs, severity and cause; a rule may change them by what it found before it answers.
    """

    kind: Kind = field(init=False, repr=False, default="tensor")
    advice: str = field(init=False, repr=False, default="")  # what to do when it fires; default: as of its cause
    needs: str = field(init=False, repr=False, default="there was nothing to judge")  # what was missing, if so
    severity: Severity = field(init=False, repr=False, default="problem")
    cause: str | None = field(init=False, repr=False, default=None)  # of those in rules/diagnosis.py
    judged: int = field(init=False, repr=False, default=0)  # how often there was enough data to answer
    evidence: Evidence | None = field(init=False, repr=False, default=None)

    semantics: Semantics = "watch"  # aws: as AWS documents the rule, where ours differs

    def __post_init__(self) -> None:
        sentences = []
        for name, accepted in get_type_hints(type(self), include_extras=True).items():
            if name in (*self.parameter_names(), "semantics"):
                try:
                    setattr(self, name, read_parameter(getattr(self, name), accepted))
                except ValueError as error:
                    sentences.append(f"{name} must be {error}.")
        if sentences:
            raise ParameterError(sentences)

    @classmethod
    def parameter_names(cls) -> list[str]:
        return [item.name for item in fields(cls) if item.init and item.name != "semantics"]

    def parameters(self) -> dict[str, Any]:
        """The parameters by their documented names, as JSON."""
        found = {name: getattr(self, name) for name in self.parameter_names()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    def plot(
        self, title: str, y_label: str, thresholds: Mapping[str, float], x_label: str = "training step"
    ) -> Evidence:
        """The rule's evidence, made when there is a first point to plot."""
        if self.evidence is None:
            self.evidence = Evidence(title, x_label, y_label, dict(thresholds))
        return self.evidence

    @property
    def wants_stop(self) -> bool:
        """Whether its own parameters ask for the training to stop when it fires."""
        return False

    @property
    def note(self) -> str | None:
        """Why the verdict says little, if it does."""
        return None if self.judged else f"too little data: {self.needs}"


@dataclass(kw_only=True)
class TensorRule(Rule):
    """A rule on saved tensors."""

    now: float = field(init=False, repr=False, default=0.0)  # epoch seconds at which the step shown was saved

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        """Judge one saved step: a sentence if the condition is met at it.

        A TensorUnavailable that reading raises passes the step over.

        Args:
            step: Counts within the mode. Each step is shown once, in the order of the training.
        """
        raise NotImplementedError

    def idle(self, now: float) -> str | None:
        """Judge that nothing new was saved by `now`, epoch seconds. Called after every look at the disk."""
        return None

    def conclude(self) -> str | None:
        """Judge the whole run, once, when the training is over."""
        return None

    def tensors(
        self, trial: Trial, step: int, mode: Mode, *, collections: Sequence[str] = (), regex: Sequence[str] = ()
    ) -> Iterator[tuple[str, Array]]:
        """Names and values of the step's tensors that are in a collection or match a pattern; in order, each once."""
        for name in self.names(trial, step, mode, collections=collections, regex=regex):
            yield name, trial.tensor(name).value(step, mode=mode)

    def names(
        self, trial: Trial, step: int, mode: Mode, *, collections: Sequence[str] = (), regex: Sequence[str] = ()
    ) -> list[str]:
        """Names of the step's tensors that are in a collection or match a pattern."""
        found: set[str] = set()
        for collection in collections:
            found.update(trial.tensor_names(step=step, mode=mode, collection=collection))
        if regex:
            found.update(trial.tensor_names(step=step, mode=mode, regex=list(regex)))
        return sorted(found)


@dataclass(kw_only=True)
class ProfilerRule(Rule):
    """A rule on system metrics and step times."""

    kind = "profiler"
    cause = "machine"

    scan_interval_us: Count = 60_000_000  # it is evaluated that often, and at the end in any case

    def evaluate(self, profile: Profile, now: float) -> str | None:
        """Judge the profile so far: a sentence while the condition is met.

        Args:
            now: Epoch seconds. `now` of the last call is the end of the training.
        """
        raise NotImplementedError

    def summarise(self, fired: Mapping[str, Sequence[str]]) -> str | None:
        """Judge by what the other profiler rules found: their sentences by rule name, empty for those without.

        Only ProfilerReport answers; it is asked after the others were evaluated.
        """
        return None


@dataclass(kw_only=True)
class FigureRule(TensorRule):
    """A rule on one figure of each of some tensors: fires at a step where a figure is beyond a limit.

    With our semantics it must have been so at `patience` saved steps on end: what passes by itself is no fault.
    """

    patience: ClassVar[int] = 3
    axis: ClassVar[tuple[str, str]]  # title and unit of the plot

    runs: dict[str, int] = state(dict)  # saved steps on end with the figure beyond the limit, by mode and tensor

    def chosen(self, trial: Trial, step: int, mode: Mode) -> list[str]:
        """Names of the tensors that it looks at."""
        raise NotImplementedError

    def figure(self, trial: Trial, name: str, step: int, mode: Mode) -> float | None:
        """The figure of one of them; None where it has none."""
        raise NotImplementedError

    def limits(self) -> dict[str, float | None]:
        """Limits by the names of their parameters."""
        return {}

    def needed(self, name: str) -> int:
        """How many saved steps on end a tensor's figure must be beyond a limit."""
        return self.patience if self.semantics == "watch" else 1

    def wrong(self, name: str, figure: float) -> str | None:
        """The words after the tensor's name, if the figure is beyond a limit."""
        raise NotImplementedError

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        found = []
        for name in self.chosen(trial, step, mode):
            figure = self.figure(trial, name, step, mode)
            if figure is None:
                continue
            self.judged += 1
            if mode.name == "TRAIN":
                limits = {limit: value for limit, value in self.limits().items() if value is not None}
                self.plot(*self.axis, limits).add(name, step, figure)
            words, key = self.wrong(name, figure), f"{mode.name} {name}"
            self.runs[key] = self.runs.get(key, 0) + 1 if words else 0
            if words and self.runs[key] >= self.needed(name):
                found.append(f"{name} {words} at step {step} of mode {mode.name}")
        others = f", and so do {len(found) - 1} other tensors" if len(found) > 1 else ""
        return f"{found[0]}{others}." if found else None


@dataclass(kw_only=True)
class ChosenTensors(FigureRule):
    """A rule on the tensors that are in one of `collection_names` or match one of `tensor_regex`."""

    needs = "no tensor of the chosen collections or names was saved"
    choice_required: ClassVar[bool] = True

    collection_names: Names | None = None
    tensor_regex: Patterns | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.choice_required and not (self.collection_names or self.tensor_regex):
            raise ParameterError(["collection_names or tensor_regex must say which tensors to look at."])

    def chosen(self, trial: Trial, step: int, mode: Mode) -> list[str]:
        if not (self.collection_names or self.tensor_regex):
            return trial.tensor_names(step=step, mode=mode)
        return self.names(trial, step, mode, collections=self.collection_names or (), regex=self.tensor_regex or ())
