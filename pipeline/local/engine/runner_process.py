"""The process that runs an execution: its lock, its start, and what is recorded when it is gone or hangs.

The lock on `executions/<id>.lock` is taken before the execution is recorded and handed down to the runner, which holds
it as long as it lives, however it ends. So there is no moment at which a starting runner could be taken for a dead one,
and no two runners of one execution. The runner's process id is in the file. An execution whose lock is free though it
has not ended is settled by whoever looks at it next.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from pipeline.definition.steps import STEP_TYPES
from pipeline.local import PACKAGE_PARENT
from pipeline.local.jobs.runtime import now
from pipeline.local.jobs.tuning import counted
from pipeline.local.sandbox.environment import JOB_VARIABLE
from pipeline.local.store.answers import invalid
from pipeline.local.store.state import DiskFull, Document, State

ACTIVE = ("Executing", "Stopping")
LOST = "The runner process ended before the execution did; `retry` goes on from here."
RULE_STATUSES = ("DebugRuleEvaluationStatuses", "ProfilerRuleEvaluationStatuses")
PID_WAIT_SECONDS = 5.0
HEARING_SECONDS = 10.0  # a runner that was told to stop and has not reported for so long is killed


def known_execution(state: State, execution_arn: str) -> Document:
    """Return the execution as it is recorded; RequestError if there is none."""
    document = state.execution(execution_arn)
    if document is None:
        raise invalid(f"Could not find pipeline execution {execution_arn!r}.")
    return document


def lock_path(state: State, execution_arn: str) -> Path:
    """Return the lock file of an execution."""
    return state.home / "executions" / f"{execution_arn.rpartition('/')[2]}.lock"


@contextmanager
def taken_lock(path: Path, wait_seconds: float = 0.0) -> Iterator[int]:
    """Take the lock, until the end of the block unless a runner is handed it; BlockingIOError if another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not locked(lock, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise BlockingIOError(f"{path} is held by another process")
            time.sleep(0.01)
        os.ftruncate(lock, 0)
        yield lock
    finally:
        os.close(lock)


def locked(lock: int, kind: int) -> bool:
    """Take a lock if that is possible at once; whether it was."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sign(lock: int, pid: int) -> None:
    """Write down whose lock it is, and hand it to no other; the runner and who started it both do: either may die."""
    os.set_inheritable(lock, False)
    os.pwrite(lock, str(pid).encode(), 0)


def runner_pid(path: Path) -> int | None:
    """Return the process that holds the lock, or None; the number is written just after the lock is taken."""
    deadline = time.monotonic() + PID_WAIT_SECONDS
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not locked(lock, fcntl.LOCK_SH) and time.monotonic() < deadline:
            if number := os.pread(lock, 20, 0):
                return int(number)
            time.sleep(0.01)
        return None
    finally:
        os.close(lock)


def send(path: Path, *numbers: signal.Signals) -> None:
    """Signal the process that holds a lock, if one does."""
    if pid := runner_pid(path):
        with contextlib.suppress(ProcessLookupError):
            for number in numbers:
                os.kill(pid, number)


def spawn_runner(state: State, kind: str, name: str, lock: int, log: Path) -> None:
    """Start the process that runs an execution or a transform job, whatever modules the working directory has.

    It is in a session of its own and is handed the lock, which then holds its process id. With the option `tied` it
    dies with the command that started it.
    """
    tied = [str(os.getpid())] if state.start_options.get("tied") else []
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipeline.local.runner", kind, str(state.home), name, str(lock), *tied],
            env={**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock],
        )
    sign(lock, process.pid)


def settled(state: State, execution_arn: str) -> Document:
    """Return the execution; one whose runner is gone is settled first, with its steps, their jobs and their processes.

    A full disk keeps nobody from looking: the end that cannot be recorded is answered.
    """
    document = known_execution(state, execution_arn)
    if document["PipelineExecutionStatus"] not in ACTIVE:
        return document
    lock = lock_path(state, execution_arn)
    if document["PipelineExecutionStatus"] == "Stopping":
        last_heard = max(document.get(member) or 0 for member in ("StopTime", "StopHeard"))
        send(lock, signal.SIGKILL if now() - last_heard > HEARING_SECONDS else signal.SIGCONT)
    try:
        with taken_lock(lock):
            settle(state, execution_arn)
    except BlockingIOError:
        pass
    except DiskFull as problem:
        return {**document, "PipelineExecutionStatus": "Failed", "FailureReason": f"{LOST} {problem}"}
    return known_execution(state, execution_arn)


def settle_active(state: State) -> None:
    """Settle every execution whose runner is gone."""
    for document in state.with_status("PipelineExecution", *ACTIVE):
        settled(state, document["PipelineExecutionArn"])


def settle(state: State, execution_arn: str) -> None:
    """Record the end of what nobody runs, execution, steps and jobs: Stopped if it was to be stopped, else Failed."""
    status = known_execution(state, execution_arn)["PipelineExecutionStatus"]
    if status not in ACTIVE:
        return
    steps = state.steps(execution_arn)
    jobs = [step["Job"] for step in steps if "Job" in step]
    end_leftovers(state.home, lambda name: belongs(name, jobs))
    outcome, reason = ("Stopped", {}) if status == "Stopping" else ("Failed", {"FailureReason": LOST})
    with state.transaction():
        for kind in filter(None, (step_type.job_kind for step_type in STEP_TYPES.values())):
            for job in state.with_status(kind, "InProgress"):
                if belongs(job[f"{kind}Name"], jobs):
                    state.put(kind, job[f"{kind}Name"], ended_job(kind, job, outcome, reason))
        for step in steps:
            if step["StepStatus"] == "Executing":
                state.put_step(execution_arn, {**step, "StepStatus": outcome, "EndTime": now(), **reason})
        state.update_execution(execution_arn, PipelineExecutionStatus=outcome, **reason)


def belongs(name: str, jobs: Iterable[str]) -> bool:
    """Whether a job is one of these, a trial of one or an instance of one (`<job>-001-1a2b3c4d`, `<job>/algo-2`)."""
    return any(name == job or name.startswith((f"{job}-", f"{job}/")) for job in jobs)


def ended_job(kind: str, job: Document, outcome: str, reason: Document) -> Document:
    """Return the document of a job that nobody runs any more; its rules and trials have ended like it."""
    for rule in chain.from_iterable(job.get(member) or () for member in RULE_STATUSES):
        if rule["RuleEvaluationStatus"] == "InProgress":
            rule["RuleEvaluationStatus"] = "Stopped"
    ended = {**job, f"{kind}Status": outcome, f"{kind.removesuffix('Job')}EndTime": now(), **reason}
    if "SecondaryStatus" in job:
        ended["SecondaryStatus"] = outcome
    for trial in (trials := job.get("Trials", [])):
        if trial["TrainingJobStatus"] == "InProgress":
            is_measured = "FinalHyperParameterTuningJobObjectiveMetric" in trial
            trial.update(TrainingJobStatus=outcome, ObjectiveStatus="Succeeded" if is_measured else "Failed")
    return {**ended, **(counted(trials) if "TrainingJobStatusCounters" in job else {})}


def end_leftovers(home: Path, is_own: Callable[[str], bool]) -> None:
    """Kill job processes that outlived their runner (on Linux, where their environment can be read).

    Args:
        is_own: whether a folder of `jobs` (`<job>`, `<job>/algo-2`) is that of such a job.
    """
    marker = f"{JOB_VARIABLE}={home.resolve()}/jobs/"
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (folder / "environ").read_text(errors="replace").split("\0")
            if any(entry.startswith(marker) and is_own(entry.removeprefix(marker)) for entry in variables):
                os.kill(int(folder.name), signal.SIGKILL)
