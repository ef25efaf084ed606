"""CloudWatch Logs for jobs: a job's log.txt as the stream `<job name>/algo-1`; a token is an offset into the file."""

from pathlib import Path

from pipeline.local.store.answers import RequestError
from pipeline.local.store.state import Document, State

CHUNK_BYTES = 1_000_000


def answer_logs(state: State, operation: str, request: Document) -> Document:
    """DescribeLogStreams and GetLogEvents.

    Raises:
        RequestError: another operation, or no such stream.
    """
    if operation == "DescribeLogStreams":
        job_name = request.get("logStreamNamePrefix", "").split("/")[0]
        streams = [{"logStreamName": f"{job_name}/algo-1"}] if log_of(state, job_name).is_file() else []
        return {"logStreams": streams}
    if operation == "GetLogEvents":
        return log_events(state, request)
    raise RequestError("InvalidParameterException", f"The local target does not answer logs:{operation}.")


def log_events(state: State, request: Document) -> Document:
    """Whole lines from the token on."""
    log = log_of(state, request["logStreamName"].split("/")[0])
    if not log.is_file():
        raise RequestError("ResourceNotFoundException", "The specified log stream does not exist.")
    offset = int(request.get("nextToken", "f/0").split("/")[1])
    with log.open("rb") as stream:
        stream.seek(offset)
        content = stream.read(CHUNK_BYTES)
    whole = content if len(content) == CHUNK_BYTES and b"\n" not in content else content[: content.rfind(b"\n") + 1]
    events = [{"timestamp": 0, "message": line} for line in whole.decode(errors="replace").splitlines()]
    return {"events": events, "nextForwardToken": f"f/{offset + len(whole)}"}


def log_of(state: State, job_name: str) -> Path:
    """A job's log."""
    return state.home / "jobs" / job_name / "log.txt"
