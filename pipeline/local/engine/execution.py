"""Runs one execution, in the process that `pipeline.local.runner` starts.

    definition -> graph -> while steps are left: start every step whose dependencies are done, wait for any to end
                           (resolve expressions -> cache? -> executor, with retries -> record)

One thread, one event loop; jobs are child processes. Every change of a step is in the state before the next thing
happens, so that a kill at any moment leaves a readable execution. A failed step ends the execution as on SageMaker:
what runs is finished, nothing new is started. SIGTERM stops: running jobs are ended, the rest is not started.
"""

import asyncio
import json
import signal
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from pipeline.definition.conditions import holds
from pipeline.definition.expressions import Scope, resolve
from pipeline.definition.graph import Step, read_graph
from pipeline.definition.requests import as_request
from pipeline.errors import PipelineError
from pipeline.local.engine import cache
from pipeline.local.engine.retries import retry_wait
from pipeline.local.engine.runner_process import execution_id_of
from pipeline.local.jobs.executors import EXECUTORS
from pipeline.local.jobs.runtime import (
    Runtime,
    StepCall,
    StepFailure,
    StepResult,
    job_metadata,
    new_job_name,
    new_tuning_job_name,
    now,
)
from pipeline.local.sandbox.namespaces import find_mount
from pipeline.local.store.answers import Api
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage

STEP_FAILURE = "Step failure: One or multiple steps failed."  # the service's own words
DEFAULT_PARALLEL_STEPS = 50


