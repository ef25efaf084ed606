"""Executions, as requests see them: start, look, stop, retry.

An execution is run by a process of its own (`python -m pipeline.local.runner`), so that `start` returns at once and the
runner can be killed without harm: `settlement` says what becomes of an execution whose runner is gone, and `retry` goes
on from there.
"""

import contextlib
import json
import os
import secrets
import signal
import string
from collections.abc import Iterator
from typing import Any

from pipeline.definition.graph import Graph, read_graph
from pipeline.definition.parameters import bind
from pipeline.definition.runnable import step_faults
from pipeline.errors import PipelineError
from pipeline.local.engine.pipelines import found_pipeline
from pipeline.local.engine.runner_process import lock_path, runner_pid, spawn_runner, taken_lock
from pipeline.local.engine.settlement import known_execution, settled
from pipeline.local.jobs.functions import function_name
from pipeline.local.jobs.launchers import launcher_of
from pipeline.local.jobs.runtime import now
from pipeline.local.store.answers import chosen, invalid, paged
from pipeline.local.store.state import Document, State

LOCK_WAIT_SECONDS = 5.0
SUMMARY = (
    "PipelineExecutionArn",
    "PipelineExecutionStatus",
    "PipelineExecutionDescription",
    "PipelineExecutionDisplayName",
)


def missing_programs(state: State, graph: Graph) -> Iterator[str]:
    """What steps lack, or would call that is not on this machine, one sentence each."""
    for step in graph.steps.values():
        faults = [f"Step {step.name!r} {fault}" for fault in step_faults(step.definition)]
        yield from faults
        if step.type == "Lambda":
            name = function_name(str(step.definition.get("FunctionArn", "")))
            if state.get("Function", name) is None:
                yield (
                    f"Step {step.name!r} calls the Lambda function {name!r}, which is not known here; "
                    f"give it with --lambda {name}=FILE.py:HANDLER."
                )
        arguments = step.definition.get("Arguments", {})
        request = {"Training": arguments, "Tuning": arguments.get("TrainingJobDefinition", {})}.get(step.type)
        if request and not faults and launcher_of(request) == "unknown":
            yield (
                f"Step {step.name!r} would start its image's own 'train' program, which is not on this machine; name a "
                "script by a ContainerEntrypoint or by the hyperparameters sagemaker_program and "
                "sagemaker_submit_directory."
            )


def start_pipeline_execution(state: State, request: Document) -> Document:
    """StartPipelineExecution: a new execution and the process that runs it."""
    pipeline = found_pipeline(state, request["PipelineName"])
    whole = json.loads(pipeline["PipelineDefinition"])
    definition = {name: value for name, value in whole.items() if value is not None}
    given = {item["Name"]: item["Value"] for item in request.get("PipelineParameters", [])}
    try:
        parameters = bind(definition.get("Parameters", []), given)
        graph = read_graph(definition)
        missing = list(missing_programs(state, graph))
    except PipelineError as problem:
        raise invalid(str(problem)) from problem
    if missing:
        raise invalid("\n".join(missing))
    execution_id = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(12))
    execution_arn = f"{pipeline['PipelineArn']}/execution/{execution_id}"
    document = {
        "PipelineArn": pipeline["PipelineArn"],
        "PipelineName": pipeline["PipelineName"],
        "PipelineExecutionArn": execution_arn,
        "PipelineExecutionStatus": "Executing",
        "CreationTime": now(),
        "LastModifiedTime": now(),
        "Definition": definition,
        "Parameters": parameters,
        "GivenParameters": given,
        "ParallelismConfiguration": request.get("ParallelismConfiguration")
        or pipeline.get("ParallelismConfiguration", {}),
        "Options": state.start_options,
        **chosen(request, "PipelineExecutionDisplayName", "PipelineExecutionDescription"),
    }
    with taken_lock(lock_path(state, execution_arn)) as lock:
        with state.transaction():
            keep_functions(state, execution_id, graph)
            state.add_execution(document)
        spawn_runner(state, execution_arn, lock)
    return {"PipelineExecutionArn": execution_arn}


def keep_functions(state: State, execution_id: str, graph: Graph) -> None:
    """The functions that the steps call, as they are now: another run may give their names to other code."""
    for step in graph.steps.values():
        if step.type == "Lambda":
            name = function_name(str(step.definition.get("FunctionArn", "")))
            state.put("ExecutionFunction", f"{execution_id}/{name}", state.get("Function", name) or {})


