"""The top of the training report: how the training ended, what was found, and what is missing; and what was trained."""

from collections.abc import Iterator
from html import escape

from classifier.reports.page import HYPERPARAMETERS, counted, duration_text, facts, percent, section, tiles
from classifier.watch.report_rules import anchor
from classifier.watch.report_values import items, mapping, number, text, whole
from classifier.watch.training_record import Record, Rule

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


def headline(record: Record) -> str:
    """The card at the top."""
    kind = OUTCOMES.get(text(record.history.get("outcome")), "unknown")
    job = text(record.history.get("job_name"))
    name = f" <span>{escape(job)}</span>" if job else ""
    return (
        f'<header class="outcome {kind}"><h1>Training report{name}</h1>'
        f'<p class="verdict"><strong>{escape(outcome(record))}</strong></p>{_because(record)}'
        f"{tiles(dict(_figures(record)))}{_warnings(record)}{_findings(record)}{_missing(record)}</header>"
    )


def _because(record: Record) -> str:
    reason = text(record.history.get("reason"))
    if reason:
        return f'<p class="because">{escape(reason)}</p>'
    if ended := text(record.history.get("ended_early")):
        return f'<p class="because">{escape(ended)}</p>'
    if text(record.history.get("outcome")) == "Completed":
        return f'<p class="because">Every one of its {counted(len(record.epochs), "epoch")} ran.</p>'
    return ""


def _figures(record: Record) -> Iterator[tuple[str, str]]:
    best, counts = record.best, mapping(record.history.get("counts"))
    if best and best.validation_accuracy is not None:
        yield "Validation accuracy", percent(best.validation_accuracy)
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


def _warnings(record: Record) -> str:
    """What looks wrong with a training that went well otherwise."""
    found = [sentence for sentence in map(text, items(record.history.get("warnings"))) if sentence]
    if not found:
        return ""
    lines = "".join(f'<li class="fired">{escape(sentence)}</li>' for sentence in found)
    return f'<h2>{counted(len(found), "warning")}</h2><ul class="findings">{lines}</ul>'


def _findings(record: Record) -> str:
    """What the rules found, in one list; nothing found is said too."""
    fired = [rule for rule in record.rules if rule.status == "IssuesFound"]
    failed = [rule for rule in record.rules if rule.status == "Error"]
    if not record.rules:
        return ""
    unjudged = sum(rule.status not in JUDGED for rule in record.rules)
    if not fired and not failed:
        rest = f", but {counted(unjudged, 'rule')} could not judge to the end" if unjudged else ""
        return f'<p class="in-short{" unsure" if rest else ""}">No rule found a problem{rest}.</p>'
    lines = [_finding(rule, rule.fired[0].sentence if rule.fired else "It found a problem.", "fired") for rule in fired]
    lines += [_finding(rule, "The rule itself failed; see there.", "error") for rule in failed]
    title = counted(len(fired), "rule") + " found a problem" if fired else "No rule found a problem"
    return f'<h2>{title}</h2><ul class="findings">{"".join(lines)}</ul>'


def _finding(rule: Rule, sentence: str, kind: str) -> str:
    return f'<li class="{kind}"><a href="#{escape(anchor(rule))}">{escape(rule.name)}</a> {escape(sentence)}</li>'


def _missing(record: Record) -> str:
    if not record.missing:
        return ""
    lines = "".join(f"<li>{escape(sentence)}</li>" for sentence in record.missing)
    return f'<h2>What this report lacks</h2><ul class="missing">{lines}</ul>'


def facts_section(record: Record) -> str:
    """What was trained, on what, and with which settings."""
    history = record.history
    if not history:
        return ""
    model = {
        **({"Backbone": text(history.get("backbone"))} if text(history.get("backbone")) else {}),
        **{
            HYPERPARAMETERS.get(name, name): _written(value)
            for name, value in mapping(history.get("hyperparameters")).items()
            if not isinstance(value, dict | list)
        },
    }
    tables = f"{facts('Model and hyperparameters', model)}{facts('Run and data', dict(_run_facts(record)))}"
    return section("What was trained", f'<div class="facts">{tables}</div>', "facts")


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


def _written(value: object) -> str:
    found = number(value)
    if found is None or isinstance(value, int):
        return text(value) if isinstance(value, str) else str(value)
    return f"{found:.6g}"
