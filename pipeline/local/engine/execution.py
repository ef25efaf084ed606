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
import signal
import time
import traceback
from collections.abc import Sequence

from pipeline.definition.expressions import holds
from pipeline.definition.steps import Step, read_graph
from pipeline.errors import PipelineError
from pipeline.local.engine import cache
from pipeline.local.engine.calls import StepCalls, job_metadata
from pipeline.local.engine.runner_process import HEARING_SECONDS, known_execution
from pipeline.local.jobs.executors import EXECUTORS
from pipeline.local.jobs.runtime import Runtime, StepCall, StepFailure, StepResult, not_run, now
from pipeline.local.sandbox.namespaces import find_mount
from pipeline.local.store.answers import Api
from pipeline.local.store.state import DiskFull, Document, State, is_full, was_full
from pipeline.local.store.storage import Storage

STEP_FAILURE = "Step failure: One or multiple steps failed."  # the service's own words
DEFAULT_PARALLEL_STEPS = 50
TRIGGERS = {"Succeeded": "Completed", "Failed": "Failed", "Stopped": "Stopped"}  # status of a step -> what it triggers
JOB_STOP_SECONDS, LAMBDA_STOP_SECONDS = 150.0, 930.0  # a job has 120 s to end, a function 900; and a little


class Execution:
    """The running execution."""

    def __init__(self, state: State, execution_arn: str, api: Api) -> None:
        self.state = state
        self.arn = execution_arn
        self.document = known_execution(state, execution_arn)
        self.graph = read_graph(self.document["Definition"])
        selection = self.document.get("SelectiveExecutionConfig", {}).get("SelectedSteps", [])
        names = [step["StepName"] for step in selection] or list(self.graph.steps)
        self.steps = {name: step for name, step in self.graph.steps.items() if name in names}
        limits = self.document["ParallelismConfiguration"]
        self.parallel = int(limits.get("MaxParallelExecutionSteps", DEFAULT_PARALLEL_STEPS))
        self.cache_mode: str = self.document["Options"].get("cache", cache.BYTES)
        self.runtime = Runtime(state, Storage(state), find_mount(state.home), api)
        self.calls = StepCalls(self.document, self.graph, self.runtime.storage)
        # Of the steps that were started, by this runner or an earlier one, or whose values another execution lends:
        self.records: dict[str, Document] = {record["StepName"]: record for record in state.steps(execution_arn)}
        self.running: dict[asyncio.Task[Document], Step] = {}
        self.failed = False  # a step has failed, and no step waits for that
        self.stopping = False

    async def run(self) -> None:
        """Run until nothing runs and nothing can be started; then record how the execution ended."""
        for name, record in self.records.items():
            if record["StepStatus"] == "Succeeded":
                self.calls.properties[name] = record["Properties"]
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

        Returns:
            Metadata, Properties and the like for the step's record.

        Raises:
            PipelineError: the step failed.
        """
        if step.type == "Condition":
            outcome = {"Outcome": str(holds(step.definition["Arguments"]["Conditions"], self.calls.scope()))}
            return {"Metadata": {"Condition": outcome}, "Properties": outcome}
        if step.type == "Fail":
            message = str(self.calls.value(step.definition["Arguments"].get("ErrorMessage", "")))
            raise StepFailure(message, metadata={"Fail": {"ErrorMessage": message}})
        call = self.calls.call(step)
        name = self.document["PipelineName"]
        keys, reused = await asyncio.to_thread(cache.look_up, call, name, runtime=self.runtime, mode=self.cache_mode)
        if reused:
            return reused
        result = await self.run_attempts(step, call)
        await asyncio.to_thread(cache.remember, keys, result, self.arn, self.runtime)
        return {"Metadata": result.metadata, "Properties": result.properties}

    async def run_attempts(self, step: Step, call: StepCall) -> StepResult:
        """Run the step, and run it again as its RetryPolicies say.

        Raises:
            StepFailure: the last attempt's; trouble of this machine counts as the service's.
        """
        started, attempt = time.monotonic(), 1
        while True:
            metadata = job_metadata(step.type, call.job_name)
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
            attempt, call = attempt + 1, self.calls.call(step)

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
            values = task.result()
            self.calls.properties[step.name] = values["Properties"]
            self.record(step, "Succeeded", EndTime=now(), **values)

    def handlers(self, step: Step) -> list[Step]:
        """Return the steps that wait for the failure of this one."""
        failure = {(step.name, "Failed"), (step.name, "Any")}
        return [other for other in self.steps.values() if failure.intersection(other.triggers)]

    def reason(self, problem: BaseException) -> str:
        """Return a failed step's FailureReason; what is a mistake of ours is printed to the log too."""
        full = DiskFull(self.state.home)
        if is_full(problem):
            return f"InternalServerError: {full}"
        if isinstance(problem, StepFailure):
            return f"{problem} {full}" if was_full(self.state.home) else str(problem)
        if isinstance(problem, PipelineError):
            return f"ClientError: {problem}"
        with contextlib.suppress(OSError):
            traceback.print_exception(problem)
        return f"InternalServerError of the local runner: {type(problem).__name__}: {problem}"

    def record(self, step: Step, status: str, **values: object) -> None:
        """Write a step's status and values to its record."""
        named = {"StepDisplayName": "DisplayName", "StepDescription": "Description"}
        document = {
            "StepName": step.name,
            "StepType": step.type,
            **{name: step.definition[source] for name, source in named.items() if source in step.definition},
            "AttemptCount": 1,
            "Metadata": {},
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

    Args:
        policies: the step's RetryPolicies; ExceptionType is a list, or one name as the published schema has it.
        code: the failure's exception type.
        used: retries so far.
        started: `time.monotonic()` at the first attempt.
    """
    for policy in policies:
        types = policy.get("ExceptionType") or []
        if code in ([types] if isinstance(types, str) else types):
            break
    else:
        return None
    wait = float(policy.get("IntervalSeconds", 1)) * float(policy.get("BackoffRate", 2.0)) ** used
    if "ExpireAfterMin" in policy:
        return wait if time.monotonic() - started + wait < 60 * policy["ExpireAfterMin"] else None
    return wait if used < policy.get("MaxAttempts", 5) else None
