"""Runs one execution, in the process that `pipeline.local.runner` starts.

    while steps are left: start every step that is ready, wait until any ends, record how it ended

A step is `Executing` from its start to its end: Succeeded, Failed or Stopped. Every change is in the state before the
next thing happens, so that a kill at any moment leaves a readable execution. A failed step ends the execution as on
SageMaker, unless another step waits for that failure: what runs is finished, nothing new is started. SIGTERM stops:
running jobs are ended, the rest is not started.

One thread, one event loop; jobs are child processes.
"""

import asyncio
import contextlib
import json
import secrets
import signal
import string
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.definition.steps import STEP_TYPES, Step, read_graph
from pipeline.errors import PipelineError
from pipeline.local.checks.requests import as_request
from pipeline.local.engine import cache
from pipeline.local.engine.runner_process import HEARING_SECONDS, known_execution
from pipeline.local.engine.values import Scope, holds, resolve
from pipeline.local.jobs.executors import EXECUTORS
from pipeline.local.jobs.runtime import Runtime, StepCall, StepFailure, StepResult, arn, not_run, now
from pipeline.local.sandbox.namespaces import find_mount
from pipeline.local.store.answers import Api
from pipeline.local.store.state import DiskFull, Document, State, is_full, was_full
from pipeline.local.store.storage import Storage

STEP_FAILURE = "Step failure: One or multiple steps failed."  # the service's own words
DEFAULT_PARALLEL_STEPS = 50
TRIGGERS = {"Succeeded": "Completed", "Failed": "Failed", "Stopped": "Stopped"}  # status of a step -> what it triggers
JOB_STOP_SECONDS, LAMBDA_STOP_SECONDS = 150.0, 930.0  # a job has 120 s to end, a function 900; and a little
NAME_LIMIT, TUNING_NAME_LIMIT = 63, 32  # characters, as SageMaker's service model has them
RANDOM_CHARACTERS, STEP_CHARACTERS = 10, 20


