"""One execution: graph, the chosen step, timeline, trials, reports, results; stop, retry, run from a step."""

import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.definition.steps import Step, read_graph
from pipeline.errors import PipelineError
from pipeline.service import executions, reports, status
from pipeline.service.cache_reasons import explain_steps, flatten, is_uri
from pipeline.service.comparison import comparable
from pipeline.service.executions import ACTIVE, job_of, source_of
from pipeline.service.local_target import LocalTarget
from pipeline.studio.pages.graph import draw
from pipeline.studio.pages.trials import plot
from pipeline.studio.site import arn_of, attempt, epoch, form_of, go_to, live, missing, render, studio

LOG_LINES, MOST_LOGS = 300, 1000
DRIFT_PAGE = "drift/drift.html"  # below the home's reports
ICONS = {"Succeeded": "✓", "Failed": "✕", "Executing": "▶", "Stopped": "■"}
ELSEWHERE = ("Outcome", "Seconds")  # on the page
RULE = "rule:"  # before the name of a metric that is a rule's
UNTAKEN, UNSELECTED = "Branch not taken", "Not selected"
OUTPUTS = ("ProcessingOutputConfig", "OutputDataConfig", "ModelArtifacts", "TransformOutput", "CheckpointConfig")
AROUND_NAME = re.compile(r"^(ProcessingInputs|InputDataConfig|ProcessingOutputConfig\.Outputs)\.|(\.\w+)*\.S3Uri$")
BASE = "/executions/{pipeline}/{id}"
logs: dict[tuple[str, str], Path | None] = {}  # of the steps that pages show, so that being asked again costs little
written: set[str] = set()  # ended executions whose training report this process has seen to
writing = threading.Lock()  # one report at a time


def place(request: Request) -> tuple[LocalTarget, str]:
    """Return the target and the ARN of the execution that an address names."""
    return studio(request).target, arn_of(request, "{pipeline}/{id}".format_map(request.path_params))


def address(arn: str) -> str:
    """Return where the page of an execution is."""
    return f"/executions/{arn.partition(':pipeline/')[2].replace('/execution/', '/')}"


def view(request: Request) -> dict[str, Any]:
    """Return what the page shows."""
    target, arn = place(request)
    if target.state.execution(arn) is None:
        raise missing("execution {id!r} of pipeline {pipeline!r}".format_map(request.path_params))
    execution, graph = executions.describe(target, arn), read_graph(executions.definition_of(target, arn))
    steps, document = executions.steps(target, arn), status.status(target, arn)
    is_active = execution["PipelineExecutionStatus"] in ACTIVE
    if is_active:
        written.discard(arn)  # of one that is retried
    elif arn not in written:
        threading.Thread(target=write_report, args=(target, arn), daemon=True).start()
    records, started = {step["StepName"]: step for step in steps}, epoch(execution["CreationTime"])
    views, chosen = views_of(graph.steps, records, execution), request.query_params.get("step")
    ran = [name for name, view in views.items() if view["started"] and not view["is_lent"]]
    step = graph.steps.get(chosen or "")
    if len(logs) > MOST_LOGS:
        logs.clear()
    logs[request.url.query, arn] = file = log_file(request)
    return {
        **request.path_params,  # `pipeline` and `id`
        "base": address(arn),
        "log": file,
        "lines": target.last_lines(str(file), LOG_LINES) if file else [],
        "is_active": is_active,
        "execution": execution,
        "is_final": not is_active and arn in written,
        "started": started,
        "seconds": max([started, *(views[name]["ended"] or time.time() for name in ran)]) - started,
        "drawing": draw(graph.steps),
        "views": views,
        "ran": sorted(ran, key=lambda name: views[name]["started"]),
        "document": document,
        "sections": {name: each for name, each in comparable(document).items() if name not in ELSEWHERE},
        "step": step and details(target, arn, step, records.get(step.name, {})),
        "search": search(target, steps, chosen),
        "reports": pages_of(target, steps, started),
    }


