"""Transform jobs of their own: CreateTransformJob starts a process that does what a Transform step does.

The process holds the lock `locks/transform-<job>` as long as it lives, so that whoever looks at a job knows whether
somebody still works on it.
"""

import asyncio
import contextlib
import signal
from pathlib import Path

from pipeline.local.checks.serving import transform_problems
from pipeline.local.engine.runner_process import send, spawn_runner, taken_lock
from pipeline.local.jobs import servers
from pipeline.local.jobs.runtime import Runtime, StepCall, StepFailure, arn, now
from pipeline.local.jobs.transform import run_transform
from pipeline.local.sagemaker.jobs import job_list
from pipeline.local.store.answers import Api, RequestError, checked_name, chosen, found, invalid, unused
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage

KIND = "TransformJob"
LOCK_WAIT_SECONDS = 10
LOST = "InternalServerError: the job's process ended before the job did."
OUTCOMES = {  # of a job whose process has ended
    "Stopping": {"TransformJobStatus": "Stopped"},
    "InProgress": {"TransformJobStatus": "Failed", "FailureReason": LOST},
}


def create_transform_job(state: State, request: Document) -> Document:
    """CreateTransformJob: starts the job's process, which takes over its lock, and returns."""
    name = checked_name(request, "TransformJobName")
    found(state, "Model", request["ModelName"], "model")
    if faults := list(transform_problems(request)):
        raise invalid(f"TransformJob {name!r} {faults[0]}")
    more = {"TransformJobArn": arn("transform-job", name), "TransformJobStatus": "InProgress", "CreationTime": now()}
    unused(state, KIND, name, "transform job")
    with taken_lock(lock_path(state, name), wait_seconds=LOCK_WAIT_SECONDS) as lock:  # of who settles a job of the name
        with state.transaction():
            unused(state, KIND, name, "transform job")
            state.put(KIND, name, {**request, **more})
        folder = state.home / "jobs" / name
        folder.mkdir(parents=True, exist_ok=True)
        spawn_runner(state, "transform", name, lock, folder / "process.log")
    return chosen(more, "TransformJobArn")


def describe_transform_job(state: State, request: Document) -> Document:
    """DescribeTransformJob; a job of CreateTransformJob whose process is gone has failed."""
    return settled(state, found(state, KIND, request["TransformJobName"], "transform job"))


def list_transform_jobs(state: State, request: Document) -> Document:
    """ListTransformJobs."""
    for document in state.with_status(KIND, *OUTCOMES):
        settled(state, document)
    return job_list(KIND, state, request)


def stop_transform_job(state: State, request: Document) -> Document:
    """StopTransformJob: asks the process to end; the job is Stopping until it has."""
    name = request["TransformJobName"]
    document, path = describe_transform_job(state, request), lock_path(state, name)
    if document["TransformJobStatus"] != "InProgress":
        raise invalid(f"The transform job {name!r} is {document['TransformJobStatus']}, so it cannot be stopped.")
    if not path.exists():
        raise invalid(f"The transform job {name!r} is a pipeline's: stop the execution.")

    def stop(job: Document) -> None:
        if job["TransformJobStatus"] in OUTCOMES:
            job["TransformJobStatus"] = "Stopping"

    state.change(KIND, name, stop)
    send(path, signal.SIGTERM, signal.SIGCONT)  # one that was halted hears of it
    return {}


def settled(state: State, document: Document) -> Document:
    """Return the job as it is; one that nobody works on any more has ended."""
    name = document["TransformJobName"]
    path = lock_path(state, name)
    if document["TransformJobStatus"] not in OUTCOMES or not path.exists():
        return document

    def end(job: Document) -> None:
        if outcome := OUTCOMES.get(job["TransformJobStatus"]):
            job.update(outcome, TransformEndTime=now())

    with contextlib.suppress(BlockingIOError), taken_lock(path):
        servers.end_all(state.home / "jobs" / name / "server")
        return state.change(KIND, name, end)
    return document


def lock_path(state: State, name: str) -> Path:
    """Return the lock of a job's process."""
    return state.home / "locks" / f"transform-{name}"


async def run_job(state: State, name: str, api: Api) -> None:
    """Do the job; SIGTERM stops it."""
    request = found(state, KIND, name, "transform job")
    call = StepCall(name=name, definition={}, arguments=request, execution_id="", job_name=name)
    work = asyncio.create_task(run_transform(call, Runtime(state, Storage(state), None, api)))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    if state.get(KIND, name) != request:  # it was stopped before this process listened
        work.cancel()
    with contextlib.suppress(asyncio.CancelledError, StepFailure, RequestError):
        await work
