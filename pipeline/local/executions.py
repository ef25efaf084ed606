"""Pipelines and their executions, as requests see them: create, start, look, stop, retry.

An execution is run by a process of its own (`python -m pipeline.local.runner`), so that `start` returns at once and the
runner can be killed without harm. The runner holds a lock on `executions/<id>.lock` while it lives: whoever looks at an
execution whose runner is gone settles it as Failed, and `retry` goes on from there.
"""

import fcntl
import json
import os
import secrets
import signal
import string
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.answers import chosen, found, invalid, listed
from pipeline.local.functions import function_name
from pipeline.local.graph import Graph, read_graph
from pipeline.local.launchers import launcher_of
from pipeline.local.parameters import bind
from pipeline.local.process import JOB_VARIABLE
from pipeline.local.runtime import arn, now
from pipeline.local.state import Document, State

PACKAGE_PARENT = Path(__file__).resolve().parents[2]
ACTIVE = ("Executing", "Stopping")
LOST = "The runner process ended before the execution did; `retry` goes on from here."


def put_pipeline(state: State, request: Document) -> Document:
    """CreatePipeline and UpdatePipeline."""
    name = request["PipelineName"]
    known = state.get("Pipeline", name) or {"CreationTime": now(), "PipelineStatus": "Active"}
    document = {**known, **request, "PipelineArn": arn("pipeline", name), "LastModifiedTime": now()}
    checked_plan(document["PipelineDefinition"])
    state.put("Pipeline", name, document)
    return chosen(document, "PipelineArn")


def create_pipeline(state: State, request: Document) -> Document:
    """CreatePipeline."""
    if state.get("Pipeline", request["PipelineName"]):
        raise invalid(f"Pipeline names must be unique; {request['PipelineName']!r} exists.")
    return put_pipeline(state, request)


def update_pipeline(state: State, request: Document) -> Document:
    """UpdatePipeline."""
    found_pipeline(state, request["PipelineName"])
    return put_pipeline(state, request)


def found_pipeline(state: State, name: str) -> Document:
    """A pipeline by name or ARN."""
    return found(state, "Pipeline", name.rpartition("/")[2] if name.startswith("arn:") else name, "pipeline")


def describe_pipeline(state: State, request: Document) -> Document:
    """DescribePipeline."""
    return found_pipeline(state, request["PipelineName"])


def list_pipelines(state: State, request: Document) -> Document:
    """ListPipelines."""
    members = ("PipelineArn", "PipelineName", "CreationTime", "LastModifiedTime")
    return {"PipelineSummaries": [chosen(d, *members) for d in listed(state.all("Pipeline"), request)]}


def delete_pipeline(state: State, request: Document) -> Document:
    """DeletePipeline; its executions stay readable."""
    document = found_pipeline(state, request["PipelineName"])
    state.delete("Pipeline", document["PipelineName"])
    return chosen(document, "PipelineArn")


def checked_plan(definition: str) -> None:
    """Refuse a definition that could not be run.

    Raises:
        RequestError: with every problem.
    """
    try:
        read_graph(json.loads(definition))
    except (ValueError, PipelineError) as problem:
        raise invalid(str(problem)) from problem


def missing_programs(state: State, graph: Graph) -> Iterator[str]:
    """What steps would call that is not on this machine, one sentence each."""
    for step in graph.steps.values():
        if step.type == "Lambda":
            name = function_name(str(step.definition.get("FunctionArn", "")))
            if state.get("Function", name) is None:
                yield (
                    f"Step {step.name!r} calls the Lambda function {name!r}, which is not known here; "
                    f"give it with --lambda {name}=FILE.py:HANDLER."
                )
        arguments = step.definition.get("Arguments", {})
        request = {"Training": arguments, "Tuning": arguments.get("TrainingJobDefinition", {})}.get(step.type)
        if request is not None and launcher_of(request) == "unknown":
            yield (
                f"Step {step.name!r} would start its image's own 'train' program, which is not on this machine; name a "
                "script by a ContainerEntrypoint or by the hyperparameters sagemaker_program and "
                "sagemaker_submit_directory."
            )


def start_pipeline_execution(state: State, request: Document) -> Document:
    """StartPipelineExecution: a new execution and the process that runs it."""
    pipeline = found_pipeline(state, request["PipelineName"])
    definition = json.loads(pipeline["PipelineDefinition"])
    given = {item["Name"]: item["Value"] for item in request.get("PipelineParameters", [])}
    try:
        parameters = bind(definition.get("Parameters", []), given)
        missing = list(missing_programs(state, read_graph(definition)))
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
    state.add_execution(document)
    spawn_runner(state, execution_arn)
    return {"PipelineExecutionArn": execution_arn}


