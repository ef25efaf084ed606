"""Runs a Transform step: every object of the input goes to the model's own server, every answer to `<object>.out`."""

import asyncio
import threading
import time

from pipeline.local import servers
from pipeline.local.answers import RequestError, found
from pipeline.local.endpoints import STARTUP_SECONDS
from pipeline.local.models import containers, resolved_container
from pipeline.local.runtime import Runtime, StepCall, StepFailure, StepResult, arn, now
from pipeline.local.state import Document
from pipeline.local.storage import files_below


async def run_transform(call: StepCall, runtime: Runtime) -> StepResult:
    """One Transform step.

    Raises:
        StepFailure: the model cannot be served, or refuses an object.
    """
    document: Document = {
        "TransformJobName": call.job_name,
        "TransformJobArn": arn("transform-job", call.job_name),
        **call.arguments,
        "TransformJobStatus": "InProgress",
        "CreationTime": now(),
    }
    metadata = {"TransformJob": {"Arn": document["TransformJobArn"]}}
    runtime.state.put("TransformJob", call.job_name, document)
    stopping = threading.Event()
    try:
        await asyncio.to_thread(transform, call, runtime, stopping)
    except asyncio.CancelledError:
        stopping.set()
        servers.end_strays(runtime.state, call.job_name)
        finish(document, runtime, "Stopped")
        raise
    except (RequestError, StepFailure) as problem:
        finish(document, runtime, "Failed", FailureReason=str(problem))
        raise StepFailure(str(problem), metadata=metadata) from problem
    finish(document, runtime, "Completed")
    return StepResult(document, metadata, [call.arguments["TransformOutput"]["S3OutputPath"]])


def finish(document: Document, runtime: Runtime, status: str, **more: str) -> None:
    """Record how the job ended."""
    document.update(TransformJobStatus=status, TransformEndTime=now(), **more)
    runtime.state.put("TransformJob", document["TransformJobName"], document)


def transform(call: StepCall, runtime: Runtime, stopping: threading.Event) -> None:
    """Start the server, send every object, stop the server."""
    arguments = call.arguments
    source = arguments["TransformInput"]
    top = runtime.storage.path(source["DataSource"]["S3DataSource"]["S3Uri"])
    objects = [top] if top.is_file() else list(files_below(top)) if top.is_dir() else []
    if not objects:
        raise StepFailure("TransformInput names no object in the local S3.")
    headers = {"Content-Type": source.get("ContentType", "application/octet-stream")}
    if accept := arguments["TransformOutput"].get("Accept"):
        headers["Accept"] = accept
    server = started(call, runtime, stopping)
    try:
        for item in objects:
            name = item.name if item == top else item.relative_to(top).as_posix()
            answer = servers.post(server, item.read_bytes(), headers)
            if stopping.is_set():
                return
            if answer is None or answer.status != 200:
                said = answer.body.decode(errors="replace") if answer else "no answer"
                raise StepFailure(f"ClientError: the model refused {name}: {said}")
            output = arguments["TransformOutput"]["S3OutputPath"].rstrip("/")
            runtime.storage.write(f"{output}/{name}.out", answer.body)
    finally:
        servers.stop(server)


def started(call: StepCall, runtime: Runtime, stopping: threading.Event) -> Document:
    """A healthy server for the model; its files are those of an endpoint with the job's name."""
    arguments = call.arguments
    model = found(runtime.state, "Model", arguments["ModelName"], "model")
    container = resolved_container(runtime.state, containers(model)[0])
    environment = {**container.get("Environment", {}), **arguments.get("Environment", {})}
    server = servers.start(runtime.state, call.job_name, {**container, "Environment": environment})
    deadline = time.monotonic() + STARTUP_SECONDS
    while not servers.is_healthy(server):
        if not servers.is_running(server) or stopping.is_set() or time.monotonic() > deadline:
            servers.stop(server)
            raise StepFailure(servers.failure(server))
        time.sleep(0.05)
    return server
