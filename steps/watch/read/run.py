"""What is known about a run: its history, the rules' verdicts and their diagnosis, magnitudes over time, its profile.

Each file may be missing, cut off or damaged, since the training may have been killed and the disk full: then `missing`
says so in a sentence, and the rest is read. What is not of the expected kind becomes nothing, never an exception.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from watch.read.profile import Profile, read_profile
from watch.read.records import read_file
from watch.read.source import HISTORY, STATUS, Source, SourceError, find

STATUSES = ("IssuesFound", "Error", "InProgress", "Stopped", "NoIssuesFound")  # in the order in which they are shown
SHOWN_FIRINGS = 20
OPERATORS = "profile/torch/operators.json"
PANELS = (".html", ".png")  # of the script's own in panels/
CONSEQUENCES = {
    HISTORY: "how the training went, epoch by epoch, is not known",
    STATUS: "the rules' verdicts are not known",
    "rules/series.json": "gradients and weights over time are not known",
    OPERATORS: "the heaviest operators are not known",
}
T = TypeVar("T")


@dataclass(frozen=True)
class Firing:
    """One time at which a rule fired."""

    sentence: str
    step: int | None
    mode: str | None
    time: float | None  # epoch seconds
    worker: str | None  # None: there is only one


@dataclass(frozen=True)
class Rule:
    """One rule's verdict, as rules/status.json has it."""

    name: str
    rule: str  # the class
    kind: str  # tensor or profiler
    status: str
    action: str
    semantics: str  # watch or aws
    severity: str  # fatal, problem or hint
    cause: str | None
    parameters: Mapping[str, Any]
    fired: tuple[Firing, ...]
    evidence: Mapping[str, Any]  # empty: none
    advice: str
    traceback: str
    note: str  # why it says little
    judged: int | None  # how often there was enough data to answer

    @property
    def is_sound(self) -> bool:
        """Whether it found nothing although it could have."""
        return self.status == "NoIssuesFound" and not self.note and self.judged != 0


@dataclass(frozen=True)
class Finding:
    """One entry of the diagnosis: rules that fired for the same cause. What to look at first comes first."""

    cause: str
    severity: str
    sentence: str
    advice: str
    rules: tuple[str, ...]


@dataclass(frozen=True)
class Epoch:
    """One epoch's figures; None is what was not recorded or is no finite number."""

    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    lr: float | None
    seconds: float | None


@dataclass(frozen=True)
class Record:
    """Everything that is known about a training."""

    history: Mapping[str, Any]  # history.json as it is; empty: none
    epochs: tuple[Epoch, ...]
    observer: Mapping[str, Any]
    rules: tuple[Rule, ...]  # fired ones first
    diagnosis: tuple[Finding, ...]
    series: Mapping[str, Any]  # rules/series.json
    profile: Profile
    operators: Mapping[str, Any]  # operators.json; empty: none
    panels: tuple[Path, ...] = ()
    is_live: bool = False  # the training goes on
    missing: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        """Wall time from start to end."""
        started, ended = self.time("started"), self.time("ended")
        return (ended - started).total_seconds() if started and ended else None

    def time(self, name: str) -> datetime | None:
        """Return `started` or `ended`; without a zone it is taken for UTC."""
        try:
            found = datetime.fromisoformat(text(self.history.get(name)))
        except ValueError:
            return None
        return found if found.tzinfo else found.replace(tzinfo=UTC)

    @property
    def best(self) -> Epoch | None:
        """The epoch whose weights were kept."""
        return self._epoch("best_epoch")

    @property
    def fine_tuning_from(self) -> int | None:
        """The epoch with which the backbone began to learn, too; None where it never did."""
        first = self._epoch("fine_tuning_from_epoch")
        return first.epoch if first else None

    def _epoch(self, name: str) -> Epoch | None:
        """The epoch whose number the history gives by that name."""
        wanted = whole(self.history.get(name))
        return next((epoch for epoch in self.epochs if epoch.epoch == wanted), None)


