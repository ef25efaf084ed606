"""debugger.html and debugger.json: what is wrong with a training, how it went, and what the machine did meanwhile.

Beside a running training it is written again and again, and the page loads itself anew. It is made of files alone, and
each of them may be missing or damaged: the report then says so.
"""

import json
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from watch.files import put
from watch.read.run import Entry, Record, items, mapping, number, read_record, series_of, text
from watch.report import sections
from watch.report.charts import Chart, Line, chart
from watch.report.page import duration_text, render

COLOURS = {"fatal": "bad", "problem": "warn", "hint": "hint"}  # of the headline, by the worst severity
SHOWN_SERIES = 8
FIND_NOTHING = {"OverallSystemUsage", "OverallFrameworkMetrics", "ProfilerReport"}  # they only show figures


def write_report(
    folder: Path, report_dir: Path | None = None, *, search: Any = None, verdicts: Path | None = None
) -> Path:
    """Read what a training has left so far, write both files, return the page's path. OSError: there is no room.

    `verdicts` is the folder with rules/, where it is not the run's. SourceError where there is no folder.
    """
    record = read_record(folder, verdicts)
    report_dir = report_dir or record.folder / "report"
    report_dir.mkdir(parents=True, exist_ok=True)
    trace = record.folder / "profile/torch/trace.json.gz"
    beside = trace.is_file() and record.folder.resolve() in (report_dir.resolve(), report_dir.resolve().parent)
    page = render(
        "watch/report/report.html",
        record=record,
        **headline(record),
        now=f"{datetime.now(UTC):%H:%M:%S} UTC",
        workers=Counter(
            (firing["worker"], rule["name"]) for rule in record.rules for firing in rule["fired"] if firing["worker"]
        ),
        chart=chart,
        evidence=evidence,
        when=when,
        sections=sections,
        trace=os.path.relpath(trace, report_dir) if beside else "",
        search=sections.search(search),
    )
    document = json.dumps(document_of(record, search), allow_nan=False) + "\n"
    for name, content in (("debugger.html", page), ("debugger.json", document)):
        put(report_dir / name, text(content))
    return report_dir / "debugger.html"


def headline(record: Record) -> dict[str, Any]:
    """Return the card at the top: its colour, what is wrong, how the training ended, and how many rules judged."""
    found, rules = findings(record), record.rules
    live = record.is_live and not record.history.get("outcome") and record.observer.get("state") in (None, "running")
    fired = [rule for rule in rules if rule["status"] == "IssuesFound"]
    sound = [rule for rule in rules if rule["status"] == "NoIssuesFound" and not rule["note"] and rule["judged"] != 0]
    watching = [rule for rule in rules if live and rule["status"] == "InProgress"]
    unjudged = [rule for rule in rules if rule not in (*fired, *sound, *watching)]
    ended, severities = "Running" if live else outcome(record), [one["severity"] for one in found]
    worst = next((colour for level, colour in COLOURS.items() if level in severities), "")
    judged = any(rule["rule"] not in FIND_NOTHING for rule in sound)
    colour = "bad" if ended == "Failed" else worst or ("warn" if ended.startswith("Stopped") else "good" * judged)
    quiet = "No problem so far" if live else "No problem found" if judged else "Nothing could be judged"
    titles = [title_and_rest(finding["sentence"]) for finding in found]
    return {
        "live": live,
        "kind": colour or "unknown",
        "title": titles[0][0] if titles else "The training failed" if ended == "Failed" else quiet,
        "findings": list(zip(found, titles, strict=True)),
        "colours": COLOURS,
        "ended": ended,
        "figures": texts(record.history.get("figures")),
        "facts": texts(record.history.get("facts")),
        "warnings": [sentence for sentence in map(text, items(record.history.get("warnings"))) if sentence],
        **{"fired": len(fired), "sound": len(sound), "watching": len(watching), "unjudged": unjudged},
    }


