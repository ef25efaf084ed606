"""Runs a Transform step or job: every object goes to the model's own server, every answer to `<object>.out`."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.local.jobs import servers
from pipeline.local.jobs.model_data import resolved_container
from pipeline.local.jobs.runtime import Runtime, StepCall, StepFailure, StepResult, arn, now
from pipeline.local.jobs.servers import STARTUP_SECONDS
from pipeline.local.store.answers import RequestError
from pipeline.local.store.state import Document


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
    """Start the server, send every object, stop the server.

    As on the service (AWS guide, "batch-transform"), a refused object ends nothing: the others are answered, and the
    job fails at the end. What was refused and why is in the job's log.

    Raises:
        StepFailure: there is no object, the model cannot be served, or an object was refused.
    """
    source = call.arguments["TransformInput"]
    objects = runtime.storage.objects(source["DataSource"]["S3DataSource"]["S3Uri"])
    if not objects:
        raise StepFailure("TransformInput names no object in the local S3.")
    server = started(call, runtime, stopping)
    pool = ThreadPoolExecutor(concurrent_transforms(call, server))
    try:
        refusals = [
            said for said in pool.map(lambda item: sent(call, runtime, server, item, stopping), objects) if said
        ]
    finally:
        pool.shutdown(cancel_futures=True)
        servers.stop(server)
    if refusals and not stopping.is_set():
        log = runtime.job(call.job_name).log
        log.write_text("".join(f"{said}\n" for said in refusals))
        more = f" ({len(refusals)} of {len(objects)} objects were refused; log: {log})" if len(refusals) > 1 else ""
        raise StepFailure(f"ClientError: {refusals[0]}{more}")


def sent(
    call: StepCall, runtime: Runtime, server: Document, item: tuple[str, Path], stopping: threading.Event
) -> str | None:
    """Send one object and store its answer; why that failed, if it did."""
    if stopping.is_set():
        return None
    name, file = item
    source, output = call.arguments["TransformInput"], call.arguments["TransformOutput"]
    headers = {"Content-Type": source.get("ContentType", "application/octet-stream")}
    if accept := output.get("Accept"):
        headers["Accept"] = accept
    answer = servers.post(server, file.read_bytes(), headers)
    if answer is None or answer.status != 200:
        said = answer.body.decode(errors="replace") if answer else "no answer"
        return f"the model refused {name}: {said}"
    runtime.storage.write(f"{output['S3OutputPath'].rstrip('/')}/{name}.out", answer.body)
    return None


def concurrent_transforms(call: StepCall, server: Document) -> int:
    """Requests at the same time: the job's, else what the server's /execution-parameters says, else one."""
    if asked := call.arguments.get("MaxConcurrentTransforms"):
        return int(asked)
    try:
        answer = servers.request(server, "GET", "/execution-parameters", timeout_seconds=servers.PING_TIMEOUT_SECONDS)
        said = json.loads(answer.body) if answer and answer.status == 200 else {}
        return max(1, int(said.get("MaxConcurrentTransforms", 1)))
    except (TimeoutError, ValueError, AttributeError, TypeError):  # a server that answers something else
        return 1


def started(call: StepCall, runtime: Runtime, stopping: threading.Event) -> Document:
    """A healthy server for the model; its files are those of an endpoint with the job's name."""
    arguments = call.arguments
    container = resolved_container(runtime.state, arguments["ModelName"])
    environment = {**container.get("Environment", {}), **arguments.get("Environment", {}), "SAGEMAKER_BATCH": "true"}
    server = servers.start(runtime.state, call.job_name, {**container, "Environment": environment})
    deadline = time.monotonic() + STARTUP_SECONDS
    while not servers.is_healthy(server):
        if not servers.is_running(server) or stopping.is_set() or time.monotonic() > deadline:
            servers.stop(server)
            raise StepFailure(servers.failure(server))
        time.sleep(0.05)
    return server