class Execution:
    """The running execution."""

    def __init__(self, state: State, execution_arn: str, api: Api) -> None:
        self.state = state
        self.arn = execution_arn
        self.id = execution_arn.rpartition("/")[2]
        self.document = known_execution(state, execution_arn)
        self.definition = state.definition(self.document)
        self.graph = read_graph(self.definition)
        selection = self.document.get("SelectiveExecutionConfig", {}).get("SelectedSteps", [])
        names = [step["StepName"] for step in selection] or list(self.graph.steps)
        self.steps = {name: step for name, step in self.graph.steps.items() if name in names}
        limits = self.document.get("ParallelismConfiguration", {})
        self.parallel = int(limits.get("MaxParallelExecutionSteps", DEFAULT_PARALLEL_STEPS))
        self.cache_mode: str = self.document["Options"].get("cache", cache.BYTES)
        self.runtime = Runtime(state, Storage(state), find_mount(state.home), api)
        # Of the steps that were started, by this runner or an earlier one, or whose values another execution lends:
        self.records: dict[str, Document] = {record["StepName"]: record for record in state.steps(execution_arn)}
        self.running: dict[asyncio.Task[Document], Step] = {}
        self.failed = False  # a step has failed, and no step waits for that
        self.stopping = False

    async def run(self) -> None:
        """Run until nothing runs and nothing can be started; then record how the execution ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stop)
        self.start_ready()
        while self.running:
            done, _ = await asyncio.wait(self.running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self.settle(self.running.pop(task), task)
            self.start_ready()
        self.finish()

    # which steps start

    def start_ready(self) -> None:
        """Start the steps that are ready, while there is room."""
        for step in self.steps.values():
            if self.failed or self.stopping or len(self.running) >= self.parallel:
                return
            if step.name not in self.records and self.is_ready(step):
                self.record(step, "Executing", StartTime=now())
                self.running[asyncio.create_task(self.run_step(step), name=step.name)] = step

    def is_ready(self, step: Step) -> bool:
        """Whether the step's branch was taken, and every selected step that it waits for has ended as it must."""
        if step.condition in self.steps:
            metadata = self.records.get(step.condition, {}).get("Metadata", {})
            if metadata.get("Condition", {}).get("Outcome") != str(step.outcome):
                return False
        explicit = {name for name, _ in step.triggers}
        needed = [(name, "Completed") for name in step.dependencies if name not in explicit]
        return all(self.has_ended(name, trigger) for name, trigger in (*needed, *step.triggers) if name in self.steps)

    def has_ended(self, name: str, trigger: str) -> bool:
        """Whether a step has ended in the way that a trigger of DependsOn asks for."""
        ended = TRIGGERS.get(self.records.get(name, {}).get("StepStatus", ""))
        return ended is not None and trigger in (ended, "Any")

    # one step, from its start to the values of its record

    async def run_step(self, step: Step) -> Document:
        """Evaluate a Condition, raise for a Fail, run any other step or take its result from the cache.

        It returns what the step's record gets: Metadata, Properties and the like; a PipelineError fails the step.
        """
        if step.type == "Condition":
            outcome = {"Outcome": str(holds(step.definition["Arguments"]["Conditions"], self.scope()))}
            return {"Metadata": {"Condition": outcome}, "Properties": outcome}
        if step.type == "Fail":
            message = str(resolve(step.definition["Arguments"].get("ErrorMessage", ""), self.scope()))
            raise StepFailure(message, metadata={"Fail": {"ErrorMessage": message}})
        call = self.call(step)
        name = self.document["PipelineName"]
        keys, reused = await asyncio.to_thread(cache.look_up, call, name, runtime=self.runtime, mode=self.cache_mode)
        if reused:
            return reused
        result = await self.run_attempts(step, call)
        await asyncio.to_thread(cache.remember, keys, result, self.arn, self.runtime)
        return {"Metadata": result.metadata, "Properties": result.properties}

    async def run_attempts(self, step: Step, call: StepCall) -> StepResult:
        """Run the step, and again as its RetryPolicies say; trouble of this machine counts as the service's."""
        started, attempt, known = time.monotonic(), 1, STEP_TYPES[step.type]
        while True:
            metadata = {known.metadata: {"Arn": arn(known.arn_kind, call.job_name)}} if known.job_kind else {}
            self.record(step, "Executing", AttemptCount=attempt, Job=call.job_name, Metadata=metadata)
            try:
                return await EXECUTORS[step.type](call, self.runtime)
            except StepFailure as problem:
                failure = problem
            except OSError as problem:
                failure = not_run(problem, {})
                failure.__cause__ = problem
            wait = retry_wait(step.definition.get("RetryPolicies") or [], failure.code, attempt - 1, started)
            if wait is None:
                raise failure
            with contextlib.suppress(OSError):
                print(f"{step.name}: {failure} Trying again in {wait:g} seconds.", flush=True)
            await asyncio.sleep(wait)
            attempt, call = attempt + 1, self.call(step)

    def call(self, step: Step) -> StepCall:
        """The step with its expressions resolved, under a new job name.

        A name in the Arguments is the prefix of the job's (PipelineDefinitionConfig(use_custom_job_prefix=True) of the
        SDK leaves it there); Endpoints and their configurations are named by their users.
        """
        arguments, step_type = dict(step.definition.get("Arguments") or {}), STEP_TYPES[step.type]
        prefix = resolve(arguments.pop(step_type.name_member or "", None), self.scope())
        job_name = new_job_name(self.id, step, prefix)
        arguments = resolve(arguments, self.scope(job_name))
        if step_type.creates:  # a Lambda's event keeps its types
            arguments = as_request(step_type.creates, arguments)
        return StepCall(step.name, step.definition, arguments, self.id, job_name)

    def scope(self, job_name: str | None = None) -> Scope:
        """Where expressions find their values, here and now."""
        known = self.document
        execution = {
            "StartDateTime": iso(known["CreationTime"]),
            "CurrentDateTime": iso(now()),
            "PipelineName": known["PipelineName"],
            "PipelineArn": known["PipelineArn"],
            "PipelineExecutionId": self.id,
            "PipelineExecutionArn": self.arn,
            **(dict.fromkeys(("TrainingJobName", "ProcessingJobName"), job_name) if job_name else {}),
        }
        ended = {name: record for name, record in self.records.items() if record["StepStatus"] == "Succeeded"}
        return Scope(
            parameters=known["Parameters"],
            steps={name: record["Properties"] for name, record in ended.items()},
            execution=execution,
            read_property_file=self.read_property_file,
            read_json=self.read_json,
            experiment=self.definition.get("PipelineExperimentConfig") or {},
        )

    def read_property_file(self, step_name: str, property_file: str) -> Any:
        """A property file of a step, from where the step's output was uploaded."""
        declared = self.graph.steps[step_name].definition.get("PropertyFiles", [])
        file = next(item for item in declared if item["PropertyFileName"] == property_file)
        if "Properties" not in (record := self.records[step_name]):  # of a step that waits for its failure
            raise StepFailure(f"Property file {property_file!r} cannot be read, because step {step_name!r} failed.")
        outputs = record["Properties"]["ProcessingOutputConfig"]["Outputs"]
        uri = next(o["S3Output"]["S3Uri"] for o in outputs if o["OutputName"] == file["OutputName"])
        return self.read_json(f"{uri.rstrip('/')}/{file['FilePath']}")

    def read_json(self, uri: str) -> Any:
        """Return a JSON object of the storage; StepFailure if it is not JSON."""
        try:
            return json.loads(self.runtime.storage.read(uri))
        except (ValueError, RecursionError) as problem:
            raise StepFailure(f"{uri} is not JSON that can be read: {problem}") from problem

    # how a step and the execution end

    def settle(self, step: Step, task: asyncio.Task[Document]) -> None:
        """Record how a step's task has ended."""
        if task.cancelled():
            self.record(step, "Stopped", EndTime=now())
        elif problem := task.exception():
            self.failed = self.failed or not self.handlers(step)
            known = {"Metadata": problem.metadata} if isinstance(problem, StepFailure) and problem.metadata else {}
            self.record(step, "Failed", EndTime=now(), FailureReason=self.reason(problem), **known)
        else:
            self.record(step, "Succeeded", EndTime=now(), **task.result())

    def handlers(self, step: Step) -> list[Step]:
        """Return the steps that wait for the failure of this one."""
        failure = {(step.name, "Failed"), (step.name, "Any")}
        return [other for other in self.steps.values() if failure.intersection(other.triggers)]

    def reason(self, problem: BaseException) -> str:
        """Return a failed step's FailureReason; what is a mistake of ours is printed to the log too."""
        if is_full(problem):
            return f"InternalServerError: {DiskFull(self.state.home)}"
        if isinstance(problem, StepFailure):
            return f"{problem} {DiskFull(self.state.home)}" if was_full(self.state.home) else str(problem)
        if isinstance(problem, PipelineError):
            return f"ClientError: {problem}"
        with contextlib.suppress(OSError):
            traceback.print_exception(problem)
        return f"InternalServerError of the local runner: {type(problem).__name__}: {problem}"

    def record(self, step: Step, status: str, **values: object) -> None:
        """Write a step's status and values to its record."""
        document = {
            "StepName": step.name,
            "StepType": step.type,
            "AttemptCount": 1,
            "Metadata": {},
            **{
                f"Step{name}": step.definition[name]
                for name in ("DisplayName", "Description")
                if name in step.definition
            },
            **self.records.get(step.name, {}),
            "StepStatus": status,
            **values,
        }
        self.records[step.name] = document
        self.state.put_step(self.arn, document)

    def stop(self) -> None:
        """End what runs; a running Lambda is waited for, as on the service."""
        functions = [step for step in self.running.values() if step.type == "Lambda"]
        if not self.stopping:
            self.report_hearing(time.monotonic() + (LAMBDA_STOP_SECONDS if functions else JOB_STOP_SECONDS))
        self.stopping = True
        for task, step in self.running.items():
            if step not in functions:
                task.cancel()

    def report_hearing(self, deadline: float) -> None:
        """Say again and again that this runner is stopping: who waits for it kills it once it says so no more."""
        if time.monotonic() < deadline:
            with contextlib.suppress(PipelineError):
                self.state.update_execution(self.arn, StopHeard=now())
            asyncio.get_running_loop().call_later(HEARING_SECONDS / 5, self.report_hearing, deadline)

    def finish(self) -> None:
        """Record how the execution ended.

        A pipeline whose steps run on a failed step ends CompletedWithFailures (SDK, StepDependency).
        """
        failures = [self.steps[name] for name, record in self.records.items() if record["StepStatus"] == "Failed"]
        handled = all(any(other.name in self.records for other in self.handlers(step)) for step in failures)
        status = "CompletedWithFailures" if failures else "Succeeded"
        if self.stopping:
            status = "Stopped"
        elif self.failed or not handled:
            status = "Failed"
        reason = STEP_FAILURE if status == "Failed" else None
        self.state.update_execution(self.arn, PipelineExecutionStatus=status, FailureReason=reason)


