"""The section on rules: what fired comes first and open, with evidence and advice; what is quiet is one line each."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from watch.read.run import Record, Rule
from watch.read.values import items, mapping, number, numbers, text
from watch.report.charts import Chart, Line, chart
from watch.report.page import counted, duration_text
from watch.report.rule_words import meaning

VERDICTS = {
    "IssuesFound": ("fired", "Problem found"),
    "Error": ("error", "The rule itself failed"),
    "InProgress": ("unknown", "Not judged to the end"),
    "Stopping": ("unknown", "Not judged to the end"),
    "Stopped": ("unknown", "Not judged to the end"),
    "NoIssuesFound": ("quiet", "No problem found"),
}
QUIET = "NoIssuesFound"
TOO_LITTLE = "too little data"  # how a note begins that says why a rule could not fire
SHOWN_SERIES = 8
SHOWN_FIRINGS = 3  # the others are folded
TRACEBACK_CHARACTERS = 6000
STEP_LABELS = ("step", "epoch")


def rules(record: Record) -> dict[str, Any]:
    """Every rule, as the page shows it."""
    started = record.time("started")
    start = started.timestamp() if started else None
    return {"rules": [_rule(rule, start) for rule in record.rules], "rules_summary": summary(record.rules)}


def summary(rules: Sequence[Rule]) -> str:
    """How many rules said what."""
    counts = {
        "found a problem": sum(rule.status == "IssuesFound" for rule in rules),
        "found none": sum(rule.status == QUIET for rule in rules),
        "failed": sum(rule.status == "Error" for rule in rules),
    }
    rest = len(rules) - sum(counts.values())
    parts = [f"{count} {words}" for words, count in counts.items() if count or words == "found a problem"]
    parts += [f"{rest} could not judge to the end"] if rest else []
    return f"{counted(len(rules), 'rule')} watched the training: {', '.join(parts)}."


def anchor(rule: Rule) -> str:
    """The name of a rule's place on the page."""
    return "rule-" + "".join(character if character.isalnum() else "-" for character in rule.name)


def _rule(rule: Rule, start: float | None) -> dict[str, Any]:
    kind, verdict = VERDICTS.get(rule.status, ("unknown", rule.status))
    firings = [(_when(firing.step, firing.mode, firing.time, start), firing.sentence) for firing in rule.fired]
    words = (f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in rule.parameters.items())
    return {
        "name": rule.name,
        "rule": rule.rule,
        "anchor": anchor(rule),
        "kind": kind,
        "verdict": verdict,
        "quiet": rule.status == QUIET,
        "too_little": TOO_LITTLE if rule.note.lower().startswith(TOO_LITTLE) else "",
        "looks_for": meaning(rule.rule),
        "firings": firings[:SHOWN_FIRINGS],
        "more_firings": firings[SHOWN_FIRINGS:],
        "action": rule.action,
        "note": rule.note,
        "advice": rule.advice,
        "parameters": text(", ".join(words)),
        "traceback": rule.traceback[-TRACEBACK_CHARACTERS:],
        "traceback_end": rule.traceback.strip().rpartition("\n")[2],
        "evidence": _evidence(rule),
    }


def _when(step: int | None, mode: str | None, time: float | None, start: float | None) -> str:
    """`TRAIN step 120, 3.2 s after the start`"""
    parts = []
    if step is not None:
        parts.append(f"{mode or ''} step {step:,}".strip())
    if time is not None:
        parts.append(f"{duration_text(time - start)} after the start" if start and time >= start else _clock(time))
    return ", ".join(filter(None, parts))


def _clock(time: float) -> str:
    try:
        return f"{datetime.fromtimestamp(time, UTC):%H:%M:%S} UTC"
    except (OverflowError, OSError, ValueError):
        return ""


def _evidence(rule: Rule) -> str:
    """The plot that shows why."""
    found = rule.evidence
    if not found:
        return ""
    series = items(found.get("series"))
    label = text(found.get("x_label")) or "step"
    note = f"{SHOWN_SERIES} of {len(series)} series; all are in debugger.json" if len(series) > SHOWN_SERIES else ""
    return chart(
        Chart(
            title=text(found.get("title")) or rule.name,
            x_label=label,
            y_label=text(found.get("y_label")) or "value",
            lines=[_evidence_line(entry) for entry in series[:SHOWN_SERIES]],
            thresholds=_thresholds(found),
            marks=_marks(rule, label),
            whole_x=any(word in label for word in STEP_LABELS),
            note=note,
        )
    )


def _marks(rule: Rule, x_label: str) -> dict[str, float]:
    """The step at which the rule fired first, where the x axis is steps."""
    step = rule.fired[0].step if rule.fired else None
    return {f"fired at {step:,}": float(step)} if step is not None and "step" in x_label else {}


def _evidence_line(value: object) -> Line:
    series = mapping(value)
    pairs = zip(numbers(series.get("x")), numbers(series.get("y")), strict=False)
    known = [(x, y) for x, y in pairs if x is not None]
    return Line(text(series.get("name")), [x for x, _ in known], [y for _, y in known])


def _thresholds(evidence: Mapping[str, object]) -> dict[str, float]:
    found = [mapping(threshold) for threshold in items(evidence.get("thresholds"))]
    return {text(entry.get("name")) or "threshold": y for entry in found if (y := number(entry.get("y"))) is not None}
