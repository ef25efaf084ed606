"""`list`, `logs`, `explain-cache`, `compare` and `open`: a look at executions that have run, or still do."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.cli.call import Call
from pipeline.cli.output import opened, print_json, print_rows, print_table, printable, wrapped
from pipeline.errors import ServiceError, UsageError
from pipeline.paths import shown
from pipeline.service import executions
from pipeline.service.comparison import comparable, side_by_side
from pipeline.service.executions import ENDED, JobLogs, job_group, recent
from pipeline.service.status import details, log_of
from pipeline.service.status import status as status_document
from pipeline.service.targets import POLL_SECONDS, Target
from pipeline.suggestion import did_you_mean

WHOLE_LOG = 10_000  # lines


def list_executions(call: Call, pipeline: str | None = None, last_executions: int = 20) -> int:
    call.pipeline = pipeline
    target = call.open_target(reads_only=True)
    rows = [
        {**each, "started": each["started"].isoformat(timespec="seconds"), **details(target, each["execution_arn"])}
        for each in recent(target, call.pipeline_name, last_executions)
    ]
    nothing = f"Pipeline {call.pipeline_name!r} has no execution yet; start one with: {call.command('run')}"
    return print_rows(call, rows, execution_cells, nothing)


def execution_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the table shows of an execution."""
    accuracy, started = row["test_accuracy"], row["started"][:16].replace("T", " ")
    shown_values = {"started": started, "seconds": row["seconds"], "test_accuracy": accuracy and f"{accuracy:.4f}"}
    return {"execution": row["execution"], "status": row["status"], **shown_values}


def logs(
    call: Call, step: str | None = None, of: str | None = None, pipeline: str | None = None, follow: bool = False
) -> int:
    """Print the log of a step: of the one that failed, else of the last that has one; until it ends with --follow."""
    target, arn = call.open_execution(of, pipeline)
    steps, execution = executions.steps(target, arn), arn.rpartition("/")[2]
    names = [each["StepName"] for each in steps]
    if step and step not in names:
        started = ", ".join(names) or "none"
        raise UsageError(
            f"Execution {execution} has started no step {step!r}; started: {started}.{did_you_mean(step, names)}"
        )
    with_log = [each for each in steps if (each["StepName"] == step if step else log_of(target, arn, each))]
    if not with_log:
        raise ServiceError(f"Execution {execution} has no step with a log yet.")
    chosen = ([each for each in with_log if each["StepStatus"] == "Failed"] or with_log)[-1]
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


def explain_cache(call: Call, execution: str | None = None, pipeline: str | None = None) -> int:
    """Say of each step whether it was reused, and of one that ran again what differs from the earlier execution."""
    from pipeline.service.cache_reasons import explain_steps

    target, arn = call.open_execution(execution, pipeline)
    rows = explain_steps(target, arn)
    if call.as_json:
        return print_json({"execution_arn": arn, "steps": rows})
    print(f"Execution {arn.rpartition('/')[2]}")
    for row in rows:
        against = f" against execution {row['compared_with']}" if row["compared_with"] else ""
        ran = f"ran{against}" if row["reasons"] else "ran; a step of its type is never reused"
        reused = f"reused, from execution {row['compared_with']}"
        print(f"{row['step']}: {reused if row['reused'] else ran}")
        for reason in () if row["reused"] else row["reasons"]:
            print("\n".join(f"  {line}" for line in wrapped(printable(reason), 78)))
    return 0


def compare(call: Call, a: str, b: str, pipeline: str | None = None) -> int:
    """Show two executions side by side: status, parameters, hyperparameters, metrics, seconds of each step."""
    documents = [status_document(*call.open_execution(execution, pipeline)) for execution in (a, b)]
    if call.as_json:
        return print_json(documents)
    sections = side_by_side(*map(comparable, documents)).values()
    rows = [("" if old == new else "*", name, old, new) for section in sections for name, old, new in section]
    print_table(("", "", *(document["execution_arn"].rpartition("/")[2] for document in documents)), rows)
    return 0


def open_pages(call: Call, execution: str | None = None, pipeline: str | None = None, no_open: bool = False) -> int:
    """Open the evaluation report, the debugger's and the endpoint's page, or print where they are."""
    target, arn = call.open_execution(execution, pipeline)
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
        browser = opened(page, no_open=no_open or str(place).startswith("s3://"))
        print(f"{name:<11} {place if isinstance(page, str) else shown(page)}{browser}")
    return 0