def spawn_runner(state: State, execution_arn: str) -> None:
    """The process that runs an execution. With the option `tied` it dies with the command that started it."""
    folder = state.home / "executions"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{execution_id_of(execution_arn)}.log"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)}
    tied = [str(os.getpid())] if state.start_options.get("tied") else []
    with log.open("ab") as output:
        subprocess.Popen(
            [sys.executable, "-m", "pipeline.local.runner", str(state.home), execution_arn, *tied],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def execution_id_of(execution_arn: str) -> str:
    """The last part of an execution's ARN."""
    return execution_arn.rpartition("/")[2]


def lock_path(state: State, execution_arn: str) -> Path:
    """The lock that a runner holds."""
    return state.home / "executions" / f"{execution_id_of(execution_arn)}.lock"


@contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """Hold the lock, with the process id in it, until the end of the block or of the process.

    Raises:
        BlockingIOError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def runner_pid(path: Path) -> int | None:
    """The process that holds the lock; None if nobody does."""
    if not path.is_file():
        return None
    with path.open("r") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(stream.read().strip() or "0") or None
    return None


def settled(state: State, execution_arn: str) -> Document:
    """The execution; one whose runner is gone is settled first, with its steps and their processes.

    Raises:
        RequestError: there is no such execution.
    """
    document = state.execution(execution_arn)
    if document is None:
        raise invalid(f"Could not find pipeline execution {execution_arn!r}.")
    starting = now() - document["LastModifiedTime"] < 10 and not lock_path(state, execution_arn).is_file()
    if document["PipelineExecutionStatus"] not in ACTIVE or starting:
        return document
    if runner_pid(lock_path(state, execution_arn)) is not None:
        return document
    document = state.execution(execution_arn) or document
    if document["PipelineExecutionStatus"] not in ACTIVE:
        return document
    end_leftovers(state, execution_arn)
    for step in state.steps(execution_arn):
        if step["StepStatus"] in ("Starting", "Executing", "Stopping"):
            state.put_step(execution_arn, {**step, "StepStatus": "Failed", "EndTime": now(), "FailureReason": LOST})
    status = "Stopped" if document["PipelineExecutionStatus"] == "Stopping" else "Failed"
    return state.update_execution(execution_arn, PipelineExecutionStatus=status, FailureReason=LOST)


def end_leftovers(state: State, execution_arn: str) -> None:
    """End job processes that outlived their runner (on Linux, where their environment can be read)."""
    marker = f"{JOB_VARIABLE}=pipelines-{execution_id_of(execution_arn)}-".encode()
    trials = f"{JOB_VARIABLE}={execution_id_of(execution_arn)}-".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(variable.startswith((marker, trials)) for variable in environment):
            try:
                os.kill(int(folder.name), signal.SIGKILL)
            except ProcessLookupError:
                continue


def describe_pipeline_execution(state: State, request: Document) -> Document:
    """DescribePipelineExecution."""
    return settled(state, request["PipelineExecutionArn"])


def list_pipeline_executions(state: State, request: Document) -> Document:
    """ListPipelineExecutions, newest first."""
    name = found_pipeline(state, request["PipelineName"])["PipelineName"]
    executions = [settled(state, document["PipelineExecutionArn"]) for document in state.executions(name)[:100]]
    members = (
        "PipelineExecutionArn",
        "PipelineExecutionStatus",
        "PipelineExecutionDescription",
        "PipelineExecutionDisplayName",
    )
    summaries = [{**chosen(d, *members), "StartTime": d["CreationTime"]} for d in executions]
    return {"PipelineExecutionSummaries": summaries[: request.get("MaxResults", 100)]}


def list_pipeline_execution_steps(state: State, request: Document) -> Document:
    """ListPipelineExecutionSteps: the steps that were started; the service's default order is descending."""
    settled(state, request["PipelineExecutionArn"])
    steps = state.steps(request["PipelineExecutionArn"])
    if request.get("SortOrder", "Descending") == "Descending":
        steps.reverse()
    return {"PipelineExecutionSteps": steps}


def list_pipeline_parameters_for_execution(state: State, request: Document) -> Document:
    """ListPipelineParametersForExecution."""
    parameters: dict[str, Any] = settled(state, request["PipelineExecutionArn"])["Parameters"]
    return {"PipelineParameters": [{"Name": name, "Value": str(value)} for name, value in parameters.items()]}


def describe_pipeline_definition_for_execution(state: State, request: Document) -> Document:
    """DescribePipelineDefinitionForExecution."""
    document = settled(state, request["PipelineExecutionArn"])
    return {"PipelineDefinition": json.dumps(document["Definition"]), "CreationTime": document["CreationTime"]}


def stop_pipeline_execution(state: State, request: Document) -> Document:
    """StopPipelineExecution: SIGTERM to the runner, which stops its jobs."""
    execution_arn = request["PipelineExecutionArn"]
    document = settled(state, execution_arn)
    if document["PipelineExecutionStatus"] != "Executing":
        raise invalid(f"Only an executing execution can be stopped; this one is {document['PipelineExecutionStatus']}.")
    state.update_execution(execution_arn, PipelineExecutionStatus="Stopping")
    if pid := runner_pid(lock_path(state, execution_arn)):
        os.kill(pid, signal.SIGTERM)
    return {"PipelineExecutionArn": execution_arn}


def retry_pipeline_execution(state: State, request: Document) -> Document:
    """RetryPipelineExecution: successful steps are kept, the others run again; the same ARN."""
    execution_arn = request["PipelineExecutionArn"]
    document = settled(state, execution_arn)
    steps = state.steps(execution_arn)
    if document["PipelineExecutionStatus"] not in ("Failed", "Stopped"):
        status = document["PipelineExecutionStatus"]
        raise invalid(f"Only a Failed or Stopped execution can be retried; this one is {status}.")
    if any("Fail" in step.get("Metadata", {}) for step in steps):
        raise invalid("An execution that a Fail step ended cannot be retried; start a new one.")
    for step in steps:
        if step["StepStatus"] != "Succeeded":
            state.delete_step(execution_arn, step["StepName"])
    lock_path(state, execution_arn).unlink(missing_ok=True)
    state.update_execution(
        execution_arn, PipelineExecutionStatus="Executing", FailureReason=None, Options=state.start_options
    )
    spawn_runner(state, execution_arn)
    return {"PipelineExecutionArn": execution_arn}