def describe_pipeline_execution(state: State, request: Document) -> Document:
    """DescribePipelineExecution."""
    return settled(state, request["PipelineExecutionArn"])


def list_pipeline_executions(state: State, request: Document) -> Document:
    """ListPipelineExecutions; the newest first unless SortOrder says otherwise."""
    name = found_pipeline(state, request["PipelineName"])["PipelineName"]
    arns = [document["PipelineExecutionArn"] for document in state.executions(name)]
    if request.get("SortOrder") == "Ascending":
        arns.reverse()
    answer = paged("PipelineExecutionSummaries", arns, request)
    answer["PipelineExecutionSummaries"] = [
        summary(settled(state, execution_arn)) for execution_arn in answer["PipelineExecutionSummaries"]
    ]
    return answer


def summary(document: Document) -> Document:
    """PipelineExecutionSummary."""
    reason = {"PipelineExecutionFailureReason": document["FailureReason"]} if document.get("FailureReason") else {}
    return {**chosen(document, *SUMMARY), "StartTime": document["CreationTime"], **reason}


def list_pipeline_execution_steps(state: State, request: Document) -> Document:
    """ListPipelineExecutionSteps: the steps that were started; the service's default order is descending."""
    settled(state, request["PipelineExecutionArn"])
    steps = state.steps(request["PipelineExecutionArn"])
    if request.get("SortOrder", "Descending") == "Descending":
        steps.reverse()
    return paged("PipelineExecutionSteps", steps, request)


def list_pipeline_parameters_for_execution(state: State, request: Document) -> Document:
    """ListPipelineParametersForExecution."""
    parameters: dict[str, Any] = settled(state, request["PipelineExecutionArn"])["Parameters"]
    return paged("PipelineParameters", [{"Name": n, "Value": str(value)} for n, value in parameters.items()], request)


def describe_pipeline_definition_for_execution(state: State, request: Document) -> Document:
    """DescribePipelineDefinitionForExecution."""
    document = settled(state, request["PipelineExecutionArn"])
    return {"PipelineDefinition": json.dumps(document["Definition"]), "CreationTime": document["CreationTime"]}


def stop_pipeline_execution(state: State, request: Document) -> Document:
    """StopPipelineExecution: SIGTERM to the runner, which stops its jobs."""
    execution_arn = request["PipelineExecutionArn"]
    settled(state, execution_arn)
    with state.transaction():
        status = known_execution(state, execution_arn)["PipelineExecutionStatus"]
        if status != "Executing":
            raise invalid(f"Only an executing execution can be stopped; this one is {status}.")
        state.update_execution(execution_arn, PipelineExecutionStatus="Stopping")
    if pid := runner_pid(lock_path(state, execution_arn)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    return {"PipelineExecutionArn": execution_arn}


def retry_pipeline_execution(state: State, request: Document) -> Document:
    """RetryPipelineExecution: successful steps are kept, the others run again; the same ARN."""
    execution_arn = request["PipelineExecutionArn"]
    refuse_retry(state, execution_arn)
    try:
        with taken_lock(lock_path(state, execution_arn), LOCK_WAIT_SECONDS) as lock:
            refuse_retry(state, execution_arn)
            for step in state.steps(execution_arn):
                if step["StepStatus"] != "Succeeded":
                    state.delete_step(execution_arn, step["StepName"])
            state.update_execution(
                execution_arn, PipelineExecutionStatus="Executing", FailureReason=None, Options=state.start_options
            )
            spawn_runner(state, execution_arn, lock)
    except BlockingIOError:
        raise invalid("The execution is still coming to its end; retry it again in a moment.") from None
    return {"PipelineExecutionArn": execution_arn}


def refuse_retry(state: State, execution_arn: str) -> None:
    """Make sure that an execution can be retried.

    Raises:
        RequestError: it has not ended, went well, or was ended by a Fail step.
    """
    status = known_execution(state, execution_arn)["PipelineExecutionStatus"]
    if status not in ("Failed", "Stopped"):
        raise invalid(f"Only a Failed or Stopped execution can be retried; this one is {status}.")
    if any("Fail" in step.get("Metadata", {}) for step in state.steps(execution_arn)):
        raise invalid("An execution that a Fail step ended cannot be retried; start a new one.")
