"""Jobs of executions, described and listed, and their logs as CloudWatch Logs has them.

`jobs/` keeps their documents as the service describes them. A job's log.txt is the stream `<job name>/algo-1` of its
kind's group; a token is an offset into the file. All lines carry the time at which the job was created, since the file
has no times.
"""

from functools import partial
from pathlib import Path
from typing import Any

from pipeline.local.store.answers import RequestError, found, listed, paged
from pipeline.local.store.state import Document, State

KINDS = {
    "ProcessingJob": "processing job",
    "TrainingJob": "training job",
    "HyperParameterTuningJob": "hyperparameter tuning job",
}
LOG_GROUPS = {f"/aws/sagemaker/{kind}s": kind for kind in ("ProcessingJob", "TrainingJob", "TransformJob")}
OBJECTIVE = "FinalHyperParameterTuningJobObjectiveMetric"
CHUNK_BYTES = 1_000_000  # of a log in one answer


def described(kind: str, state: State, request: Document) -> Document:
    """DescribeTrainingJob and its like."""
    return found(state, kind, request[f"{kind}Name"], KINDS[kind])


def job_list(kind: str, state: State, request: Document) -> Document:
    """ListTrainingJobs and its like, by a part of the name and by status."""
    wanted, status = request.get("NameContains", ""), request.get("StatusEquals")
    jobs = listed(
        state.all(kind), request, lambda job: wanted in job[f"{kind}Name"] and status in (None, job[f"{kind}Status"])
    )
    return paged(f"{kind}Summaries", jobs, request)  # whole: clients leave out what the service's model does not know


describe_processing_job = partial(described, "ProcessingJob")
describe_training_job = partial(described, "TrainingJob")
describe_hyper_parameter_tuning_job = partial(described, "HyperParameterTuningJob")
list_processing_jobs = partial(job_list, "ProcessingJob")
list_training_jobs = partial(job_list, "TrainingJob")
list_hyper_parameter_tuning_jobs = partial(job_list, "HyperParameterTuningJob")


def list_training_jobs_for_hyper_parameter_tuning_job(state: State, request: Document) -> Document:
    """ListTrainingJobsForHyperParameterTuningJob: the trials by SortBy, those without an objective last.

    Without SortBy and SortOrder they come in the order of their start.
    """
    trials = describe_hyper_parameter_tuning_job(state, request)["Trials"]
    status = request.get("StatusEquals")
    wanted = [trial for trial in trials if status in (None, trial["TrainingJobStatus"])]
    sort_by, is_descending = request.get("SortBy", "CreationTime"), request.get("SortOrder") == "Descending"
    if sort_by == "FinalObjectiveMetricValue":
        without = [trial for trial in wanted if OBJECTIVE not in trial]
        wanted = [trial for trial in wanted if OBJECTIVE in trial]
        wanted.sort(key=lambda trial: float(trial[OBJECTIVE]["Value"]), reverse=is_descending)
        wanted += without
    else:
        member = {"Name": "TrainingJobName", "Status": "TrainingJobStatus"}.get(sort_by, "CreationTime")
        wanted.sort(key=lambda trial: trial[member], reverse=is_descending)
    return paged("TrainingJobSummaries", wanted, request)


def describe_log_streams(state: State, request: Document) -> Document:
    """DescribeLogStreams, by prefix."""
    streams = stream_names(state, request["logGroupName"], request.get("logStreamNamePrefix", ""))
    return {"logStreams": [{"logStreamName": stream} for stream in streams]}


def get_log_events(state: State, request: Document) -> Document:
    """GetLogEvents: whole lines from the token on; without one, from the start."""
    stream = request["logStreamName"]
    if stream not in stream_names(state, request["logGroupName"], stream):
        raise RequestError("ResourceNotFoundException", "The specified log stream does not exist.")
    lines, begin, end = lines_from(log_of(state, stream), request.get("nextToken") or "f/0")
    events = events_in_time(state, stream, lines, request)
    return {"events": events, "nextForwardToken": f"f/{end}", "nextBackwardToken": f"b/{begin}"}


def filter_log_events(state: State, request: Document) -> Document:
    """FilterLogEvents of one or several streams, all on one page; filter patterns are refused."""
    if request.get("filterPattern"):
        raise RequestError("InvalidParameterException", "The local target does not filter log events by pattern.")
    streams = stream_names(state, request["logGroupName"], request.get("logStreamNamePrefix", ""))
    events: list[Document] = []
    for stream in request.get("logStreamNames") or streams:
        lines = log_of(state, stream).read_text(errors="replace").splitlines()
        found_events = events_in_time(state, stream, lines, request)
        events += [{"logStreamName": stream, **event} for event in found_events]
    return {"events": events, "searchedLogStreams": []}


def stream_names(state: State, group: str, prefix: str) -> list[str]:
    """The streams of a group that begin with a prefix; refused if there is no such group."""
    if group not in LOG_GROUPS:
        raise RequestError("ResourceNotFoundException", "The specified log group does not exist.")
    kind = LOG_GROUPS[group]
    jobs = [job] if (job := state.get(kind, prefix.partition("/")[0])) else state.all(kind)
    streams = [f"{job[f'{kind}Name']}/algo-1" for job in jobs]
    return [stream for stream in streams if stream.startswith(prefix) and log_of(state, stream).is_file()]


def lines_from(log: Path, token: Any) -> tuple[list[str], int, int]:
    """Whole lines from a token on, at most a chunk of them, and the offsets of their begin and end."""
    number = str(token).partition("/")[2]
    if not number.isdecimal():
        raise RequestError("InvalidParameterException", "The specified nextToken is invalid.")
    with log.open("rb") as stream:
        stream.seek(int(number))
        content = stream.read(CHUNK_BYTES)
    whole = content if len(content) == CHUNK_BYTES and b"\n" not in content else content[: content.rfind(b"\n") + 1]
    return whole.decode(errors="replace").splitlines(), int(number), int(number) + len(whole)


def events_in_time(state: State, stream: str, lines: list[str], request: Document) -> list[Document]:
    """Lines as events, if their time, in milliseconds since 1970, lies between startTime and endTime."""
    job = state.get(LOG_GROUPS[request["logGroupName"]], stream.partition("/")[0])
    time = int(1000 * job["CreationTime"]) if job else 0
    is_wanted = request.get("startTime", 0) <= time < request.get("endTime", float("inf"))
    return [{"timestamp": time, "message": line} for line in lines] if is_wanted else []


def log_of(state: State, stream: str) -> Path:
    """A stream's file."""
    return state.home / "jobs" / stream.partition("/")[0] / "log.txt"
