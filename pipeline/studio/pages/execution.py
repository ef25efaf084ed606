"""One execution: graph, the chosen step, timeline, trials, reports, results; stop, retry, run from a step."""

import re
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.definition.steps import Step, read_graph
from pipeline.errors import PipelineError
from pipeline.service import executions
from pipeline.service.cache_reasons import explain_steps, flatten, is_uri
from pipeline.service.comparison import accuracy_text
from pipeline.service.executions import ACTIVE, describe_job, job_of, pipeline_of, source_of
from pipeline.service.local_target import LocalTarget
from pipeline.service.reports import HTML_NAME, keep_report, saved_report, search_job, search_record, training_job
from pipeline.service.reports import tuning_job as described_search
from pipeline.service.status import log_of, output_of, outputs_of, status
from pipeline.studio.pages.graph import draw
from pipeline.studio.pages.trials import plot
from pipeline.studio.site import attempt, epoch, form_of, go_to, live, missing, render, studio

LOG_LINES = 300
DRIFT_PAGE = "drift/drift.html"  # below the home's reports
ICONS = {"Succeeded": "✓", "Failed": "✕", "Executing": "▶", "Stopped": "■"}
OUTPUTS = ("ProcessingOutputConfig", "OutputDataConfig", "ModelArtifacts", "TransformOutput", "CheckpointConfig")
AROUND_NAME = re.compile(r"^(ProcessingInputs|InputDataConfig|ProcessingOutputConfig\.Outputs)\.|(\.\w+)*\.S3Uri$")
BASE = "/executions/{pipeline}/{execution}"
ACTIONS = {"stop": (executions.stop, "It is being stopped."), "retry": (executions.retry, "It goes on.")}
written: set[str] = set()  # ended executions whose training report this process has seen to
writing = threading.Lock()  # one at a time


def show(request: Request) -> Response:
    """The page of an execution."""
    return render(request, "execution.html", **view(request))


def show_live(request: Request) -> Response:
    """What of the page changes while the execution runs."""
    _, arn = place(request)
    return live(request, "execution_live.html", lambda: view(request), also=arn in written)


def show_log(request: Request) -> Response:
    """The end of the log of the chosen step or trial."""
    file = log_file(request)
    size = file.stat().st_size if file and file.exists() else 0
    return live(request, "execution_log.html", lambda: log(request), also=size)


def place(request: Request) -> tuple[LocalTarget, str]:
    """Return the target and the ARN of the execution that an address names; 404 if there is none."""
    target, names = studio(request).target, request.path_params
    arn = f"{target.placement.pipeline_arn(names['pipeline'])}/execution/{names['execution']}"
    if target.state.execution(arn) is None:
        raise missing(f"execution {names['execution']!r} of pipeline {names['pipeline']!r}")
    return target, arn


def address(arn: str) -> str:
    """Return where the page of an execution is."""
    return f"/executions/{arn.partition(':pipeline/')[2].replace('/execution/', '/')}"


