"""What is known about a run: its history, the rules' verdicts and their diagnosis, magnitudes over time, its profile.

Each file may be missing, cut off or damaged, since the training may have been killed and the disk full: then `missing`
says so in a sentence, and the rest is read. What is not of the expected kind becomes nothing, never an exception.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from watch.read.profile import ProfileReader
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
Entry = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """Everything that is known about a training; what there is none of is empty."""

    folder: Path
    history: Entry  # history.json as it is
    observer: Entry
    rules: list[Entry]  # as in rules/status.json, with the members of RULE and FIRING; fired ones first
    diagnosis: list[Entry]  # with the members of FINDING; what to look at first comes first
    series: Entry  # rules/series.json
    profile: ProfileReader
    operators: Entry  # operators.json
    panels: list[Path]
    is_live: bool  # the training goes on
    missing: list[str]  # sentences

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


def read_record(folder: Path, verdicts: Path | None = None) -> Record:
    """Read what is there; `verdicts` is the folder with rules/, where it is not the run's. SourceError: no folder."""
    try:
        source = find(folder)
    except SourceError:
        if not folder.is_dir():
            raise
        source = Source(folder, None, None)
    missing: list[str] = []
    profile_dir = source.profile or source.folder / "profile"
    places = {name: (verdicts or source.folder) / name for name in CONSEQUENCES}
    places |= {HISTORY: source.folder / HISTORY, OPERATORS: profile_dir / "torch/operators.json"}
    history, status, series, operators = (_document(path, name, missing) for name, path in places.items())
    profile, observer = ProfileReader(profile_dir), mapping(status.get("observer"))
    profile.refresh()
    rules, panels = list(map(_rule, items(status.get("rules")))), sorted((source.folder / "panels").glob("*"))
    diagnosis = [_shaped(FINDING, entry) for entry in items(status.get("diagnosis"))]
    told = [name for entry in diagnosis for name in entry["rules"]]
    shown = {name: at for at, name in enumerate(told)}  # as the diagnosis names them
    rules.sort(key=lambda rule: ([*STATUSES, rule["status"]].index(rule["status"]), shown.get(rule["name"], 0)))
    return Record(
        folder=source.folder,
        history=history,
        observer=observer,
        rules=rules,
        diagnosis=diagnosis,
        series=series,
        profile=profile,
        operators=operators,
        panels=[path for path in panels if path.suffix in PANELS and path.is_file()],
        is_live=source.is_live(),
        missing=[*missing, *profile.missing(), *_troubles(history, observer)],
    )


def series_of(value: Any, y_name: str) -> tuple[list[float], list[float | None]]:
    """Return steps and values of one series of rules/series.json; a value that is no finite number is None."""
    steps, values = (map(number, items(mapping(value).get(name))) for name in ("step", y_name))
    known = [(step, y) for step, y in zip(steps, values, strict=False) if step is not None]
    return [step for step, _ in known], [y for _, y in known]


def read_json(path: Path) -> tuple[Any, str | None]:
    """Return the document, NaN and infinities as None; or None with why there is none: "is missing", say."""
    try:
        content = read_file(path).decode("utf-8", errors="replace")
        finite = {"parse_constant": lambda _: None, "parse_float": lambda digits: number(float(digits))}
        return json.loads(content, **finite), None  # type: ignore[arg-type]
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


def mapping(value: Any) -> Entry:
    """Return a JSON object, or an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """Return a list, or an empty one."""
    return value if isinstance(value, list) else []


def _text_or_none(value: Any) -> str | None:
    return text(value) or None


Members = Mapping[str, Callable[[Any], Any]]  # how each member is read
FIRING: Members = {"sentence": text, "step": whole, "mode": _text_or_none, "time": number, "worker": _text_or_none}
FINDING: Members = {
    **dict.fromkeys(("cause", "severity", "sentence", "advice"), text),
    "rules": lambda value: list(map(text, items(value))),
}
RULE: Members = {
    **dict.fromkeys(("name", "rule", "kind", "status", "action", "semantics", "severity", "advice"), text),
    **{"traceback": text, "note": text, "cause": _text_or_none, "judged": whole},
    **{"parameters": mapping, "evidence": mapping},
    "fired": lambda value: [_shaped(FIRING, entry) for entry in items(value)[:SHOWN_FIRINGS]],
}


def _shaped(members: Members, value: Any) -> Entry:
    return {name: read(mapping(value).get(name)) for name, read in members.items()}


def _rule(value: Any) -> Entry:
    known = {key: found for key, found in mapping(value).items() if found or found == 0}
    name = text(known.get("name")) or "a rule without a name"
    usual = {"rule": name, "status": "InProgress", "action": "none", "semantics": "watch", "severity": "problem"}
    return _shaped(RULE, usual | known | {"name": name})


def _document(path: Path, name: str, missing: list[str]) -> Entry:
    found, problem = read_json(path)
    if problem is None and not isinstance(found, dict):
        problem = "is damaged: it is no JSON object"
    if problem:
        missing.append(f"{name} {problem}, so {CONSEQUENCES[name]}.")
    return mapping(found)


def _troubles(history: Entry, observer: Entry) -> Iterator[str]:
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