def retry_wait(policies: Sequence[Document], code: str | None, used: int, started: float) -> float | None:
    """Return the seconds until the next attempt, IntervalSeconds * BackoffRate^used, or None if no policy gives one.

    As "Retry policy for pipeline steps" in the guide has it: the first policy that names the failure's `code` counts.
    `used` are the retries so far, `started` is `time.monotonic()` at the first attempt. ExceptionType is a list, or one
    name as the published schema has it.
    """
    types = [[each] if isinstance(each := policy["ExceptionType"], str) else each for policy in policies]
    named = [policy for policy, codes in zip(policies, types, strict=True) if code in codes]
    if not named:
        return None
    policy = {name: value for name, value in named[0].items() if value is not None}
    wait = float(policy.get("IntervalSeconds", 1)) * float(policy.get("BackoffRate", 2.0)) ** used
    if "ExpireAfterMin" in policy:
        return wait if time.monotonic() - started + wait < 60 * policy["ExpireAfterMin"] else None
    return wait if used < policy.get("MaxAttempts", 5) else None


def new_job_name(execution_id: str, step: Step, prefix: str | None) -> str:
    """A job's name: pipelines-<execution>-<step>-<random>, or <prefix>-<execution>-<random>, as long as it may be.

    A search's is <execution>-<step>-<random> or <prefix>-<random>, for it has half the room.
    """
    random = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(RANDOM_CHARACTERS))
    is_search = step.type == "Tuning"
    if prefix:
        beginning, end = str(prefix), random if is_search else f"{execution_id}-{random}"
    else:
        name = step.name.replace("_", "-")[:STEP_CHARACTERS]
        beginning, end = f"{'' if is_search else 'pipelines-'}{execution_id}-{name}", random
    limit = TUNING_NAME_LIMIT if is_search else NAME_LIMIT
    return f"{beginning[: limit - len(end) - 1].strip('-')}-{end}"


def iso(seconds: float) -> str:
    """ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
