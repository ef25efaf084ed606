"""Runs one execution, in the process that `pipeline.local.runner` starts.

    definition -> graph -> while steps are left: start every step whose time has come, wait for any to end
                           (resolve expressions -> cache? -> executor, with retries -> record)

One thread, one event loop; jobs are child processes. Every change of a step is in the state before the next thing
happens, so that a kill at any moment leaves a readable execution. A failed step ends the execution as on SageMaker,
unless another step waits for that failure: what runs is finished, nothing new is started. SIGTERM stops: running jobs
are ended, the rest is not started.
"""

import asyncio
import contextlib
import signal
import time
import traceback

from pipeline.definition.conditions import holds
from pipeline.definition.steps import Step, read_graph
from pipeline.errors import PipelineError
from pipeline.local.engine import cache
from pipeline.local.engine.calls import StepCalls, job_metadata
from pipeline.local.engine.retries import retry_wait
from pipeline.local.engine.settlement import known_execution
from pipeline.local.jobs.executors import EXECUTORS
from pipeline.local.jobs.runtime import Runtime, StepCall, StepFailure, StepResult, now
from pipeline.local.sandbox.namespaces import find_mount
from pipeline.local.store.answers import Api
from pipeline.local.store.disk import DiskFull, is_full, was_full
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage

STEP_FAILURE = "Step failure: One or multiple steps failed."  # the service's own words
DEFAULT_PARALLEL_STEPS = 50
TRIGGERS = {"Succeeded": "Completed", "Failed": "Failed", "Stopped": "Stopped"}  # status of a step -> what it triggers
HANDLES_FAILURE = ("Failed", "Any")


