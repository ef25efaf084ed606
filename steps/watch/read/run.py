"""What a training left below its output directory, read for the report: history, rules, magnitudes, profile.

Each file may be missing, cut off or damaged, since the training may have been killed and the disk full: then `missing`
says so in a sentence, and the rest is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from watch.read.profile_figures import Profile, read_profile
from watch.read.values import items, mapping, number, numbers, plain, read_json, text, whole

STATUSES = ("IssuesFound", "Error", "InProgress", "Stopped", "NoIssuesFound")  # in the order in which they are shown
SHOWN_FIRINGS = 20


@dataclass(frozen=True)
class Firing:
    """One time at which a rule fired."""

    sentence: str
    step: int | None
    mode: str | None
    time: float | None  # epoch seconds


@dataclass(frozen=True)
class Rule:
    """One rule's verdict."""

    name: str
    rule: str  # the class
    kind: str
    status: str
    action: str
    parameters: Mapping[str, Any]
    fired: tuple[Firing, ...]
    evidence: Mapping[str, Any]  # empty: none
    advice: str
    traceback: str
    note: str


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
    series: Mapping[str, Any]  # rules/series.json
    profile: Profile
    operators: Mapping[str, Any]  # operators.json; empty: none
    missing: tuple[str, ...] = field(default=())

    @property
    def seconds(self) -> float | None:
        """Wall time from start to end."""
        started, ended = self.time("started"), self.time("ended")
        return (ended - started).total_seconds() if started and ended else None

    def time(self, name: str) -> datetime | None:
        """`started` or `ended`; without a zone it is taken for UTC."""
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


def read_record(output_dir: Path) -> Record:
    """Read what is there."""
    missing: list[str] = []
    history = _document(output_dir / "history.json", "history.json", _HISTORY, missing)
    status = _document(output_dir / "rules/status.json", "rules/status.json", _RULES, missing)
    series = _document(output_dir / "rules/series.json", "rules/series.json", _SERIES, missing)
    operators = _document(output_dir / "profile/torch/operators.json", "profile/torch/operators.json", _OPS, missing)
    profile = read_profile(output_dir / "profile")
    missing += profile.missing
    missing += _troubles(history, mapping(status.get("observer")), output_dir)
    return Record(
        history=history,
        epochs=tuple(_epoch(entry, number) for number, entry in enumerate(items(history.get("epochs")), start=1)),
        observer=mapping(status.get("observer")),
        rules=tuple(sorted(map(_rule, items(status.get("rules"))), key=_urgency)),
        series=series,
        profile=profile,
        operators=operators,
        missing=tuple(missing),
    )


_HISTORY = "how the training went, epoch by epoch, is not known"
_RULES = "the rules' verdicts are not known"
_SERIES = "gradients and weights over time are not known"
_OPS = "the heaviest operators are not known"


def _document(path: Path, name: str, consequence: str, missing: list[str]) -> dict[str, Any]:
    found, problem = read_json(path)
    if problem is None and not isinstance(found, dict):
        problem = "is damaged: it is no JSON object"
    if problem:
        missing.append(f"{name} {problem}, so {consequence}.")
    return mapping(found)


def _troubles(history: Mapping[str, Any], observer: Mapping[str, Any], output_dir: Path) -> list[str]:
    """What went wrong beside the training."""
    found = []
    if trouble := text(history.get("debugger_trouble")):
        found.append(f"The debugger had trouble during the training: {trouble}")
    detail = text(observer.get("detail"))
    state = text(observer.get("state"))
    if state == "killed":
        found.append(f"The observer, which evaluates the rules, ended before the training did. {detail}".rstrip())
    elif state == "running" and history:
        found.append("The observer, which evaluates the rules, said no last word: verdicts are as of its last look.")
    elif detail:
        found.append(f"The observer, which evaluates the rules, says: {detail}")
    return found


def _rule(value: Any) -> Rule:
    entry = mapping(value)
    name = text(entry.get("name")) or "a rule without a name"
    return Rule(
        name=name,
        rule=text(entry.get("rule")) or name,
        kind=text(entry.get("kind")),
        status=text(entry.get("status")) or "InProgress",
        action=text(entry.get("action"), "none"),
        parameters=plain(mapping(entry.get("parameters"))),
        fired=tuple(map(_firing, items(entry.get("fired"))[:SHOWN_FIRINGS])),
        evidence=mapping(entry.get("evidence")),
        advice=text(entry.get("advice")),
        traceback=text(entry.get("traceback")),
        note=text(entry.get("note")),
    )


def _firing(value: Any) -> Firing:
    entry = mapping(value)
    return Firing(
        sentence=text(entry.get("sentence")),
        step=whole(entry.get("step")),
        mode=text(entry.get("mode")) or None,
        time=number(entry.get("time")),
    )


def _urgency(rule: Rule) -> int:
    return STATUSES.index(rule.status) if rule.status in STATUSES else len(STATUSES)


def _epoch(value: Any, position: int) -> Epoch:
    entry = mapping(value)
    named = whole(entry.get("epoch"))
    figures = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "lr", "seconds")
    return Epoch(position if named is None else named, *(number(entry.get(name)) for name in figures))


def series_of(value: Any, y_name: str) -> tuple[list[float], list[float | None]]:
    """Steps and values of one series of rules/series.json."""
    entry = mapping(value)
    pairs = zip(numbers(entry.get("step")), numbers(entry.get(y_name)), strict=False)
    known = [(step, y) for step, y in pairs if step is not None]
    return [step for step, _ in known], [y for _, y in known]
