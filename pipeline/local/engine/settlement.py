"""What becomes of an execution whose runner is gone: its records are settled by whoever looks at it next."""

import contextlib
import os
import signal
from pathlib import Path

from pipeline.local.engine.runner_process import execution_id_of, lock_path, taken_lock
from pipeline.local.jobs import servers
from pipeline.local.jobs.runtime import now
from pipeline.local.sandbox.environment import JOB_VARIABLE
from pipeline.local.store.answers import invalid
from pipeline.local.store.state import Document, State

ACTIVE = ("Executing", "Stopping")
UNFINISHED = ("Starting", "Executing", "Stopping")  # of a step
LOST = "The runner process ended before the execution did; `retry` goes on from here."
JOB_KINDS = {  # the members that say a job's name, how it is and when it ended
    "ProcessingJob": ("ProcessingJobName", "ProcessingJobStatus", "ProcessingEndTime"),
    "TrainingJob": ("TrainingJobName", "TrainingJobStatus", "TrainingEndTime"),
    "TransformJob": ("TransformJobName", "TransformJobStatus", "TransformEndTime"),
    "HyperParameterTuningJob": (
        "HyperParameterTuningJobName",
        "HyperParameterTuningJobStatus",
        "HyperParameterTuningEndTime",
    ),
}


def settled(state: State, execution_arn: str) -> Document:
    """The execution; one whose runner is gone is settled first, with its steps, their jobs and their processes.

    Raises:
        RequestError: there is no such execution.
    """
    document = known_execution(state, execution_arn)
    if document["PipelineExecutionStatus"] not in ACTIVE:
        return document
    with contextlib.suppress(BlockingIOError), taken_lock(lock_path(state, execution_arn)):
        settle(state, execution_arn)
    return known_execution(state, execution_arn)


def known_execution(state: State, execution_arn: str) -> Document:
    """The execution as it is recorded.

    Raises:
        RequestError: there is none.
    """
    document = state.execution(execution_arn)
    if document is None:
        raise invalid(f"Could not find pipeline execution {execution_arn!r}.")
    return document


def settle(state: State, execution_arn: str) -> None:
    """Record the end of an execution that nobody runs: Stopped if it was to be stopped, else Failed."""
    status = known_execution(state, execution_arn)["PipelineExecutionStatus"]
    if status not in ACTIVE:
        return
    end_leftovers(state, execution_arn)
    outcome = "Stopped" if status == "Stopping" else "Failed"
    reason = {} if outcome == "Stopped" else {"FailureReason": LOST}
    settle_jobs(state, execution_arn, outcome, reason)
    for step in state.steps(execution_arn):
        if step["StepStatus"] in UNFINISHED:
            state.put_step(execution_arn, {**step, "StepStatus": outcome, "EndTime": now(), **reason})
    state.update_execution(execution_arn, PipelineExecutionStatus=outcome, **reason)


def settle_jobs(state: State, execution_arn: str, outcome: str, reason: Document) -> None:
    """Record the end of the execution's jobs."""
    for kind, (name, status, end_time) in JOB_KINDS.items():
        for document in state.all(kind):
            if document[status] == "InProgress" and document[name].startswith(job_prefixes(execution_arn)):
                state.put(kind, document[name], {**document, status: outcome, end_time: now(), **reason})
                if kind == "TransformJob":
                    servers.end_strays(state, document[name])


def job_prefixes(execution_arn: str) -> tuple[str, str]:
    """How the names of the execution's jobs begin, and those of its searches and their trials."""
    execution_id = execution_id_of(execution_arn)
    return f"pipelines-{execution_id}-", f"{execution_id}-"


def end_leftovers(state: State, execution_arn: str) -> None:
    """End job processes that outlived their runner (on Linux, where their environment can be read)."""
    markers = tuple(f"{JOB_VARIABLE}={prefix}".encode() for prefix in job_prefixes(execution_arn))
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(variable.startswith(markers) for variable in environment):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(folder.name), signal.SIGKILL)
