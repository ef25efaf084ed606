"""What a debugger rule is: parameters, a condition, evidence and advice. One rule a class, one class a file.

A rule is a dataclass of its documented parameters (rules/parameters.py); making one checks them. A TensorRule is shown
every saved step once, in order, and answers with a sentence if its condition is met at it. A ProfilerRule is shown the
profile so far, again and again. Both remember what they need, never the whole run: there may be 100,000 steps. A
subclass of smdebug.rules.Rule in a file here is a rule as well (rules/smdebug_rule.py).

    from dataclasses import dataclass

    from watch.rules.base import Mode, TensorRule, Trial
    from watch.rules.parameters import number


    @dataclass(kw_only=True)
    class LargeLoss(TensorRule):
        '''Fires at a step whose loss is above `limit`.'''

        advice = "Lower the learning rate."
        needs = "no losses were saved"
        limit: float = number(100.0, above=0)

        def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
            for name, loss in self.tensors(trial, step, mode, collections=("losses",)):
                self.judged += 1
                self.plot("Loss", "loss", {"limit": self.limit}).add(name, step, loss.mean())
                if loss.mean() > self.limit:
                    return f"{name} is {loss.mean():.3g} at step {step} (limit {self.limit:g})."
            return None
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from watch.rules.evidence import Evidence
from watch.rules.parameters import integer, parameter_names, read_parameters

Array = npt.NDArray[Any]
Kind = Literal["tensor", "profiler"]


class Mode(Protocol):
    """Of a step: smdebug's ModeKeys, or anything else with a name such as TRAIN or EVAL."""

    @property
    def name(self) -> str: ...


class SavedTensor(Protocol):
    """One tensor over the steps, as in smdebug."""

    def steps(self, mode: Any) -> list[int]: ...

    def value(self, step_num: int, mode: Any) -> Array: ...

    def reduction_value(
        self, step_num: int, reduction_name: str, mode: Any, worker: str | None = None, abs: bool = False
    ) -> Any: ...


class Trial(Protocol):
    """The saved tensors of a run: the part of smdebug's trial API that rules use. Steps count within their mode."""

    def steps(self, mode: Any) -> list[int]: ...

    def tensor_names(
        self, *, step: int | None = None, mode: Any, regex: Any = None, collection: str | None = None
    ) -> list[str]: ...

    def tensor(self, tname: str) -> SavedTensor: ...


class Profile(Protocol):
    """System metrics and step phases of a run: what profile_reader.ProfileReader reads from the profile's files."""

    def refresh(self) -> None: ...

    def samples(
        self, dimension: str, name: str | None = None
    ) -> Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        """Of a dimension such as CPUUtilization, per name such as cpu0: (epoch seconds (N,), values (N,))."""

    def steps(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], list[str]]:
        """Starts (epoch seconds), durations (seconds) and modes of the steps, each (N,)."""

    def phases(self) -> Mapping[str, float]:
        """Total seconds of each phase of the steps."""


@dataclass(kw_only=True)
class Rule:
    """The common part of all rules.

    Raises:
        ParameterError: A parameter has a value that is not accepted.
    """

    kind: ClassVar[Kind]
    advice: ClassVar[str]  # what to do when it fires: one to three sentences in plain words
    needs: ClassVar[str]  # what was missing if nothing could be judged, such as "no losses were saved"

    judged: int = field(init=False, repr=False, default=0)  # how often there was enough data to answer
    evidence: Evidence | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        read_parameters(self)

    def parameters(self) -> dict[str, Any]:
        """The parameters by their documented names, as JSON."""
        found = {name: getattr(self, name) for name in parameter_names(type(self))}
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

    kind: ClassVar[Kind] = "tensor"

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

    kind: ClassVar[Kind] = "profiler"

    scan_interval_us: int = integer(60_000_000, at_least=1)  # it is evaluated that often, and at the end in any case

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
