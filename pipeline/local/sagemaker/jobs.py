"""Jobs, described and listed, and their logs as CloudWatch Logs has them.

`jobs/` keeps their documents as the service describes them. A job's log.txt is the stream `<job name>/algo-1` of its
kind's group; a token is an offset into the file. All lines carry the time at which the job was created, since the file
has no times.
"""

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from pipeline.local.jobs.runtime import job_folder
from pipeline.local.sagemaker.created_jobs import NOUNS, settle_all, settled
from pipeline.local.store.answers import RequestError, found, listing, paged
from pipeline.local.store.state import Document, State

LOG_GROUPS = {f"/aws/sagemaker/{kind}s": kind for kind in ("ProcessingJob", "TrainingJob", "TransformJob")}
OBJECTIVE = "FinalHyperParameterTuningJobObjectiveMetric"
CHUNK_BYTES = 1_000_000  # of a log in one answer


def described(kind: str, state: State, request: Document) -> Document:
    """DescribeTrainingJob and its like."""
    return settled(kind, state, found(state, kind, request[f"{kind}Name"], NOUNS[kind]))


def job_list(kind: str, state: State, request: Document) -> Document:
    """ListTrainingJobs and its like."""
    settle_all(state)
    page = listing(state, kind, request, f"{kind}Summaries")
    for search in page[f"{kind}Summaries"] if kind == "HyperParameterTuningJob" else ():
        search.setdefault("Strategy", search.get("HyperParameterTuningJobConfig", {}).get("Strategy"))
    return page


describe_processing_job, describe_training_job, describe_hyper_parameter_tuning_job, describe_transform_job = (
    partial(described, kind) for kind in NOUNS
)
list_processing_jobs, list_training_jobs, list_hyper_parameter_tuning_jobs, list_transform_jobs = (
    partial(job_list, kind) for kind in NOUNS
)


def list_training_jobs_for_hyper_parameter_tuning_job(state: State, request: Document) -> Document:
    """ListTrainingJobsForHyperParameterTuningJob: the trials by SortBy, those without an objective last.

    Without SortBy and SortOrder they come in the order of their start.
    """
    trials = describe_hyper_parameter_tuning_job(state, request).get("Trials", [])
    status, sort_by = request.get("StatusEquals"), request.get("SortBy", "CreationTime")
    wanted = [trial for trial in trials if status in (None, trial["TrainingJobStatus"])]
    last = [trial for trial in wanted if sort_by == "FinalObjectiveMetricValue" and OBJECTIVE not in trial]
    key = {
        "Name": lambda trial: trial["TrainingJobName"],
        "Status": lambda trial: trial["TrainingJobStatus"],
        "FinalObjectiveMetricValue": lambda trial: float(trial[OBJECTIVE]["Value"]),
    }.get(sort_by, lambda trial: trial["CreationTime"])
    is_descending = request.get("SortOrder") == "Descending"
    wanted = sorted((trial for trial in wanted if trial not in last), key=key, reverse=is_descending)
    return paged("TrainingJobSummaries", [*wanted, *last], request)


def describe_log_streams(state: State, request: Document) -> Document:
    """DescribeLogStreams, by prefix."""
    return {"logStreams": [{"logStreamName": stream} for stream in streams(state, request)]}


def get_log_events(state: State, request: Document) -> Document:
    """GetLogEvents: here from the start without a token, and each line has the time of the job's creation."""
    stream, token = request["logStreamName"], (request.get("nextToken") or "f/0").partition("/")[2]
    file, time = one_of(streams(state, {**request, "logStreamNamePrefix": stream}), stream)
    if not re.fullmatch("[0-9]{1,12}", token):
        raise RequestError("InvalidParameterException", "The specified nextToken is invalid.")
    with file.open("rb") as log:
        log.seek(int(token))
        content = log.read(CHUNK_BYTES)
    if b"\n" in content or len(content) < CHUNK_BYTES:
        content = content[: content.rfind(b"\n") + 1]
    events = events_in_time(content.decode(errors="replace").splitlines(), time, request)
    ends = {"nextForwardToken": f"f/{int(token) + len(content)}", "nextBackwardToken": f"b/{token}"}
    return {"events": events, **ends}


def filter_log_events(state: State, request: Document) -> Document:
    """FilterLogEvents: here all on one page; a filterPattern is one term or one phrase in quotes."""
    pattern = str(request.get("filterPattern", "")).strip()
    if not re.fullmatch(r'\w*|"[^"]+"', pattern):
        said = f"filterPattern must be a term or a phrase in quotes for the local target, but is {pattern[:100]!r}."
        raise RequestError("InvalidParameterException", said)
    known, events = streams(state, request), []
    for stream in request.get("logStreamNames") or known:
        file, time = one_of(known, stream)
        lines = (line for line in file.read_text(errors="replace").splitlines() if pattern.strip('"') in line)
        found_events = events_in_time(lines, time, request)
        events += [{"logStreamName": stream, **event} for event in found_events]
    return {"events": events, "searchedLogStreams": []}


def streams(state: State, request: Document) -> dict[str, tuple[Path, int]]:
    """The streams of a group by prefix: the file, and the time of all its lines in milliseconds since 1970."""
    group = request.get("logGroupName") or request.get("logGroupIdentifier", "").rpartition(":log-group:")[2]
    kind, prefix = LOG_GROUPS.get(group), request.get("logStreamNamePrefix", "")
    if kind is None:
        raise RequestError("ResourceNotFoundException", "The specified log group does not exist.")
    job = state.get(kind, prefix.partition("/")[0])
    known = {}
    for document in [job] if job else state.all(kind):
        name = document[f"{kind}Name"]
        folder = job_folder(state.home, kind, name)
        for file in (folder / "log.txt", *sorted(folder.glob("algo-*/log.txt"))):
            stream = f"{name}/{'algo-1' if file.parent == folder else file.parent.name}"
            if stream.startswith(prefix) and file.is_file():
                known[stream] = file, int(1000 * document["CreationTime"])
    return known


def one_of(known: dict[str, tuple[Path, int]], stream: str) -> tuple[Path, int]:
    """A stream's file and time; refused if there is none."""
    if stream not in known:
        raise RequestError("ResourceNotFoundException", "The specified log stream does not exist.")
    return known[stream]


def events_in_time(lines: Iterable[str], time: int, request: Document) -> list[Document]:
    """Lines as events, if their time lies between startTime and endTime."""
    is_wanted = request.get("startTime", 0) <= time < request.get("endTime", float("inf"))
    return [{"timestamp": time, "message": line} for line in lines if is_wanted]
