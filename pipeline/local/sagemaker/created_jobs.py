"""Jobs outside pipelines: training, processing, tuning and transform jobs are created, stopped and looked at.

A job is run by a process of its own (`pipeline.local.runner`), which does what a step of its type does and holds the
lock `locks/<kind>-<job>` as long as it lives. So whoever looks at a job knows whether somebody still works on it, and
records its end if nobody does. Jobs of executions have no such lock. `ActiveJob` keeps the requests of those that run.
"""

import asyncio
import contextlib
import signal
import time
from functools import partial
from pathlib import Path

from pipeline.definition.steps import STEP_TYPES
from pipeline.errors import PipelineError
from pipeline.local.checks.definition import job_problems
from pipeline.local.engine.runner_process import end_leftovers, ended_job, send, spawn_runner, taken_lock
from pipeline.local.jobs import servers
from pipeline.local.jobs.executors import EXECUTORS
from pipeline.local.jobs.runtime import Runtime, StepCall, arn, job_folder, not_run, now
from pipeline.local.jobs.tuning import counted
from pipeline.local.sandbox.namespaces import find_mount
from pipeline.local.store.answers import Api, RequestError, found, invalid
from pipeline.local.store.state import DiskFull, Document, State, is_full
from pipeline.local.store.storage import Storage

STEPS = {step_type.job_kind: step_type for step_type in STEP_TYPES.values() if step_type.job_kind}
NOUNS = {kind: step_type.arn_kind.replace("-", " ").replace("hyper p", "hyperp") for kind, step_type in STEPS.items()}
TRAINING, PROCESSING, TUNING, TRANSFORM = "TrainingJob", "ProcessingJob", "HyperParameterTuningJob", "TransformJob"
AT_FIRST = {TRAINING: {"SecondaryStatus": "Starting"}, TUNING: counted([])}
LOST = "InternalServerError: the job's process ended before the job did."
OUTCOMES = {"InProgress": "Failed", "Stopping": "Stopped"}  # the end of a job that nobody works on any more
LOCK_WAIT_SECONDS, POLL_SECONDS = 10, 0.05


def create_job(kind: str, state: State, request: Document) -> Document:
    """CreateTrainingJob and its like: any image means the Python environment here; what a step may not, no job may."""
    name = request[f"{kind}Name"]
    if faults := list(job_problems(STEPS[kind].name, request, state)):
        raise invalid(" ".join(f"{kind} {name!r} {fault}" for fault in faults))
    answer = {f"{kind}Arn": arn(STEPS[kind].arn_kind, name)}
    arguments = {member: value for member, value in request.items() if member != "Tags"}
    times = {"CreationTime": now(), "LastModifiedTime": now()}
    job = {**arguments, **answer, f"{kind}Status": "InProgress", **AT_FIRST.get(kind, {}), **times}
    refuse_taken(state, kind, name)
    try:
        with taken_lock(lock_path(state, kind, name), wait_seconds=LOCK_WAIT_SECONDS) as lock:
            with state.transaction():
                refuse_taken(state, kind, name)
                state.put(kind, name, job)
                state.put("ActiveJob", f"{kind} {name}", {"Kind": kind, "Name": name, "Request": arguments})
            folder = state.home / "jobs" / f"{name}.{kind}"
            folder.mkdir(parents=True, exist_ok=True)
            spawn_runner(state, kind, name, lock, folder / "process.log")
    except OSError as problem:  # a job that is recorded fails, as whoever looks at it says
        said = invalid(f"{kind} {name!r} cannot be started: {problem}.")
        raise DiskFull(state.home) if is_full(problem) else said from problem
    return answer


def refuse_taken(state: State, kind: str, name: str) -> None:
    """Raise ResourceInUse if there is a job of that name, whoever has started it."""
    if known := state.get(kind, name):
        said = f"Job name must be unique within an AWS account and region, and a {NOUNS[kind]} with this name already"
        raise RequestError("ResourceInUse", f"{said} exists ({known[f'{kind}Arn']})")


def stop_job(kind: str, state: State, request: Document) -> Document:
    """StopTrainingJob and its like: a job of an execution or a trial is not stopped alone here."""
    name, noun = request[f"{kind}Name"], NOUNS[kind]
    job = settled(kind, state, found(state, kind, name, noun))
    if (status := job[f"{kind}Status"]) != "InProgress":
        raise invalid(f"The {noun} {name!r} is {status}, so it cannot be stopped.")
    path = lock_path(state, kind, name)
    if not path.exists():
        search = job.get("TuningJobArn", "").rpartition("/")[2]
        if lock_path(state, TUNING, search).exists():
            raise invalid(f"The {noun} {name!r} is a trial of the tuning job {search!r}: stop that.")
        raise invalid(f"The {noun} {name!r} is a pipeline's: stop the execution.")

    def stop(job: Document) -> None:
        if job[f"{kind}Status"] == "InProgress":
            stopping = {"SecondaryStatus": "Stopping"} if kind == TRAINING else {}
            job.update({f"{kind}Status": "Stopping", "LastModifiedTime": now()}, **stopping)

    try:
        state.change(kind, name, stop)
    finally:
        send(path, signal.SIGTERM, signal.SIGCONT)  # one that was halted hears of it
    return {}