def findings(record: Record) -> list[Entry]:
    """Return the diagnosis, and what rules found that is not in it."""
    told = {name for finding in record.diagnosis for name in finding["rules"]}
    found = [finding for finding in record.diagnosis if finding["sentence"]]
    for rule in record.rules:
        if rule["status"] == "IssuesFound" and rule["name"] not in told:
            sentence = rule["fired"][0]["sentence"] if rule["fired"] else "It found a problem."
            about = {name: rule[name] for name in ("cause", "severity", "advice")}
            found.append({**about, "sentence": f"{rule['name']}: {sentence}", "rules": [rule["name"]]})
    return found


def title_and_rest(sentence: str) -> tuple[str, str]:
    """Return what a finding says before its colon, and what it says after it."""
    title, colon, rest = sentence.partition(": ")
    return (title, rest[:1].upper() + rest[1:]) if colon and len(title) <= 80 else (sentence or "A problem", "")


def outcome(record: Record) -> str:
    """Return `Completed`, `Stopped by rule Overfit`, `Failed`, `Finished`, or that it is not known."""
    found, reason = text(record.history.get("outcome")), text(record.history.get("reason"))
    asking = [rule["name"] for rule in record.rules if rule["action"] == "stop" and rule["fired"]]
    named = [name for name in asking if name in reason] or asking
    known = "Finished" if record.observer.get("state") == "finished" else "How it ended is not known"
    return f"Stopped by rule {named[0]}" if found == "Stopped" and named else found or known


def texts(value: Any) -> dict[str, str]:
    """Return what can be shown of a JSON object."""
    return {text(name): text(found) or str(found) for name, found in mapping(value).items()}


def when(firing: Entry, record: Record) -> str:
    """Return `worker_1, TRAIN step 120, 3.2 s after the start`."""
    started = record.time("started")
    seconds = firing["time"] - started.timestamp() if firing["time"] is not None and started else -1.0
    step = "" if firing["step"] is None else f"{firing['mode'] or ''} step {firing['step']:,}".strip()
    after = f"{duration_text(seconds)} after the start" if seconds >= 0 else ""
    return ", ".join(filter(None, (firing["worker"], step, after)))


def evidence(rule: Entry) -> Chart:
    """Return the plot that shows why; the step at which the rule fired first is marked."""
    found = rule["evidence"]
    entries, limits = (list(map(mapping, items(found.get(name)))) for name in ("series", "thresholds"))
    series = [(text(entry.get("name")), series_of(entry | {"step": entry.get("x")}, "y")) for entry in entries]
    label = text(found.get("x_label")) or "step"
    step = rule["fired"][0]["step"] if rule["fired"] and "step" in label else None
    return Chart(
        text(found.get("title")) or rule["name"],
        label,
        text(found.get("y_label")) or "value",
        [Line(name, x, y) for name, (x, y) in series[:SHOWN_SERIES]],
        {text(entry.get("name")) or "threshold": y for entry in limits if (y := number(entry.get("y"))) is not None},
        {} if step is None else {f"fired at {step:,}": float(step)},
        whole_x="step" in label or "epoch" in label,
        note=f"{SHOWN_SERIES} of {len(series)} series; all are in debugger.json" * (len(series) > SHOWN_SERIES),
    )


def document_of(record: Record, search: Any) -> dict[str, Any]:
    """Return the same as JSON: times in seconds, and what is not known null or empty."""
    utilisation, steps = list(sections.utilisation(record.profile)), sections.step_times(record.profile)
    return {
        **record.history,
        "schema_version": 2,
        "headline": outcome(record),
        "diagnosis": findings(record),
        **{name: getattr(record, name) for name in ("seconds", "observer", "series", "operators", "missing", "rules")},
        "profile": {"phases_seconds": sections.phases(record.profile), "steps": steps, "utilisation": utilisation},
        "search": search or None,
    }
