"""Transform jobs of their own: CreateTransformJob starts a process that does what a Transform step does.

The process holds the lock `locks/transform-<job>` as long as it lives, so that whoever looks at a job knows whether
somebody still works on it.
"""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from pipeline.definition.serving_requests import transform_faults
from pipeline.local.engine.runner_process import runner_pid, spawn_detached, taken_lock
from pipeline.local.jobs import servers
from pipeline.local.jobs.runtime import Runtime, StepCall, StepFailure, arn, now
from pipeline.local.jobs.transform import run_transform
from pipeline.local.store.answers import Api, RequestError, checked_name, chosen, found, invalid, listed, paged, unused
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage

KIND = "TransformJob"
LOCK_WAIT_SECONDS = 10
LOST = "InternalServerError: the job's process ended before the job did."
SUMMARY = ("TransformJobName", "TransformJobArn", "CreationTime", "TransformEndTime", "TransformJobStatus")


def create_transform_job(state: State, request: Document) -> Document:
    """CreateTransformJob: starts the job's process and returns.

    Raises:
        RequestError: the name is taken, the model is not there, or the request asks for what is not imitated.
    """
    name = checked_name(request, "TransformJobName")
    found(state, "Model", request["ModelName"], "model")
    if faults := list(transform_faults(request)):
        raise invalid(f"TransformJob {name!r} {faults[0]}")
    document = {
        **request,
        "TransformJobArn": arn("transform-job", name),
        "TransformJobStatus": "InProgress",
        "CreationTime": now(),
    }
    unused(state, KIND, name, "transform job")
    with taken_lock(lock_path(state, name), wait_seconds=LOCK_WAIT_SECONDS) as lock:  # of who settles a job of the name
        with state.transaction():
            unused(state, KIND, name, "transform job")
            state.put(KIND, name, document)
        spawn(state, name, lock)
    return chosen(document, "TransformJobArn")


def describe_transform_job(state: State, request: Document) -> Document:
    """DescribeTransformJob; a job of CreateTransformJob whose process is gone has failed."""
    return settled(state, found(state, KIND, request["TransformJobName"], "transform job"))


def list_transform_jobs(state: State, request: Document) -> Document:
    """ListTransformJobs."""
    wanted, status = request.get("NameContains", ""), request.get("StatusEquals")
    jobs = listed(
        (settled(state, document) for document in state.all(KIND)),
        request,
        lambda job: wanted in job["TransformJobName"] and status in (None, job["TransformJobStatus"]),
    )
    return paged("TransformJobSummaries", [chosen(job, *SUMMARY) for job in jobs], request)


def stop_transform_job(state: State, request: Document) -> Document:
    """StopTransformJob: asks the process to end; the job is Stopping until it has."""
    name = request["TransformJobName"]
    document = settled(state, found(state, KIND, name, "transform job"))
    if document["TransformJobStatus"] != "InProgress":
        raise invalid(f"The transform job {name!r} is {document['TransformJobStatus']}, so it cannot be stopped.")
    path = lock_path(state, name)
    if not path.exists():
        raise invalid(f"The transform job {name!r} is a pipeline's: stop the execution.")
    state.change(KIND, name, lambda job: job.update(TransformJobStatus="Stopping") if is_active(job) else None)
    if pid := runner_pid(path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGCONT)  # one that was halted hears of it
    return {}


def settled(state: State, document: Document) -> Document:
    """The job as it is; one that nobody works on any more has ended."""
    name = document["TransformJobName"]
    path = lock_path(state, name)
    if not is_active(document) or not path.exists():
        return document
    with contextlib.suppress(BlockingIOError), taken_lock(path):
        servers.end_strays(state, name)
        return state.change(KIND, name, end_lost)
    return document


def end_lost(job: Document) -> None:
    """Record the end of a job whose process is gone, unless it did so itself."""
    if is_active(job):
        stopped = job["TransformJobStatus"] == "Stopping"
        job.update(TransformJobStatus="Stopped" if stopped else "Failed", TransformEndTime=now())
        job.update({} if stopped else {"FailureReason": LOST})


def is_active(job: Document) -> bool:
    """Whether the job has not ended."""
    return job["TransformJobStatus"] in ("InProgress", "Stopping")


def lock_path(state: State, name: str) -> Path:
    """The lock of a job's process."""
    return state.home / "locks" / f"transform-{name}"


def spawn(state: State, name: str, lock: int) -> None:
    """Start the job's process, which takes over the lock."""
    folder = state.home / "jobs" / name
    folder.mkdir(parents=True, exist_ok=True)
    spawn_detached(["pipeline.local.runner", "transform", str(state.home), name], folder / "process.log", lock)


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