def views_of(
    steps: Mapping[str, Step], records: Mapping[str, Mapping[str, Any]], execution: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return what graph and timeline show of each step; times in seconds since 1970."""
    selected = [each["StepName"] for each in execution.get("SelectiveExecutionConfig", {}).get("SelectedSteps", [])]
    waiting = "Waiting" if execution["PipelineExecutionStatus"] == "Executing" else "Did not run"
    untaken: set[str] = set()
    views = {}
    for name, step in steps.items():
        record = records.get(name, {})
        outcome = outcome_of(records.get(step.condition or "", {})) or str(step.outcome)
        if not record and (outcome != str(step.outcome) or not untaken.isdisjoint(step.dependencies)):
            untaken.add(name)
        absent = UNSELECTED if selected and name not in selected else UNTAKEN if name in untaken else waiting
        state = record.get("StepStatus", absent)
        reused = "reused" if "CacheHitResult" in record else "of an earlier execution" if source_of(record) else ""
        is_grey = state in (UNTAKEN, UNSELECTED)
        views[name] = {
            "title": step.definition.get("DisplayName") or name,
            "type": step.type,
            "status": state,
            "note": reused or outcome_of(record),
            "icon": "↻" if reused else ICONS.get(state, "–" if is_grey else "○"),
            "is_grey": is_grey,
            "is_lent": "SelectiveExecutionResult" in record,
            "started": epoch(record["StartTime"]) if "StartTime" in record else None,
            "ended": epoch(record["EndTime"]) if "EndTime" in record else None,
        }
    return views


def outcome_of(record: Mapping[str, Any]) -> str:
    return str(record.get("Metadata", {}).get("Condition", {}).get("Outcome", ""))


def details(target: LocalTarget, arn: str, step: Step, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is shown of the chosen step."""
    job, source = executions.describe_job(target, record) or {}, source_of(record)
    uris = {path: uri for path, uri in flatten(job).items() if is_uri(uri)}
    measured = {each["MetricName"]: each["Value"] for each in job.get("FinalMetricDataList", [])}
    rules = {name[len(RULE) :]: value for name, value in measured.items() if name.startswith(RULE)}
    metrics = {name: value for name, value in measured.items() if not name.startswith(RULE)}
    return {
        "declared": step,
        "record": record,
        "job": job_of(record),
        "arguments": step.arguments or {key: value for key, value in step.own.items() if value and key != "Arguments"},
        "places": [(path.startswith(OUTPUTS), AROUND_NAME.sub("", path), uri) for path, uri in uris.items()],
        "facts": metrics | status.outputs_of(record),
        "rules": rules,
        "source": source and address(source),
        "why": why(target, arn, step.name, record["StepStatus"], record.get("StartTime")) if job else None,
    }


@lru_cache(maxsize=256)
def why(target: LocalTarget, arn: str, name: str, *_: object) -> dict[str, Any] | None:
    """Return why a step ran or was reused: found once for a status, since every file of its inputs is looked at."""
    return next(iter(explain_steps(target, arn, only=name)), None)


def search(target: LocalTarget, steps: list[dict[str, Any]], chosen: str | None) -> dict[str, Any] | None:
    """Return the trials of the chosen Tuning step, else of the last one, and their plot."""
    searches = {step["StepName"]: job for step in steps if (job := reports.search_job([step]))}
    step = chosen if chosen in searches else next(reversed(searches), "")
    record = reports.search_record(target, searches.get(step))
    if record is None:
        return None
    names = dict.fromkeys(name for trial in record["trials"] for name in trial["hyperparameters"])
    drawn = plot(record, reports.tuning_job(target, searches[step]))
    return {**record, "step": step, "hyperparameters": names, "plot": drawn}


def log_file(request: Request) -> Path | None:
    """Return where the log of the chosen step is, or of a trial of its search; None where there is none."""
    target, arn = place(request)
    chosen, trial = (request.query_params.get(name) for name in ("step", "trial"))
    step: dict[str, Any] = next((each for each in executions.steps(target, arn) if each["StepName"] == chosen), {})
    job = reports.search_job([step]) if trial else None
    known = {each["TrainingJobName"] for each in executions.trials(target, job)} if job else ()
    file = target.log_of("", str(trial)) if trial in known else step and status.log_of(target, arn, step)
    return Path(file) if file else None


def pages_of(target: LocalTarget, steps: list[dict[str, Any]], started: float) -> dict[str, str]:
    """Return the address of each report of an execution; of drift, the endpoint's newest since its start."""
    folder, evaluation = target.home / "reports", status.output_of(target, steps, "evaluation")
    training, drift = reports.training_job(steps), folder / DRIFT_PAGE
    is_registered = any("RegisterModel" in step.get("Metadata", {}) for step in steps)
    is_newer = drift.is_file() and drift.stat().st_mtime > started
    pages = {}
    if evaluation and target.holds(f"{evaluation}/report.html"):
        pages["Evaluation"] = f"/objects/{evaluation.removeprefix('s3://')}/report.html"
    if training and reports.saved_report(folder / training[0]):
        pages["Training"] = f"/reports/{training[0]}/{reports.HTML_NAME}"
    return pages | ({"Drift": f"/reports/{DRIFT_PAGE}"} if is_registered and is_newer else {})


def write_report(target: LocalTarget, arn: str) -> None:
    """Write the report of an execution's training, as `run` does at its end, unless it is there."""
    with writing, suppress(PipelineError):
        if arn not in written:
            reports.keep_report(target, arn)
    written.add(arn)


def act(request: Request) -> Response:
    """Do what a button asks for."""
    (target, arn), action = place(request), request.path_params["action"]
    base = address(arn)
    if action == "run-from":
        step = str(form_of(request).get("step"))
        try:
            return go_to(address(executions.start_from(target, arn, step)))
        except PipelineError as problem:
            return go_to(base, problem=str(problem))
    if action not in ("stop", "retry"):
        raise missing(f"action {action!r}")
    return attempt(base, f"Asked to {action}.", lambda: getattr(executions, action)(target, arn))


def show(request: Request) -> Response:
    return render(request, "execution.html", **view(request))


def show_live(request: Request) -> Response:
    _, arn = place(request)
    file = logs.get((request.url.query, arn))
    size = file.stat().st_size if file and file.exists() else 0
    return live(request, "execution_live.html", lambda: view(request), also=(arn in written, size))


ROUTES = [
    Route(BASE, show),
    Route(f"{BASE}/live", show_live),
    Route(f"{BASE}/{{action}}", act, methods=["POST"]),
]
