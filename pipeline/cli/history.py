"""`list`, `logs`, `explain-cache`, `compare` and `open`: a look at executions that have run, or still do."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.cli.call import Call, Which
from pipeline.cli.output import open_in_browser, print_json, print_table, printable, wrapped
from pipeline.cli.progress import ENDED, shorten_number
from pipeline.errors import ServiceError, UsageError
from pipeline.service import executions
from pipeline.service.executions import JobLogs, job_group, recent
from pipeline.service.local_target import shown
from pipeline.service.status import details, log_of
from pipeline.service.status import status as status_document
from pipeline.service.targets import POLL_SECONDS, Target
from pipeline.suggestion import did_you_mean

WHOLE_LOG = 10_000  # lines


def list_executions(call: Call, pipeline: str | None = None, last_executions: int = 20) -> int:
    """List the executions, newest first."""
    call.pipeline = pipeline
    target = call.open_target(reads_only=True)
    rows = [
        {**each, "started": each["started"].isoformat(timespec="seconds"), **details(target, each["execution_arn"])}
        for each in recent(target, call.pipeline_name, last_executions)
    ]
    if call.as_json:
        return print_json(rows)
    if not rows:
        print(f"Pipeline {call.pipeline_name!r} has no execution yet; start one with: {call.command('run')}")
        return 0
    for row in rows:
        accuracy = row["test_accuracy"]
        row |= {"started": row["started"][:16].replace("T", " "), "test_accuracy": accuracy and f"{accuracy:.4f}"}
    columns = ("execution", "status", "started", "seconds", "test_accuracy")
    headers = [column.upper().replace("_", " ") for column in columns]
    print_table(headers, [[row[column] for column in columns] for row in rows], right=("SECONDS",))
    return 0


def logs(
    call: Call, step: str | None = None, of: str | None = None, pipeline: str | None = None, follow: bool = False
) -> int:
    """Print the log of a step: of the one that failed, else of the last that has one; until it ends with --follow."""
    target, arn = call.open_execution(Which(of, pipeline))
    steps = executions.steps(target, arn)
    names = [each["StepName"] for each in steps]
    if step and step not in names:
        started = ", ".join(names) or "none"
        raise UsageError(
            f"Execution {arn.rpartition('/')[2]} has started no step {step!r}; started: {started}."
            f"{did_you_mean(step, names)}"
        )
    with_log = [each for each in steps if (each["StepName"] == step if step else log_of(target, arn, each))]
    failed = [each for each in with_log if each["StepStatus"] == "Failed"]
    if not with_log or not (chosen := (failed or with_log)[-1]):
        raise ServiceError(f"Execution {arn.rpartition('/')[2]} has no step with a log yet.")
    if follow and job_group(chosen) and chosen["StepStatus"] not in ENDED:
        follow_log(target, arn, chosen)
        return 0
    place = log_of(target, arn, chosen)
    lines = target.last_lines(place, WHOLE_LOG) if place else []
    if call.as_json:
        return print_json({"execution_arn": arn, "step": chosen["StepName"], "log": place, "lines": lines})
    print("\n".join(map(printable, lines)) if lines else f"Step {chosen['StepName']} has printed nothing.")
    return 0


def follow_log(target: Target, arn: str, step: Mapping[str, Any]) -> None:
    """Print the lines of a running step's job until the step has ended."""
    reader, group, name = JobLogs(target), job_group(step), step["StepName"]
    while group:
        statuses = {each["StepName"]: each["StepStatus"] for each in executions.steps(target, arn)}
        for line in reader.new_lines(*group):
            print(printable(line), flush=True)
        if statuses[name] in ENDED:
            return
        time.sleep(POLL_SECONDS[target.name])


def explain_cache(call: Call, which: Which) -> int:
    """Say of each step whether it was reused, and of one that ran again what differs from the earlier execution."""
    from pipeline.service.cache_reasons import explain_steps

    target, arn = call.open_execution(which)
    rows = explain_steps(target, arn)
    if call.as_json:
        return print_json({"execution_arn": arn, "steps": rows})
    print(f"Execution {arn.rpartition('/')[2]}")
    for row in rows:
        if row["reused"]:
            print(f"{row['step']}: reused, from execution {row['compared_with']}")
        elif not row["reasons"]:
            print(f"{row['step']}: ran; a step of its type is never reused")
        else:
            against = f" against execution {row['compared_with']}" if row["compared_with"] else ""
            print(f"{row['step']}: ran{against}")
            for reason in row["reasons"]:
                print("\n".join(f"  {line}" for line in wrapped(printable(reason), 78)))
    return 0


def compare(call: Call, a: str, b: str, pipeline: str | None = None) -> int:
    """Show two executions side by side: status, parameters, hyperparameters, metrics, seconds of each step."""
    documents = []
    for execution in (a, b):
        target, arn = call.open_execution(Which(execution, pipeline))
        documents.append(status_document(target, arn))
    if call.as_json:
        return print_json(documents)
    sides = [comparable(document) for document in documents]
    names = list(dict.fromkeys(name for side in sides for name in side))
    rows = [("" if left == right else "*", name, left, right) for name in names
            for left, right in [[side.get(name) for side in sides]]]  # fmt: skip
    print_table(("", "", *(document["execution_arn"].rpartition("/")[2] for document in documents)), rows)
    return 0


def comparable(document: Mapping[str, Any]) -> dict[str, str]:
    """Return what is compared of an execution, by name."""
    metrics = dict(document["metrics"])
    low, high = metrics.pop("test_accuracy_lower_bound", None), metrics.pop("test_accuracy_upper_bound", None)
    shown_metrics = {
        name: f"{value:.4f}" if isinstance(value, float) else str(value) for name, value in metrics.items()
    }
    if low is not None and high is not None:
        shown_metrics["test_accuracy"] += f" ({low:.3f} to {high:.3f})"
    seconds = {
        f"seconds of {step['name']}": "reused" if step["cache_hit"] else f"{step['seconds'] or 0:.1f}"
        for step in document["steps"]
    }
    given = {name: str(value).rpartition("/")[2] or str(value) for name, value in document["parameters"].items()}
    version = (document["model_package_arn"] or "").partition("/")[2]
    return {
        "status": document["status"], **given,
        **{name: shorten_number(value) for name, value in document["best_hyperparameters"].items()}, **shown_metrics,
        **({"model": version} if version else {}), **seconds,
    }  # fmt: skip


def open_pages(call: Call, which: Which, no_open: bool = False) -> int:
    """Open the evaluation report, the debugger's and the endpoint's page, or print where they are."""
    target, arn = call.open_execution(which)
    document = status_document(target, arn)
    places = {name: place for name, place in document["reports"].items() if place and name != "profiler"}
    endpoint = document["endpoint"]
    if endpoint and endpoint["url"] and target.name == "local":
        places["endpoint"] = endpoint["url"]
    if not places:
        raise ServiceError(f"Execution {arn.rpartition('/')[2]} has no report and no endpoint yet.")
    if call.as_json:
        return print_json(places)
    for name, place in places.items():
        page = place if "://" in place else Path(place)
        opened = not no_open and not str(place).startswith("s3://") and open_in_browser(page)
        print(f"{name:<11} {place if isinstance(page, str) else shown(page)}{'  (opened)' if opened else ''}")
    return 0
