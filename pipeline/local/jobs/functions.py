"""Lambda functions: a Python file and its handler, run unmodified in a process of its own.

The process is `function_host.py`, in a job directory of the invocation's own; what it prints goes to that job's log.
"""

import asyncio
import contextlib
import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.definition.expressions import text_of
from pipeline.errors import UsageError
from pipeline.local.jobs.runtime import Runtime, StepCall, StepFailure, StepResult
from pipeline.local.sandbox.namespaces import Mount, find_mount
from pipeline.local.sandbox.process import Command, JobDirectory, JobProcess
from pipeline.local.store.answers import Api, RequestError, function_name
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import file_digest

HOST = Path(__file__).with_name("function_host.py")
OUTCOME_BYTES = 8 * 2**20  # Lambda's limit for an answer is 6 MB
STEP_TIMEOUT_SECONDS = 600.0  # a Lambda step's limit, below Lambda's own 15 minutes


class FunctionError(RequestError):
    """The handler raised, ran out of time, or answered something else than the step declares."""

    def __init__(self, message: str) -> None:
        super().__init__("Unhandled", message)


def put_function(
    state: State, name: str, script: Path, handler: str, environment: Mapping[str, str] | None = None
) -> None:
    """Make a file's handler known as a function, or raise a UsageError if there is no such file."""
    if not script.is_file():
        raise UsageError(f"The code of Lambda function {name!r} is not there: {script}.")
    module_and_handler = f"{script.stem}.{handler.rpartition('.')[2]}"
    document = {"FunctionName": name, "Handler": module_and_handler, "Environment": dict(environment or {})}
    state.put("Function", name, {**document, "Folder": str(script.resolve().parent)})


def function_named(state: State, arn_or_name: str, execution_id: str | None = None) -> Document:
    """The function of an ARN or a name, as it was when an execution started; refused if there is none."""
    name = function_name(arn_or_name)
    kept = state.get("ExecutionFunction", f"{execution_id}/{name}") if execution_id else None
    document = kept or state.get("Function", name)
    if document is None:
        raise RequestError("ResourceNotFoundException", f"Function not found: {name}", 404)
    return document


def code_digest(document: Document) -> str:
    """Of the handler's file and of those that it may import: a change of code is a change of the step."""
    folder, is_package = Path(document["Folder"]), document["Handler"].count(".") > 1
    files = sorted(folder.rglob("*.py") if is_package else folder.glob("*.py"))
    listing = "".join(f"{file.relative_to(folder)} {file_digest(file)}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()


async def invoke(
    state: State, api: Api, document: Document, event: Any, *, job_name: str | None = None, mount: Mount | None = None
) -> Any:
    """Return what the handler returns, or raise a FunctionError; with a mount it writes to /tmp alone, as in Lambda."""
    timeout_seconds = float(document.get("Timeout", STEP_TIMEOUT_SECONDS))
    name, folder = document["FunctionName"], document["Folder"]
    job = JobDirectory(state.home, job_name or f"lambda-{name}-{secrets.token_hex(5)}")
    (job.tree / "event.json").write_text(json.dumps(event))
    environment = {
        "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": job.name,
        "LAMBDA_TASK_ROOT": folder,
        "_HANDLER": document["Handler"],
        **document["Environment"],
    }
    command = Command(["python3", str(HOST), "/opt/ml", str(timeout_seconds)], environment, folder)
    ended = await JobProcess(job, command, mount, api=api).run(timeout_seconds, lambda line: None)
    outcome = job.message("/opt/ml/outcome.json", OUTCOME_BYTES)
    if ended.cause == "timeout":
        raise FunctionError(f"The function ran longer than {timeout_seconds:g} seconds.")
    if not outcome:
        last = next(iter(reversed(job.last_lines(5))), "no output")
        raise FunctionError(f"The function's process ended with exit code {ended.code}: {last}")
    try:
        answer = json.loads(outcome)
        if "errorMessage" in answer:
            raise FunctionError(f"{answer['errorType']}: {answer['errorMessage']}")
        return answer["result"]
    except (ValueError, TypeError, KeyError) as problem:  # the handler has written over it
        raise FunctionError(f"The function's answer cannot be read: {problem}") from problem


def invoke_now(state: State, api: Api, document: Document, event: Any) -> Any:
    """`invoke`, for callers outside an event loop."""
    return asyncio.run(invoke(state, api, document, event, mount=find_mount(state.home)))


async def run_lambda(call: StepCall, runtime: Runtime) -> StepResult:
    """Call the handler and return the outputs that the step declares, each of its OutputType, or raise a StepFailure.

    What else the handler answers is ignored.
    """
    function = function_named(runtime.state, call.definition["FunctionArn"], call.execution_id)
    metadata: dict[str, Any] = {"Lambda": {"Arn": call.definition["FunctionArn"]}}
    declared = {output["OutputName"]: output["OutputType"] for output in call.definition.get("OutputParameters") or []}
    try:
        answer = await invoke(
            runtime.state, runtime.api, function, call.arguments, job_name=call.job_name, mount=runtime.mount
        )
        for name in declared:
            if not isinstance(answer, dict) or name not in answer:
                must = f"it must be a dictionary with {', '.join(declared)}"
                raise FunctionError(f"The function's answer lacks the output parameter {name!r}; {must}.")
        outputs = {name: typed(name, kind, answer[name]) for name, kind in declared.items()}
    except FunctionError as problem:
        raise StepFailure(str(problem), metadata=metadata) from problem
    metadata["Lambda"]["OutputParameters"] = [{"Name": n, "Value": str(v)} for n, v in outputs.items()]
    return StepResult({"OutputParameters": outputs, "Outputs": outputs}, metadata)


def typed(name: str, kind: str, value: Any) -> Any:
    """One output: text that reads as the type is taken for it, a nested value becomes JSON text, as on the service."""
    flat = json.dumps(value) if isinstance(value, dict | list) else value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "String" and flat is not None:
        return text_of(flat)
    if kind == "Boolean" and str(flat).lower() in ("true", "false"):
        return str(flat).lower() == "true"
    if kind == "Integer" and (re.fullmatch(r"[+-]?[0-9]+", str(flat)) or (is_number and float(value).is_integer())):
        return int(flat)
    if kind == "Float" and (is_number or isinstance(flat, str)):
        with contextlib.suppress(ValueError):
            return float(flat)
    found = repr(value) if isinstance(value, str) else json.dumps(value)
    raise FunctionError(f"The function's output parameter {name!r} must be {kind}, but is {found}.")