class Execution:
    """The running execution."""

    def __init__(self, state: State, execution_arn: str, api: Api) -> None:
        self.state = state
        self.arn = execution_arn
        self.document = known_execution(state, execution_arn)
        self.graph = read_graph(self.document["Definition"])
        selected = [
            step["StepName"] for step in self.document.get("SelectiveExecutionConfig", {}).get("SelectedSteps", [])
        ]
        self.steps = {name: step for name, step in self.graph.steps.items() if name in selected or not selected}
        self.parallel = int(
            self.document["ParallelismConfiguration"].get("MaxParallelExecutionSteps", DEFAULT_PARALLEL_STEPS)
        )
        self.cache_mode: str = self.document["Options"].get("cache", cache.BYTES)
        self.runtime = Runtime(state, Storage(state), find_mount(state.home), api)
        self.calls = StepCalls(self.document, self.graph, self.runtime.storage)
        self.records: dict[str, Document] = {}  # of the steps that were started, as they are in the state
        self.running: dict[asyncio.Task[None], Step] = {}
        self.failed = False  # a step has failed, and no step waits for that
        self.stopping = False

    async def run(self) -> None:
        """Until nothing runs and nothing can be started; then record how it ended."""
        self.resume()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        self.start_ready()
        while self.running:
            done, _ = await asyncio.wait(self.running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self.settle(task, self.running.pop(task))
            self.start_ready()
        self.finish()

    def resume(self) -> None:
        """Take over what an earlier runner of this execution has done, and what another execution lends this one."""
        for record in self.state.steps(self.arn):
            self.records[record["StepName"]] = record
            if record["StepStatus"] == "Succeeded":
                self.calls.properties[record["StepName"]] = record["Properties"]

    def start_ready(self) -> None:
        """Start steps while there is room."""
        if self.failed or self.stopping:
            return
        for step in self.steps.values():
            if len(self.running) >= self.parallel:
                return
            if step.name not in self.records and self.is_ready(step):
                self.record(step, "Executing", StartTime=now())
                self.running[asyncio.create_task(self.run_step(step), name=step.name)] = step

    def is_ready(self, step: Step) -> bool:
        """Whether the branch that the step stands in was taken, and every step that it waits for has ended as it must.

        A step that was not selected is waited for by nobody.
        """
        if step.condition in self.steps and self.outcome(step.condition) != str(step.outcome):
            return False
        explicit = {name for name, _ in step.triggers}
        needed = [(name, "Completed") for name in step.dependencies if name not in explicit]
        return all(self.triggers(name, trigger) for name, trigger in (*needed, *step.triggers) if name in self.steps)

    def outcome(self, condition: str) -> str | None:
        """What a Condition step came to; None before it has."""
        metadata: Document = self.records.get(condition, {}).get("Metadata", {})
        found: str | None = metadata.get("Condition", {}).get("Outcome")
        return found

    def triggers(self, name: str, trigger: str) -> bool:
        """Whether a step has ended in the way that a trigger of DependsOn asks for."""
        ended = TRIGGERS.get(self.records.get(name, {}).get("StepStatus", ""))
        return ended is not None and trigger in (ended, "Any")

    def settle(self, task: asyncio.Task[None], step: Step) -> None:
        """A step's task has ended. An exception that is nobody's mistake but ours is recorded too."""
        problem = None if task.cancelled() else task.exception()
        if problem is not None:
            with contextlib.suppress(OSError):
                traceback.print_exception(problem)
            self.fail(step, problem)

    async def run_step(self, step: Step) -> None:
        """One step from start to record."""
        try:
            await STEP_KINDS.get(step.type, Execution.run_job_step)(self, step)
        except PipelineError as problem:
            self.fail(step, problem)
        except asyncio.CancelledError:
            self.record(step, "Stopped", EndTime=now())

    async def run_job_step(self, step: Step) -> None:
        """A step that an executor runs, or that the cache already has."""
        call = self.calls.call(step)
        keys, hit = await asyncio.to_thread(self.look_up, call)
        if hit:
            result, source = hit
            self.succeed(step, result, CacheHitResult={"SourcePipelineExecutionArn": source})
            return
        result = await self.attempts(step, call)
        await asyncio.to_thread(cache.remember, keys, result, self.arn, self.runtime)
        self.succeed(step, result)

    def look_up(self, call: StepCall) -> tuple[cache.Keys, tuple[StepResult, str] | None]:
        """A step's cache keys, and what the cache has under the one that counts; inputs may have to be read for it."""
        keys = cache.cache_keys(call, self.document["PipelineName"], self.runtime, self.cache_mode)
        key = keys.get(self.cache_mode)
        return keys, cache.remembered(key, call, self.runtime, self.cache_mode) if key else None

    async def attempts(self, step: Step, call: StepCall) -> StepResult:
        """Run, and run again as the step's RetryPolicies say.

        Raises:
            StepFailure: the last attempt's.
        """
        started, used = time.monotonic(), 0
        while True:
            try:
                return await self.attempt(step, call)
            except StepFailure as failure:
                wait = retry_wait(step.definition.get("RetryPolicies") or [], failure.code, used, started)
                if wait is None:
                    raise
                with contextlib.suppress(OSError):
                    print(f"{step.name}: {failure} Trying again in {wait:g} seconds.", flush=True)
            used += 1
            self.record(step, "Executing", AttemptCount=used + 1)
            await asyncio.sleep(wait)
            call = self.calls.call(step)

    async def attempt(self, step: Step, call: StepCall) -> StepResult:
        """One attempt; the machine's own troubles count as the service's."""
        self.record(step, "Executing", Job=call.job_name, Metadata=job_metadata(step.type, call.job_name))
        try:
            return await EXECUTORS[step.type](call, self.runtime)
        except OSError as problem:
            reason = f"InternalServerError: the job could not be started on this machine: {problem}"
            raise StepFailure(reason, code="SageMaker.JOB_INTERNAL_ERROR") from problem

    async def run_condition(self, step: Step) -> None:
        """Evaluate the conditions; the steps of the branch that was not taken are never ready."""
        outcome = {"Outcome": str(holds(step.definition["Arguments"]["Conditions"], self.calls.scope()))}
        self.succeed(step, StepResult(outcome, {"Condition": outcome}))

    async def run_fail(self, step: Step) -> None:
        """End the execution with the step's message."""
        message = str(self.calls.value(step.definition["Arguments"].get("ErrorMessage", "")))
        raise StepFailure(message, metadata={"Fail": {"ErrorMessage": message}})

    def succeed(self, step: Step, result: StepResult, **more: Document) -> None:
        """Record the end of a step that went well."""
        self.calls.properties[step.name] = result.properties
        self.record(step, "Succeeded", EndTime=now(), Metadata=result.metadata, Properties=result.properties, **more)

    def fail(self, step: Step, problem: BaseException) -> None:
        """Record the end of a step that failed; if no step waits for that, nothing new is started."""
        self.failed = self.failed or not self.handlers(step)
        known = {"Metadata": problem.metadata} if isinstance(problem, StepFailure) and problem.metadata else {}
        self.record(step, "Failed", EndTime=now(), FailureReason=self.reason(problem), **known)

    def handlers(self, step: Step) -> list[Step]:
        """The steps that wait for the failure of another."""
        waited_for = {(step.name, trigger) for trigger in HANDLES_FAILURE}
        return [other for other in self.steps.values() if waited_for.intersection(other.triggers)]

    def reason(self, problem: BaseException) -> str:
        """Why a step failed, as its record says it."""
        full = DiskFull(self.state.home)
        if is_full(problem):
            return f"InternalServerError: {full}"
        if isinstance(problem, StepFailure):
            return f"{problem} {full}" if was_full(self.state.home) else str(problem)
        if isinstance(problem, PipelineError):
            return f"ClientError: {problem}"
        return f"InternalServerError of the local runner: {type(problem).__name__}: {problem}"

    def record(self, step: Step, status: str, **values: object) -> None:
        """Write the step's record."""
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
        self.stopping = True
        for task, step in self.running.items():
            if step.type != "Lambda":
                task.cancel()
        with contextlib.suppress(PipelineError):
            self.state.update_execution(self.arn, StopHeard=now())

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


STEP_KINDS = {"Condition": Execution.run_condition, "Fail": Execution.run_fail}