class Execution:
    """The running execution."""

    def __init__(self, state: State, execution_arn: str, api: Api) -> None:
        document = state.execution(execution_arn)
        assert document is not None, execution_arn
        self.state = state
        self.arn = execution_arn
        self.document = document
        self.graph = read_graph(document["Definition"])
        self.parallel = int(
            document["ParallelismConfiguration"].get("MaxParallelExecutionSteps", DEFAULT_PARALLEL_STEPS)
        )
        use_cache = bool(document["Options"].get("use_cache", True))
        self.runtime = Runtime(state, Storage(state), find_mount(state.home), api, use_cache)
        self.records: dict[str, Document] = {}  # of the steps that were started, as they are in the state
        self.properties: dict[str, Document] = {}  # of those that have ended well
        self.skipped: set[str] = set()
        self.failed = False
        self.stopping = False
        self.running: dict[asyncio.Task[None], str] = {}

    async def run(self) -> None:
        """Until nothing runs and nothing can be started; then record how it ended."""
        self.resume()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        while self.start_ready() or self.running:
            done, _ = await asyncio.wait(self.running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self.settle(task, self.running.pop(task))
        self.finish()

    def resume(self) -> None:
        """Take over what an earlier runner of this execution has done."""
        for record in self.state.steps(self.arn):
            self.records[record["StepName"]] = record
            if record["StepStatus"] == "Succeeded":
                self.properties[record["StepName"]] = record["Properties"]
                if outcome := record["Metadata"].get("Condition", {}).get("Outcome"):
                    self.skipped |= self.graph.not_taken(record["StepName"], outcome == "True")

    def start_ready(self) -> bool:
        """Start steps while there is room; whether any was started."""
        started = False
        for step in self.ready():
            if len(self.running) >= self.parallel:
                break
            self.running[asyncio.create_task(self.run_step(step), name=step.name)] = step.name
            started = True
        return started

    def ready(self) -> Iterator[Step]:
        """Steps whose dependencies are done."""
        if self.failed or self.stopping:
            return
        busy = set(self.running.values())
        for step in list(self.graph.steps.values()):
            known = step.name in self.properties or step.name in self.skipped or step.name in busy
            if not known and all(name in self.properties for name in step.dependencies):
                yield step

    def settle(self, task: asyncio.Task[None], name: str) -> None:
        """A step's task has ended. An exception that is nobody's mistake but ours is recorded too."""
        problem = None if task.cancelled() else task.exception()
        if problem is not None:
            traceback.print_exception(problem)
            self.fail(name, f"InternalServerError of the local runner: {type(problem).__name__}: {problem}", {})

    async def run_step(self, step: Step) -> None:
        """One step from start to record."""
        self.record(step, "Executing", StartTime=now())
        try:
            await STEP_KINDS.get(step.type, Execution.run_job_step)(self, step)
        except StepFailure as failure:
            self.fail(step.name, str(failure), failure.metadata)
        except PipelineError as problem:
            self.fail(step.name, f"ClientError: {problem}", {})
        except asyncio.CancelledError:
            self.record(step, "Stopped", EndTime=now())

    async def run_job_step(self, step: Step) -> None:
        """A step that an executor runs, or that the cache already has."""
        call = self.call(step)
        key, hit = await asyncio.to_thread(self.look_up, call)
        if hit:
            result, source = hit
        else:
            result, source = await self.attempts(step, call), self.arn
            if key:
                await asyncio.to_thread(cache.remember, key, result, self.arn, self.runtime)
        reused = {"CacheHitResult": {"SourcePipelineExecutionArn": source}} if result.reused else {}
        self.succeed(step, result, **reused)

    def look_up(self, call: StepCall) -> tuple[str | None, tuple[StepResult, str] | None]:
        """A step's cache key, and what the cache has under it; inputs may have to be read for it."""
        key = cache.cache_key(call, self.document["PipelineName"], self.runtime)
        return key, cache.remembered(key, call, self.runtime) if key and self.runtime.use_cache else None

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
                print(f"{step.name}: {failure} Trying again in {wait:g} seconds.", flush=True)
            used += 1
            self.record(step, "Executing", AttemptCount=used + 1)
            await asyncio.sleep(wait)
            call = self.call(step)

    async def attempt(self, step: Step, call: StepCall) -> StepResult:
        """One attempt; the machine's own troubles count as the service's."""
        self.record(step, "Executing", Job=call.job_name, Metadata=job_metadata(step.type, call.job_name))
        try:
            return await EXECUTORS[step.type](call, self.runtime)
        except OSError as problem:
            reason = f"InternalServerError: the job could not be started on this machine: {problem}"
            raise StepFailure(reason, code="SageMaker.JOB_INTERNAL_ERROR") from problem

    def call(self, step: Step) -> StepCall:
        """The step with its expressions resolved, under a new job name."""
        new_name = new_tuning_job_name if step.type == "Tuning" else new_job_name
        job_name = new_name(execution_id_of(self.arn), step.name)
        arguments = resolve(step.definition.get("Arguments") or {}, self.scope(job_name))
        if step.type != "Lambda":  # whose event keeps its types
            arguments = as_request(arguments)
        return StepCall(step.name, step.definition, arguments, execution_id_of(self.arn), job_name)

    async def run_condition(self, step: Step) -> None:
        """Evaluate, and skip the branch not taken."""
        outcome = holds(step.definition["Arguments"]["Conditions"], self.scope())
        self.skipped |= self.graph.not_taken(step.name, outcome)
        metadata = {"Condition": {"Outcome": str(outcome)}}
        self.succeed(step, StepResult({"Outcome": str(outcome)}, metadata))

    async def run_fail(self, step: Step) -> None:
        """End the execution with the step's message."""
        message = str(resolve(step.definition["Arguments"].get("ErrorMessage", ""), self.scope()))
        raise StepFailure(message, metadata={"Fail": {"ErrorMessage": message}})

    def scope(self, job_name: str | None = None) -> Scope:
        """Where expressions find their values."""
        execution = {
            "StartDateTime": timestamp(self.document["CreationTime"]),
            "CurrentDateTime": timestamp(now()),
            "PipelineName": self.document["PipelineName"],
            "PipelineArn": self.document["PipelineArn"],
            "PipelineExecutionId": execution_id_of(self.arn),
            "PipelineExecutionArn": self.arn,
            **({"TrainingJobName": job_name, "ProcessingJobName": job_name} if job_name else {}),
        }
        return Scope(
            parameters=self.document["Parameters"],
            steps=self.properties,
            execution=execution,
            read_property_file=self.read_property_file,
            read_json=self.read_json,
            experiment=self.document["Definition"].get("PipelineExperimentConfig") or {},
        )

    def read_property_file(self, step_name: str, property_file: str) -> Any:
        """A property file of a step, from where the step's output was uploaded."""
        declared = self.graph.steps[step_name].definition.get("PropertyFiles", [])
        file = next(item for item in declared if item["PropertyFileName"] == property_file)
        outputs = self.properties[step_name]["ProcessingOutputConfig"]["Outputs"]
        uri = next(o["S3Output"]["S3Uri"] for o in outputs if o["OutputName"] == file["OutputName"])
        return self.read_json(f"{uri.rstrip('/')}/{file['FilePath']}")

    def read_json(self, uri: str) -> Any:
        """A JSON object of the storage.

        Raises:
            StepFailure: it is not JSON.
        """
        try:
            return json.loads(self.runtime.storage.read(uri))
        except ValueError as problem:
            raise StepFailure(f"{uri} is not JSON: {problem}") from problem

    def succeed(self, step: Step, result: StepResult, **more: Any) -> None:
        """Record the end of a step that went well."""
        self.properties[step.name] = result.properties
        self.record(step, "Succeeded", EndTime=now(), Metadata=result.metadata, Properties=result.properties, **more)

    def fail(self, name: str, reason: str, metadata: Document) -> None:
        """Record the end of a step that failed; nothing new is started."""
        self.failed = True
        known = {"Metadata": metadata} if metadata else {}
        self.record(self.graph.steps[name], "Failed", EndTime=now(), FailureReason=reason, **known)

    def record(self, step: Step, status: str, **values: Any) -> None:
        """Write the step's record."""
        document = {
            "StepName": step.name,
            "StepType": step.type,
            **{
                name: step.definition[source]
                for name, source in (("StepDisplayName", "DisplayName"), ("StepDescription", "Description"))
                if source in step.definition
            },
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
        for task, name in self.running.items():
            if self.graph.steps[name].type != "Lambda":
                task.cancel()

    def finish(self) -> None:
        """Record how the execution ended."""
        status = "Stopped" if self.stopping else "Failed" if self.failed else "Succeeded"
        reason = STEP_FAILURE if status == "Failed" else None
        self.state.update_execution(self.arn, PipelineExecutionStatus=status, FailureReason=reason)


STEP_KINDS = {"Condition": Execution.run_condition, "Fail": Execution.run_fail}


def timestamp(seconds: float) -> str:
    """ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
