"""CloudWatch Logs of jobs and functions: a job's log.txt as the stream `<job name>/algo-1` of its group.

A token is an offset into the file. All lines carry the time at which the job was created, since the file has no times.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.local.store.answers import RequestError
from pipeline.local.store.state import Document, State

CHUNK_BYTES = 1_000_000
KINDS = {f"/aws/sagemaker/{kind}s": kind for kind in ("ProcessingJob", "TrainingJob", "TransformJob")}
HOST = "algo-1"


def answer(state: State, operation: str, request: Document) -> Document:
    """Answer one request.

    Raises:
        RequestError: another operation, or no such group or stream.
    """
    if operation not in OPERATIONS:
        raise RequestError("InvalidParameterException", f"The local target does not answer logs:{operation}.")
    return OPERATIONS[operation](state, request)


def describe_log_streams(state: State, request: Document) -> Document:
    """DescribeLogStreams, by prefix."""
    streams = stream_names(state, request["logGroupName"], request.get("logStreamNamePrefix", ""))
    return {"logStreams": [{"logStreamName": stream} for stream in streams]}


def get_log_events(state: State, request: Document) -> Document:
    """GetLogEvents: whole lines from the token on; without one, from the start."""
    group, stream = request["logGroupName"], request["logStreamName"]
    if stream not in stream_names(state, group, stream):
        raise RequestError("ResourceNotFoundException", "The specified log stream does not exist.")
    lines, begin, end = lines_from(state, stream, request.get("nextToken"))
    events = [{"timestamp": created(state, group, stream), "message": line} for line in lines]
    return {
        "events": [event for event in events if in_time(event, request)],
        "nextForwardToken": f"f/{end}",
        "nextBackwardToken": f"b/{begin}",
    }


def filter_log_events(state: State, request: Document) -> Document:
    """FilterLogEvents of one or several streams, all on one page.

    Raises:
        RequestError: with a filter pattern, a language that is not understood here.
    """
    if request.get("filterPattern"):
        raise RequestError("InvalidParameterException", "The local target does not filter log events by pattern.")
    group = request["logGroupName"]
    streams = request.get("logStreamNames") or stream_names(state, group, request.get("logStreamNamePrefix", ""))
    events: list[Document] = []
    for stream in streams:
        lines = log_of(state, stream).read_text(errors="replace").splitlines()
        time = created(state, group, stream)
        events += [{"logStreamName": stream, "timestamp": time, "message": line} for line in lines]
    return {"events": [event for event in events if in_time(event, request)], "searchedLogStreams": []}


OPERATIONS: dict[str, Callable[[State, Document], Document]] = {
    "DescribeLogStreams": describe_log_streams,
    "GetLogEvents": get_log_events,
    "FilterLogEvents": filter_log_events,
}


def stream_names(state: State, group: str, prefix: str) -> list[str]:
    """The streams of a group that begin with a prefix.

    Raises:
        RequestError: there is no such group.
    """
    if group not in KINDS:
        raise RequestError("ResourceNotFoundException", "The specified log group does not exist.")
    kind = KINDS[group]
    name = prefix.partition("/")[0]
    jobs = [job] if (job := state.get(kind, name)) else state.all(kind)
    streams = [f"{job[f'{kind}Name']}/{HOST}" for job in jobs]
    return [stream for stream in streams if stream.startswith(prefix) and log_of(state, stream).is_file()]


def lines_from(state: State, stream: str, token: Any) -> tuple[list[str], int, int]:
    """Whole lines from a token on, at most a chunk of them, and the offsets of their begin and end.

    Raises:
        RequestError: the token is none of ours.
    """
    number = str(token or "f/0").partition("/")[2]
    if not number.isdecimal():
        raise RequestError("InvalidParameterException", "The specified nextToken is invalid.")
    offset = int(number)
    with log_of(state, stream).open("rb") as log:
        log.seek(offset)
        content = log.read(CHUNK_BYTES)
    whole = content if len(content) == CHUNK_BYTES and b"\n" not in content else content[: content.rfind(b"\n") + 1]
    return whole.decode(errors="replace").splitlines(), offset, offset + len(whole)


def in_time(event: Document, request: Document) -> bool:
    """Whether an event lies between startTime and endTime."""
    return bool(request.get("startTime", 0) <= event["timestamp"] < request.get("endTime", float("inf")))


def created(state: State, group: str, stream: str) -> int:
    """When a stream's job was created, in milliseconds since 1970."""
    job = state.get(KINDS[group], stream.partition("/")[0])
    return int(1000 * job["CreationTime"]) if job else 0


def log_of(state: State, stream: str) -> Path:
    """A stream's file."""
    return state.home / "jobs" / stream.partition("/")[0] / "log.txt"
