"""The top of the training report: how the training ended, what was found, and what is missing; and what was trained."""

from collections.abc import Iterator
from typing import Any

from classifier.model.accuracy import wilson
from watch.read.run import Record, Rule
from watch.read.values import items, mapping, text, whole
from watch.report.page import SPACE, counted, duration_text, hyperparameter_facts, percent
from watch.report.rules import anchor

SHOWN_CLASSES = 12
LONGEST_CLASS = 40
JUDGED = ("IssuesFound", "Error", "NoIssuesFound")
OUTCOMES = {"Completed": "good", "Stopped": "warn", "Failed": "bad"}


def outcome(record: Record) -> str:
    """`Completed`, `Stopped by rule Overfit`, `Failed`, or that it is not known."""
    found = text(record.history.get("outcome"))
    if not found:
        return "How it ended is not known"
    rule = stopping_rule(record)
    return f"Stopped by rule {rule.name}" if found == "Stopped" and rule else found


def stopping_rule(record: Record) -> Rule | None:
    """The rule that asked for the training's end: of those that may, the one named in the reason, or the first."""
    asking = [rule for rule in record.rules if rule.action == "stop" and rule.fired]
    reason = text(record.history.get("reason"))
    named = [rule for rule in asking if rule.name in reason]
    return next(iter(named or asking), None)


def headline(record: Record) -> dict[str, Any]:
    """The card at the top: how it ended, what was found, and what is missing."""
    fired = [rule for rule in record.rules if rule.status == "IssuesFound"]
    failed = [rule for rule in record.rules if rule.status == "Error"]
    unjudged = sum(rule.status not in JUDGED for rule in record.rules)
    rest = f", but {counted(unjudged, 'rule')} could not judge to the end" if unjudged else ""
    findings = [
        finding(rule, rule.fired[0].sentence if rule.fired else "It found a problem.", "fired") for rule in fired
    ]
    findings += [finding(rule, "The rule itself failed; see there.", "error") for rule in failed]
    return {
        "kind": OUTCOMES.get(text(record.history.get("outcome")), "unknown"),
        "job_name": text(record.history.get("job_name")),
        "outcome": outcome(record),
        "because": because(record),
        "figures": dict(_figures(record)),
        "warnings": [sentence for sentence in map(text, items(record.history.get("warnings"))) if sentence],
        "findings": findings,
        "found_title": counted(len(fired), "rule") + " found a problem" if fired else "No rule found a problem",
        "quiet_words": f"No rule found a problem{rest}." if record.rules else "",
        "unjudged": unjudged,
        "missing": record.missing,
    }


def because(record: Record) -> str:
    """Why the training ended as it did."""
    if found := text(record.history.get("reason")) or text(record.history.get("ended_early")):
        return found
    if text(record.history.get("outcome")) == "Completed":
        return f"Every one of its {counted(len(record.epochs), 'epoch')} ran."
    return ""


def finding(rule: Rule, sentence: str, kind: str) -> dict[str, str]:
    """One line of the list of what was found."""
    return {"kind": kind, "anchor": anchor(rule), "name": rule.name, "sentence": sentence}


def _figures(record: Record) -> Iterator[tuple[str, str]]:
    best, counts = record.best, mapping(record.history.get("counts"))
    if best and best.validation_accuracy is not None:
        images, accuracy = whole(counts.get("validation")), best.validation_accuracy
        bounds = " to ".join(map(percent, wilson(accuracy, images))) if images else "unknown"
        yield "Validation accuracy (selected on)", f"{percent(accuracy)} (95{SPACE}%: {bounds})"
    if best:
        yield "Kept epoch", f"{best.epoch} of {len(record.epochs)}"
    elif record.epochs:
        yield "Epochs", str(len(record.epochs))
    if record.seconds is not None:
        yield "Duration", duration_text(max(0.0, record.seconds))
    for split in ("train", "validation"):
        count = whole(counts.get(split))
        if count is not None:
            yield f"{split.capitalize()} images", f"{count:,}"
    if classes := items(record.history.get("classes")):
        yield "Classes", f"{len(classes):,}"


def trained(record: Record) -> dict[str, Any]:
    """What was trained, on what, and with which settings."""
    history = record.history
    backbone = text(history.get("backbone"))
    return {
        "known": bool(history),
        "trained": {
            **({"Backbone": backbone} if backbone else {}),
            **hyperparameter_facts(mapping(history.get("hyperparameters"))),
        },
        "run_facts": dict(_run_facts(record)),
    }


def _run_facts(record: Record) -> Iterator[tuple[str, str]]:
    for name, label in (("started", "Started"), ("ended", "Ended")):
        if found := record.time(name):
            yield label, f"{found:%Y-%m-%d %H:%M:%S} {found.tzname() or ''}".strip()
    for mode, label in (("TRAIN", "Training steps an epoch"), ("EVAL", "Validation steps an epoch")):
        count = whole(mapping(record.history.get("steps_per_epoch")).get(mode))
        if count is not None:
            yield label, f"{count:,}"
    for split, count in mapping(record.history.get("counts")).items():
        if (images := whole(count)) is not None:
            yield f"{split.capitalize()} images", f"{images:,}"
    classes = [text(name) for name in items(record.history.get("classes"))]
    if classes:
        yield f"Classes ({len(classes):,})", _class_names(classes)


def _class_names(classes: list[str]) -> str:
    shown = ", ".join(name if len(name) <= LONGEST_CLASS else f"{name[:LONGEST_CLASS]}…"
                      for name in classes[:SHOWN_CLASSES])  # fmt: skip
    rest = len(classes) - SHOWN_CLASSES
    return f"{shown} and {rest:,} more" if rest > 0 else shown
