"""Lambda functions: a Python file and its handler, run unmodified in a process of its own.

The process is `function_host.py`, in a job directory of the invocation's own; what it prints goes to that job's log.
"""

import asyncio
import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.local.sandbox.process import Command, JobDirectory, JobProcess
from pipeline.local.store.answers import Api, RequestError
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import file_digest

HOST = Path(__file__).with_name("function_host.py")
STEP_TIMEOUT_SECONDS = 600.0  # a Lambda step's limit, below Lambda's own 15 minutes


class FunctionError(RequestError):
    """The handler raised, or ran out of time."""

    def __init__(self, message: str) -> None:
        super().__init__("Unhandled", message)


def put_function(
    state: State, name: str, script: Path, handler: str, environment: Mapping[str, str] | None = None
) -> None:
    """Make a file's handler known as a function.

    Raises:
        UsageError: there is no such file.
    """
    if not script.is_file():
        raise UsageError(f"The code of Lambda function {name!r} is not there: {script}.")
    document = {
        "FunctionName": name,
        "Script": str(script.resolve()),
        "Handler": handler,
        "Environment": dict(environment or {}),
    }
    state.put("Function", name, document)


def function_named(state: State, arn_or_name: str, execution_id: str | None = None) -> Document:
    """The function of an ARN (its version or alias is ignored) or of a name; of an execution, as it was at its start.

    Raises:
        RequestError: it is not known.
    """
    name = function_name(arn_or_name)
    kept = state.get("ExecutionFunction", f"{execution_id}/{name}") if execution_id else None
    document = kept or state.get("Function", name)
    if document is None:
        raise RequestError("ResourceNotFoundException", f"Function not found: {name}", 404)
    return document


def function_name(arn_or_name: str) -> str:
    """The name within arn:aws:lambda:<region>:<account>:function:<name>[:<version>]."""
    parts = arn_or_name.split(":")
    return parts[6] if len(parts) > 6 else arn_or_name


def code_digest(document: Document) -> str:
    """Of the handler's file and of those beside it that it may import: a change of code is a change of the step."""
    files = sorted(Path(document["Script"]).parent.glob("*.py"))
    return hashlib.sha256("".join(f"{file.name} {file_digest(file)}\n" for file in files).encode()).hexdigest()


async def invoke(
    state: State,
    api: Api,
    document: Document,
    event: Any,
    *,
    job_name: str | None = None,
    timeout_seconds: float = STEP_TIMEOUT_SECONDS,
) -> Any:
    """Call the handler and return what it returned.

    Raises:
        FunctionError: the handler raised, or ran out of time.
    """
    job = JobDirectory(state.home, job_name or f"lambda-{document['FunctionName']}-{secrets.token_hex(5)}")
    (job.tree / "event.json").write_text(json.dumps(event))
    command = Command(
        ["python3", str(HOST), str(job.tree), str(timeout_seconds)],
        {
            "AWS_LAMBDA_FUNCTION_NAME": document["FunctionName"],
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{document['FunctionName']}",
            "AWS_LAMBDA_LOG_STREAM_NAME": job.name,
            "LAMBDA_TASK_ROOT": str(Path(document["Script"]).parent),
            "_HANDLER": f"{Path(document['Script']).stem}.{document['Handler'].rpartition('.')[2]}",
            "LOCAL_FUNCTION": json.dumps({key: document[key] for key in ("Script", "Handler")}),
            **document["Environment"],
        },
        str(Path(document["Script"]).parent),
    )
    ended = await JobProcess(job, command, None, api=api).run(timeout_seconds, lambda line: None)
    outcome = job.tree / "outcome.json"
    if ended.cause == "timeout":
        raise FunctionError(f"The function ran longer than {timeout_seconds:g} seconds.")
    if not outcome.is_file():
        last = next(iter(reversed(job.last_lines(5))), "no output")
        raise FunctionError(f"The function's process ended with exit code {ended.code}: {last}")
    answer = json.loads(outcome.read_text())
    if "errorMessage" in answer:
        raise FunctionError(f"{answer['errorType']}: {answer['errorMessage']}")
    return answer["result"]


def invoke_now(state: State, api: Api, document: Document, event: Any) -> Any:
    """`invoke`, for callers outside an event loop."""
    return asyncio.run(invoke(state, api, document, event))