def view(request: Request) -> dict[str, Any]:
    """Return what the page shows."""
    target, arn = place(request)
    execution, graph = executions.describe(target, arn), read_graph(executions.definition_of(target, arn))
    steps = executions.steps(target, arn)
    records, is_active = {step["StepName"]: step for step in steps}, execution["PipelineExecutionStatus"] in ACTIVE
    if not is_active and arn not in written:
        threading.Thread(target=write_report, args=(target, arn), daemon=True).start()
    views, chosen = views_of(graph.steps, records, execution), request.query_params.get("step")
    step = graph.steps.get(chosen or "")
    started, document = epoch(execution["CreationTime"]), status(target, arn)
    return {
        **log(request),
        "arn": arn,
        "pipeline": pipeline_of(arn),
        "execution": execution,
        "is_final": not is_active and arn in written,
        "started": started,
        "seconds": max([started, *(epoch(each["EndTime"]) for each in steps if "EndTime" in each)]) - started,
        "drawing": draw(graph.steps),
        "views": views,
        "bars": bars_of(views, started),
        "document": document,
        "accuracy": accuracy_text(document["metrics"], document["parameters"]),
        "chosen": chosen,
        "step": step and details(target, arn, step, records.get(step.name, {})),
        "search": search(target, steps, chosen),
        "reports": reports(target, steps, started),
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
        record, of_condition = records.get(name, {}), records.get(step.condition or "", {}).get("Metadata", {})
        outcome = of_condition.get("Condition", {}).get("Outcome", str(step.outcome))
        if not record and (outcome != str(step.outcome) or not untaken.isdisjoint(step.dependencies)):
            untaken.add(name)
        absent = "Branch not taken" if name in untaken else waiting
        absent = "Not selected" if selected and name not in selected else absent
        state = record.get("StepStatus", absent)
        reused = "reused" if "CacheHitResult" in record else "of an earlier execution" if source_of(record) else ""
        is_grey = state in ("Branch not taken", "Not selected")
        views[name] = {
            "title": record.get("StepDisplayName") or step.definition.get("DisplayName") or name,
            "type": step.type,
            "status": state,
            "note": reused or record.get("Metadata", {}).get("Condition", {}).get("Outcome", ""),
            "icon": "↻" if reused else ICONS.get(state, "–" if is_grey else "○"),
            "is_grey": is_grey,
            "is_lent": "SelectiveExecutionResult" in record,
            "started": epoch(record["StartTime"]) if "StartTime" in record else None,
            "ended": epoch(record["EndTime"]) if "EndTime" in record else None,
        }
    return views


def bars_of(views: Mapping[str, Mapping[str, Any]], started: float) -> list[dict[str, Any]]:
    """Return the timeline: where the bar of each step that ran begins and how long it is, in percent of the whole."""
    ran = {name: view for name, view in views.items() if view["started"] and not view["is_lent"]}
    ends = {name: view["ended"] or time.time() for name, view in ran.items()}
    first = min([started, *(view["started"] for view in ran.values())])
    percent = 100 / (max([first + 0.001, *ends.values()]) - first)
    bars = [
        {"name": name, "left": percent * (view["started"] - first), "width": percent * (ends[name] - view["started"])}
        for name, view in ran.items()
    ]
    return sorted(bars, key=lambda bar: bar["left"])


def details(target: LocalTarget, arn: str, step: Step, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is shown of the chosen step."""
    job = describe_job(target, record) or {}
    uris = {path: uri for path, uri in flatten(job).items() if is_uri(uri)} if job else {}
    source = source_of(record)
    return {
        "declared": step,
        "record": record,
        "job": job_of(record),
        "arguments": step.arguments or {key: value for key, value in step.own.items() if value and key != "Arguments"},
        "places": [(path.startswith(OUTPUTS), AROUND_NAME.sub("", path) or path, uri) for path, uri in uris.items()],
        "facts": {each["MetricName"]: each["Value"] for each in job.get("FinalMetricDataList", [])}
        | outputs_of(record),
        "source": source and address(source),
        "why": why(target, arn, step.name, record["StepStatus"], record.get("StartTime")) if record else None,
    }


@lru_cache(maxsize=256)
def why(target: LocalTarget, arn: str, name: str, *_: object) -> dict[str, Any] | None:
    """Return why a step ran or was reused: found once for a status, since every file of its inputs is looked at."""
    return next(iter(explain_steps(target, arn, only=name)), None)


def search(target: LocalTarget, steps: list[dict[str, Any]], chosen: str | None) -> dict[str, Any] | None:
    """Return the trials of the chosen Tuning step, else of the last one, and their plot."""
    searches = {step["StepName"]: job for step in steps if (job := search_job([step]))}
    step = chosen if chosen in searches else next(reversed(searches), None)
    record = search_record(target, searches[step]) if step else None
    if record is None or step is None:
        return None
    names = dict.fromkeys(name for trial in record["trials"] for name in trial["hyperparameters"])
    return {
        **record,
        "step": step,
        "hyperparameters": names,
        "plot": plot(record, described_search(target, searches[step])),
    }


def log_file(request: Request) -> Path | None:
    """Return where the log of the chosen step is, or of a trial of its search; None where there is none."""
    target, arn = place(request)
    chosen, trial = (request.query_params.get(name) for name in ("step", "trial"))
    for step in executions.steps(target, arn):
        if step["StepName"] == chosen:
            search = search_job([step]) if trial else None
            known = {each["TrainingJobName"] for each in executions.trials(target, search)} if search else ()
            file = target.log_of("", str(trial)) if trial in known else log_of(target, arn, step)
            return Path(file) if file else None
    return None


def log(request: Request) -> dict[str, Any]:
    """Return the end of that log, and whether there may come more."""
    target, arn = place(request)
    file = log_file(request)
    return {
        "base": address(arn),
        "trial": request.query_params.get("trial"),
        "log": file,
        "lines": target.last_lines(str(file), LOG_LINES) if file else [],
        "is_active": executions.describe(target, arn)["PipelineExecutionStatus"] in ACTIVE,
    }


def reports(target: LocalTarget, steps: list[dict[str, Any]], started: float) -> list[tuple[str, str]]:
    """Return title and address of each report of an execution; of drift, the endpoint's newest since its start."""
    folder, pages = target.reports or target.home, []
    evaluation, training = output_of(target, steps, "evaluation"), training_job(steps)
    if evaluation and target.holds(f"{evaluation}/report.html"):
        pages.append(("Evaluation", f"/objects/{evaluation.removeprefix('s3://')}/report.html"))
    if training and saved_report(folder / training[0]):
        pages.append(("Training", f"/reports/{training[0]}/{HTML_NAME}"))
    is_registered = any("RegisterModel" in step.get("Metadata", {}) for step in steps)
    if is_registered and (folder / DRIFT_PAGE).is_file() and (folder / DRIFT_PAGE).stat().st_mtime > started:
        pages.append(("Drift", f"/reports/{DRIFT_PAGE}"))
    return pages


def write_report(target: LocalTarget, arn: str) -> None:
    """Write the report of an execution's training, as `run` does at its end, unless it is there."""
    with writing:
        try:
            if arn not in written:
                keep_report(target, arn)
        finally:
            written.add(arn)


def act(request: Request) -> Response:
    """Do what a button asks for."""
    target, arn = place(request)
    if (action := request.path_params["action"]) in ACTIONS:
        do, done = ACTIONS[action]
        written.discard(arn)
        return attempt(address(arn), done, lambda: do(target, arn))
    if action != "run-from":
        raise missing(f"action {action!r}")
    try:
        return go_to(address(executions.start_from(target, arn, str(form_of(request).get("step")))))
    except PipelineError as problem:
        return go_to(address(arn), problem=str(problem))


ROUTES = [
    Route(BASE, show),
    Route(f"{BASE}/live", show_live),
    Route(f"{BASE}/log", show_log),
    Route(f"{BASE}/{{action}}", act, methods=["POST"]),
]
