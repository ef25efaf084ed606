"""What becomes of an execution whose runner is gone, or hangs: its records are settled by whoever looks at it next."""

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from pipeline.definition.step_types import STEP_TYPES
from pipeline.local.engine.runner_process import lock_path, runner_pid, taken_lock
from pipeline.local.jobs import servers
from pipeline.local.jobs.runtime import now
from pipeline.local.sandbox.environment import JOB_VARIABLE
from pipeline.local.store.answers import invalid
from pipeline.local.store.disk import DiskFull
from pipeline.local.store.state import Document, State

ACTIVE = ("Executing", "Stopping")
UNFINISHED = ("Starting", "Executing", "Stopping")  # of a step
LOST = "The runner process ended before the execution did; `retry` goes on from here."
HEARING_SECONDS = 10.0  # in which a runner that lives answers SIGTERM
STOPPING_SECONDS = 1000.0  # in which it has ended: a function may run for 900, a job has 120 to end


def known_execution(state: State, execution_arn: str) -> Document:
    """The execution as it is recorded.

    Raises:
        RequestError: there is none.
    """
    document = state.execution(execution_arn)
    if document is None:
        raise invalid(f"Could not find pipeline execution {execution_arn!r}.")
    return document


def settled(state: State, execution_arn: str) -> Document:
    """The execution; one whose runner is gone is settled first, with its steps, their jobs and their processes.

    A full disk keeps nobody from looking: the end that cannot be recorded is answered.

    Raises:
        RequestError: there is no such execution.
    """
    document = known_execution(state, execution_arn)
    if document["PipelineExecutionStatus"] not in ACTIVE:
        return document
    lock = lock_path(state, execution_arn)
    if document["PipelineExecutionStatus"] == "Stopping":
        press(document, lock)
    try:
        with taken_lock(lock):
            settle(state, execution_arn)
    except BlockingIOError:
        pass
    except DiskFull as problem:
        return {**document, "PipelineExecutionStatus": "Failed", "FailureReason": f"{LOST} {problem}"}
    return known_execution(state, execution_arn)


def press(document: Document, lock: Path) -> None:
    """Continue a runner that was told to stop and is suspended; kill it when its time is up."""
    pid, asked = runner_pid(lock), document.get("StopTime") or now()
    limit = STOPPING_SECONDS if document.get("StopHeard", 0) >= asked else HEARING_SECONDS
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if now() - asked > limit else signal.SIGCONT)


def settle(state: State, execution_arn: str) -> None:
    """Record the end of an execution that nobody runs: Stopped if it was to be stopped, else Failed."""
    status = known_execution(state, execution_arn)["PipelineExecutionStatus"]
    if status not in ACTIVE:
        return
    steps = state.steps(execution_arn)
    jobs = [step["Job"] for step in steps if "Job" in step]
    end_leftovers(jobs)
    outcome = "Stopped" if status == "Stopping" else "Failed"
    reason = {} if outcome == "Stopped" else {"FailureReason": LOST}
    with state.transaction():
        settle_jobs(state, jobs, outcome, reason)
        for step in steps:
            if step["StepStatus"] in UNFINISHED:
                state.put_step(execution_arn, {**step, "StepStatus": outcome, "EndTime": now(), **reason})
        state.update_execution(execution_arn, PipelineExecutionStatus=outcome, **reason)


def settle_jobs(state: State, jobs: Iterable[str], outcome: str, reason: Document) -> None:
    """Record the end of the steps' jobs and of their searches' trials."""
    own = tuple(jobs)
    for kind in filter(None, (step_type.job_kind for step_type in STEP_TYPES.values())):
        name, status, end_time = f"{kind}Name", f"{kind}Status", f"{kind.removesuffix('Job')}EndTime"
        for document in state.all(kind):
            if document.get(status) == "InProgress" and belongs(document[name], own):
                state.put(kind, document[name], {**document, status: outcome, end_time: now(), **reason})
                if kind == "TransformJob":
                    servers.end_strays(state, document[name])


def belongs(name: str, jobs: Iterable[str]) -> bool:
    """Whether a job is one of these, a trial of one or an instance of one (`<job>-001-1a2b3c4d`, `<job>/algo-2`)."""
    return any(name == job or name.startswith((f"{job}-", f"{job}/")) for job in jobs)


def end_leftovers(jobs: Iterable[str]) -> None:
    """End job processes that outlived their runner (on Linux, where their environment can be read)."""
    own, marker = tuple(jobs), f"{JOB_VARIABLE}="
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_text(errors="replace").split("\0")
        except OSError:
            continue
        if any(entry.startswith(marker) and belongs(entry.removeprefix(marker), own) for entry in environment):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(folder.name), signal.SIGKILL)
