"""The section on rules: what fired comes first and open, with evidence and advice; what is quiet is one line each."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape

from classifier.reports.charts import Chart, Line, chart
from classifier.reports.page import counted, duration_text, section
from classifier.watch.report_rule_words import meaning
from classifier.watch.report_values import items, mapping, number, numbers, text
from classifier.watch.training_record import Record, Rule

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


def rules_section(record: Record) -> str:
    """Every rule."""
    if not record.rules:
        return section("Rules", "<p>No rule's verdict was saved.</p>", "rules")
    started = record.time("started")
    loud = [rule for rule in record.rules if rule.status != QUIET]
    quiet = [rule for rule in record.rules if rule.status == QUIET]
    start = started.timestamp() if started else None
    body = f"<p>{summary(record.rules)}</p>" + "".join(_loud(rule, start) for rule in loud)
    if quiet:
        heading = "<h3>Rules that found no problem</h3>" if loud else ""
        body += f'{heading}<div class="quiet-rules">{"".join(map(_quiet, quiet))}</div>'
    return section("Rules", body, "rules")


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


def _loud(rule: Rule, start: float | None) -> str:
    """A rule that fired, failed or could not judge, with all that is known."""
    kind, words = VERDICTS.get(rule.status, ("unknown", rule.status))
    told = [_looks_for(rule), _firings(rule, start)]
    if rule.status == "Error":
        told.append("<p>The rule could not be evaluated to the end. The training and the other rules go on.</p>")
    if rule.note:
        told.append(f"<p>{escape(rule.note)}</p>")
    if rule.advice and (rule.fired or rule.status == "Error"):
        told.append(f'<p class="advice"><b>What to do</b> {escape(rule.advice)}</p>')
    told += [_parameters(rule), _traceback(rule)]
    return (
        f'<article class="rule {kind}" id="{escape(anchor(rule))}"><h3>{_name(rule)} '
        f'<span class="verdict">{escape(words)}</span></h3>'
        f'<div class="told"><div>{"".join(told)}</div>{_evidence(rule)}</div></article>'
    )


def _quiet(rule: Rule) -> str:
    note = f"<p>{escape(rule.note)}</p>" if rule.note else ""
    young = rule.note.lower().startswith(TOO_LITTLE)
    mark = f' <span class="verdict">{TOO_LITTLE}</span>' if young else ""
    return (
        f'<details class="rule quiet" id="{escape(anchor(rule))}"><summary><b>{escape(rule.name)}</b>{mark}</summary>'
        f"{_looks_for(rule)}{note}{_evidence(rule)}{_parameters(rule)}</details>"
    )


def _name(rule: Rule) -> str:
    return escape(rule.name) if rule.name == rule.rule else f"{escape(rule.name)} <small>({escape(rule.rule)})</small>"


def _looks_for(rule: Rule) -> str:
    found = meaning(rule.rule)
    return f'<p class="looks-for">Looks for {escape(found)}.</p>' if found else ""


def _firings(rule: Rule, start: float | None) -> str:
    """Each time the rule fired; of many, the later ones folded."""
    lines = [f"<li>{_when(firing.step, firing.mode, firing.time, start)}{escape(firing.sentence)}</li>"
             for firing in rule.fired]  # fmt: skip
    if not lines:
        return ""
    more = lines[SHOWN_FIRINGS:]
    folded = f"<details><summary>{len(more)} more</summary><ul>{''.join(more)}</ul></details>" if more else ""
    stopped = "<p>It asked for the training to end, as its action says.</p>" if rule.action == "stop" else ""
    return f'<ul class="firings">{"".join(lines[:SHOWN_FIRINGS])}</ul>{folded}{stopped}'


def _when(step: int | None, mode: str | None, time: float | None, start: float | None) -> str:
    """`TRAIN step 120, 3.2 s after the start: `"""
    parts = []
    if step is not None:
        parts.append(f"{mode or ''} step {step:,}".strip())
    if time is not None:
        parts.append(f"{duration_text(time - start)} after the start" if start and time >= start else _clock(time))
    return f'<span class="when">{escape(", ".join(filter(None, parts)))}</span> ' if any(parts) else ""


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


def _parameters(rule: Rule) -> str:
    if not rule.parameters:
        return ""
    words = ", ".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in rule.parameters.items())
    return f'<p class="parameters">{escape(text(words))}</p>'


def _traceback(rule: Rule) -> str:
    if not rule.traceback:
        return ""
    shown = escape(rule.traceback[-TRACEBACK_CHARACTERS:])
    last = escape(rule.traceback.strip().rpartition("\n")[2])
    return f"<details><summary>Traceback: {last}</summary><pre>{shown}</pre></details>"