def read_record(run: Source | Path, verdicts: Path | None = None) -> Record:
    """Read what is there; `verdicts` is the folder with rules/, where it is not the run's."""
    source = run if isinstance(run, Source) else _find(run)
    missing: list[str] = []
    places = {name: (verdicts or source.folder) / name for name in CONSEQUENCES}
    places |= {
        HISTORY: source.folder / HISTORY,
        OPERATORS: (source.profile or source.folder / "profile") / "torch/operators.json",
    }
    history, status, series, operators = (_document(path, name, missing) for name, path in places.items())
    profile = read_profile(source.profile or source.folder / "profile")
    observer = mapping(status.get("observer"))
    missing += [*profile.missing, *_troubles(history, observer)]
    panels = sorted((source.folder / "panels").glob("*"))
    return Record(
        history=history,
        epochs=tuple(
            _shaped(Epoch, entry, epoch=n if (named := whole(mapping(entry).get("epoch"))) is None else named)
            for n, entry in enumerate(items(history.get("epochs")), start=1)
        ),
        observer=observer,
        rules=tuple(sorted(map(_rule, items(status.get("rules"))), key=_urgency)),
        diagnosis=tuple(
            _shaped(Finding, entry, rules=tuple(map(text, items(mapping(entry).get("rules")))))
            for entry in items(status.get("diagnosis"))
        ),
        series=series,
        profile=profile,
        operators=operators,
        panels=tuple(path for path in panels if path.suffix in PANELS and path.is_file()),
        is_live=source.is_live(),
        missing=tuple(missing),
    )


def series_of(value: Any, y_name: str) -> tuple[list[float], list[float | None]]:
    """Return steps and values of one series of rules/series.json."""
    entry = mapping(value)
    pairs = zip(numbers(entry.get("step")), numbers(entry.get(y_name)), strict=False)
    known = [(step, y) for step, y in pairs if step is not None]
    return [step for step, _ in known], [y for _, y in known]


def read_json(path: Path) -> tuple[Any, str | None]:
    """Return the document, NaN and infinities as None; or None with why there is none: "is missing", say."""
    try:
        content = read_file(path).decode("utf-8", errors="replace")
        return json.loads(
            content, parse_constant=lambda _: None, parse_float=lambda digits: number(float(digits))
        ), None
    except FileNotFoundError:
        return None, "is missing"
    except OSError as error:
        return None, f"cannot be read ({error.strerror or error})"
    except (ValueError, RecursionError):
        return None, "is damaged: it is not JSON"


def number(value: Any) -> float | None:
    """Return a finite number, or None."""
    try:
        found = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def whole(value: Any) -> int | None:
    """Return a whole number, or None."""
    found = number(value)
    return None if found is None else int(found)


def text(value: Any, default: str = "") -> str:
    """Return a text that can be written as UTF-8, or the default."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else default


def mapping(value: Any) -> dict[str, Any]:
    """Return a JSON object, or an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """Return a list, or an empty one."""
    return value if isinstance(value, list) else []


def numbers(value: Any) -> list[float | None]:
    """Return a list's finite numbers, None in the place of each other entry."""
    return [number(item) for item in items(value)]


READERS: dict[Any, Callable[[Any], Any]] = {  # of a member of that type
    str: text,
    str | None: lambda value: text(value) or None,
    int: whole,
    int | None: whole,
    float | None: number,
    Mapping[str, Any]: mapping,
}


def _shaped(kind: type[T], value: Any, **given: Any) -> T:
    """A dataclass out of a JSON object, each member read by its type."""
    entry = mapping(value)
    members = {item.name: item.type for item in fields(kind) if item.name not in given}  # type: ignore[arg-type]
    return kind(**given, **{name: READERS[wanted](entry.get(name)) for name, wanted in members.items()})


def _rule(value: Any) -> Rule:
    entry = mapping(value)
    name = text(entry.get("name")) or "a rule without a name"
    usual = {"rule": name, "status": "InProgress", "action": "none", "semantics": "watch", "severity": "problem"}
    fired = tuple(_shaped(Firing, firing) for firing in items(entry.get("fired"))[:SHOWN_FIRINGS])
    return _shaped(
        Rule, usual | {key: found for key, found in entry.items() if found or found == 0}, name=name, fired=fired
    )


def _find(folder: Path) -> Source:
    try:
        return find(folder)
    except SourceError:
        return Source(folder, None, None)


def _document(path: Path, name: str, missing: list[str]) -> dict[str, Any]:
    found, problem = read_json(path)
    if problem is None and not isinstance(found, dict):
        problem = "is damaged: it is no JSON object"
    if problem:
        missing.append(f"{name} {problem}, so {CONSEQUENCES[name]}.")
    return mapping(found)


def _troubles(history: Mapping[str, Any], observer: Mapping[str, Any]) -> Iterator[str]:
    """What went wrong beside the training."""
    if trouble := text(history.get("debugger_trouble")):
        yield f"The debugger had trouble during the training: {trouble}"
    state, detail = text(observer.get("state")), text(observer.get("detail"))
    if state == "killed":
        yield f"The observer, which evaluates the rules, ended before the training did. {detail}".rstrip()
    elif state == "running" and history:
        yield "The observer, which evaluates the rules, said no last word: verdicts are as of its last look."
    elif detail:
        yield f"The observer, which evaluates the rules, says: {detail}"


def _urgency(rule: Rule) -> int:
    return STATUSES.index(rule.status) if rule.status in STATUSES else len(STATUSES)