create_training_job, create_processing_job, create_hyper_parameter_tuning_job, create_transform_job = (
    partial(create_job, kind) for kind in (TRAINING, PROCESSING, TUNING, TRANSFORM)
)
stop_training_job, stop_processing_job, stop_hyper_parameter_tuning_job, stop_transform_job = (
    partial(stop_job, kind) for kind in (TRAINING, PROCESSING, TUNING, TRANSFORM)
)


def settled(kind: str, state: State, job: Document) -> Document:
    """Return a job as it is; one of CreateTrainingJob and its like, or its trial, that nobody works on has ended.

    A full disk keeps nobody from looking: the end that cannot be recorded is answered.
    """
    if job.get(f"{kind}Status") not in OUTCOMES:
        return job
    name = job[f"{kind}Name"]
    search = job.get("TuningJobArn", "").rpartition("/")[2]
    owner = (TUNING, search) if search else (kind, name)
    path = lock_path(state, *owner)
    if not path.exists():
        return job
    try:
        with taken_lock(path):
            settle(*owner, state)
    except OSError:  # somebody works on it
        return job
    except DiskFull as problem:
        return {**job, f"{kind}Status": OUTCOMES[job[f"{kind}Status"]], "FailureReason": f"{LOST} {problem}"}
    return state.get(kind, name) or job


def settle(kind: str, name: str, state: State, reason: str = LOST) -> None:
    """Record the end of a job that has none yet and is not worked on, and of its trials; end what they left running."""
    tuning_arn = arn(STEPS[kind].arn_kind, name)
    trials = state.with_status(TRAINING, "InProgress") if kind == TUNING else []
    jobs = [(TRAINING, trial) for trial in trials if trial.get("TuningJobArn") == tuning_arn]
    jobs += [(kind, found(state, kind, name, NOUNS[kind]))]
    folders = {job_folder(state.home, each, job[f"{each}Name"]) for each, job in jobs}
    end_leftovers(state.home, lambda folder: state.home / "jobs" / folder.partition("/")[0] in folders)
    for folder in folders if kind == TRANSFORM else ():
        servers.end_all(folder / "server")
    with state.transaction():
        outcome = OUTCOMES.get(jobs[-1][1][f"{kind}Status"], "Failed")
        for each, job in jobs:
            if job[f"{each}Status"] in OUTCOMES:
                said = {"FailureReason": reason} if outcome == "Failed" else {}
                state.put(each, job[f"{each}Name"], ended_job(each, job, outcome, said))
        state.delete("ActiveJob", f"{kind} {name}")


def settle_all(state: State) -> None:
    """Record the ends of all jobs outside pipelines that nobody works on."""
    for active in state.all("ActiveJob"):
        kind, name = active["Kind"], active["Name"]
        with contextlib.suppress(OSError, DiskFull), taken_lock(lock_path(state, kind, name)):
            settle(kind, name, state)


def end_all(state: State) -> None:
    """Stop all jobs outside pipelines, and wait for their ends."""
    for active in state.all("ActiveJob"):
        with contextlib.suppress(RequestError):  # it has ended meanwhile, or is being stopped already
            stop_job(active["Kind"], state, {f"{active['Kind']}Name": active["Name"]})
    while state.all("ActiveJob"):
        time.sleep(POLL_SECONDS)
        settle_all(state)


def lock_path(state: State, kind: str, name: str) -> Path:
    """Return the lock of a job's process."""
    return state.home / "locks" / f"{kind.removesuffix('Job').lower()}-{name}"


async def run_job(kind: str, state: State, name: str, api: Api) -> None:
    """Do the job; SIGTERM stops it."""
    request = found(state, "ActiveJob", f"{kind} {name}", "job")["Request"]
    call = StepCall(name=name, definition={}, arguments=request, execution_id="", job_name=name)
    runtime = Runtime(state, Storage(state), find_mount(state.home), api)
    work = asyncio.ensure_future(EXECUTORS[STEPS[kind].name](call, runtime))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    if found(state, kind, name, NOUNS[kind])[f"{kind}Status"] == "Stopping":  # before this process listened
        work.cancel()
    reason = LOST
    try:
        await work
    except asyncio.CancelledError:
        pass
    except (PipelineError, OSError) as problem:  # recorded by the job, unless it could not even begin
        reason = str(not_run(problem, {}))
    settle(kind, name, state, reason)
