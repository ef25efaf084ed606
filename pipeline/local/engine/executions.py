"""Executions, as requests see them: start, look, stop, retry.

An execution is run by a process of its own (`python -m pipeline.local.runner`), so that `start` returns at once and the
runner can be killed without harm: `settlement` says what becomes of an execution whose runner is gone, and `retry` goes
on from there.
"""

import contextlib
import json
import os
import re
import secrets
import signal
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.definition.check import check
from pipeline.definition.parameters import bind
from pipeline.definition.runnable import member
from pipeline.definition.selection import selection_faults, values_needed
from pipeline.definition.steps import Definition, Graph, Step, objects, read_graph
from pipeline.errors import PipelineError
from pipeline.local.engine.pipelines import found_pipeline
from pipeline.local.engine.runner_process import execution_id_of, lock_path, runner_pid, spawn_runner, taken_lock
from pipeline.local.engine.settlement import ACTIVE, known_execution, settled
from pipeline.local.jobs.functions import function_name
from pipeline.local.jobs.runtime import now
from pipeline.local.store.answers import RequestError, chosen, invalid, paged
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage, StorageError

LOCK_WAIT_SECONDS = 5.0
DRIVERS = {"sm_drivers": "sm_train.sh", "sagemaker_remote_function_bootstrap": "job_driver.sh"}  # by channel
MPI = re.compile(rb"mpi_driver\.py|\bmpirun\b")
SUMMARY = (
    "PipelineExecutionArn",
    "PipelineExecutionStatus",
    "PipelineExecutionDescription",
    "PipelineExecutionDisplayName",
)
DESCRIPTION = (
    *SUMMARY,
    "PipelineArn",
    "FailureReason",
    "CreationTime",
    "LastModifiedTime",
    "ParallelismConfiguration",
    "SelectiveExecutionConfig",
)
STEP_DESCRIPTION = (
    "StepName",
    "StepDisplayName",
    "StepDescription",
    "StartTime",
    "EndTime",
    "StepStatus",
    "AttemptCount",
    "CacheHitResult",
    "FailureReason",
    "Metadata",
    "SelectiveExecutionResult",
)


def start_problems(state: State, definition: Document) -> list[str]:
    """Why a definition could not be run on this machine, one sentence each: its own faults and missing functions."""
    problems = check(definition, service=False, local=True)
    for step in Definition(definition).all_steps:
        arn = step.definition.get("FunctionArn")
        if step.type == "Lambda" and isinstance(arn, str) and state.get("Function", function_name(arn)) is None:
            name = function_name(arn)
            problems.append(
                f"Step {step.name!r} calls the Lambda function {name!r}, which is not known here; "
                f"give it with --lambda {name}=FILE.py:HANDLER."
            )
        if any(MPI.search(script) for script in driver_scripts(state, step)):
            problems.append(f"Step {step.name!r} is distributed by MPI, which is not run here; accepted is Torchrun.")
    return problems


def driver_scripts(state: State, step: Step) -> Iterator[bytes]:
    """The shell scripts of the SDK that start a training step's own, where they are stored here already."""
    for channel in objects(step.arguments.get("InputDataConfig")) if step.type == "Training" else ():
        source = member(member(channel, "DataSource"), "S3DataSource")
        name, uri = DRIVERS.get(str(member(channel, "ChannelName"))), member(source, "S3Uri")
        with contextlib.suppress(StorageError, OSError):
            if name and isinstance(uri, str):
                yield Storage(state).read(f"{uri.rstrip('/')}/{name}")


def start_pipeline_execution(state: State, request: Document) -> Document:
    """StartPipelineExecution: a new execution and the process that runs it."""
    if known := answered(state, "StartPipelineExecution", request):
        return known
    document = new_execution(state, request)
    graph, execution_arn = read_graph(document["Definition"]), document["PipelineExecutionArn"]
    lent = lent_steps(state, document, graph)
    with taken_lock(lock_path(state, execution_arn)) as lock:
        with state.transaction():
            if known := answered(state, "StartPipelineExecution", request):  # at the same instant
                lock_path(state, execution_arn).unlink()
                return known
            state.add_execution(document)
            for step in lent:
                state.put_step(execution_arn, step)
            keep_functions(state, execution_id_of(execution_arn), graph)
            answer = keep_answer(state, "StartPipelineExecution", request, execution_arn)
        spawn_runner(state, execution_arn, lock)
    return answer


def new_execution(state: State, request: Document) -> Document:
    """The document of an execution that is to be started.

    Raises:
        RequestError: there is no such pipeline, or it cannot be run on this machine with these parameters.
    """
    pipeline = found_pipeline(state, request["PipelineName"])
    whole = json.loads(pipeline["PipelineDefinition"])
    definition = {name: value for name, value in whole.items() if value is not None}
    given = {item["Name"]: item["Value"] for item in request.get("PipelineParameters", [])}
    try:
        parameters = bind(definition.get("Parameters", []), given)
    except PipelineError as problem:
        raise invalid(str(problem)) from problem
    if problems := start_problems(state, definition):
        raise invalid("\n".join(problems))
    execution_id = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(12))
    return {
        "PipelineArn": pipeline["PipelineArn"],
        "PipelineName": pipeline["PipelineName"],
        "PipelineExecutionArn": f"{pipeline['PipelineArn']}/execution/{execution_id}",
        "PipelineExecutionStatus": "Executing",
        "CreationTime": now(),
        "LastModifiedTime": now(),
        "Definition": definition,
        "Parameters": parameters,
        "GivenParameters": given,
        "Options": state.start_options,
        "ParallelismConfiguration": {},
        **chosen(pipeline, "ParallelismConfiguration"),
        **chosen(request, "PipelineExecutionDisplayName", "PipelineExecutionDescription"),
        **chosen(request, "ParallelismConfiguration", "SelectiveExecutionConfig"),
    }


def answered(state: State, operation: str, request: Document) -> Document | None:
    """The answer that this request got before under the same ClientRequestToken, if it has one.

    Raises:
        RequestError: it was another request.
    """
    known = state.get("ClientRequestToken", f"{operation} {request.get('ClientRequestToken')}")
    if known is None:
        return None
    if known["Request"] != request:
        raise RequestError(
            "ConflictException",
            f"ClientRequestToken {request['ClientRequestToken']!r} was given before, with another request; "
            "a new request needs a new token.",
        )
    answer: Document = known["Answer"]
    return answer


def keep_answer(state: State, operation: str, request: Document, execution_arn: str) -> Document:
    """The answer to a request, remembered under its ClientRequestToken."""
    answer = {"PipelineExecutionArn": execution_arn}
    if token := request.get("ClientRequestToken"):
        state.put("ClientRequestToken", f"{operation} {token}", {"Request": request, "Answer": answer})
    return answer


def lent_steps(state: State, execution: Document, graph: Graph) -> list[Document]:
    """Of a selective execution, the records of the steps whose values it takes from another one.

    "Selective execution of pipeline steps" in the guide: the source may have Succeeded, Failed or Stopped.

    Raises:
        RequestError: these steps cannot be selected, or the source does not have what they need.
    """
    config = execution.get("SelectiveExecutionConfig")
    if not config:
        return []
    selected = [step["StepName"] for step in config["SelectedSteps"]]
    if faults := list(selection_faults(graph, selected)):
        raise invalid(" ".join(faults))
    needed, source = values_needed(graph, selected), config.get("SourcePipelineExecutionArn")
    if source is None:
        if needed:
            raise invalid(
                f"The selected steps read values of {', '.join(sorted(needed))}; name an execution that has them as "
                "SourcePipelineExecutionArn."
            )
        return []
    lender = settled(state, source)
    if lender["PipelineName"] != execution["PipelineName"]:
        raise invalid(f"{source} is an execution of pipeline {lender['PipelineName']!r}, not of this one.")
    if (status := lender["PipelineExecutionStatus"]) in ACTIVE:
        raise invalid(f"{source} is {status}; only an execution that has ended can be the source of another.")
    records = {step["StepName"]: step for step in state.steps(source) if step["StepStatus"] == "Succeeded"}
    for record in records.values():
        record.pop("CacheHitResult", None)  # of the source, not of this one
    if lacking := sorted(needed - set(records)):
        raise invalid(f"The selected steps read values of {', '.join(lacking)}, which did not succeed in {source}.")
    result = {"SelectiveExecutionResult": {"SourcePipelineExecutionArn": source}}
    return [{**records[name], **result} for name in graph.steps if name in needed]


def keep_functions(state: State, execution_id: str, graph: Graph) -> None:
    """The functions that the steps call, as they are now: another run may give their names to other code."""
    for step in graph.steps.values():
        if step.type == "Lambda":
            name = function_name(str(step.definition.get("FunctionArn", "")))
            state.put("ExecutionFunction", f"{execution_id}/{name}", state.get("Function", name) or {})


def describe_pipeline_execution(state: State, request: Document) -> Document:
    """DescribePipelineExecution."""
    return chosen(settled(state, request["PipelineExecutionArn"]), *DESCRIPTION)


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
    return paged("PipelineExecutionSteps", [chosen(step, *STEP_DESCRIPTION) for step in steps], request)


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
    lock = lock_path(state, execution_arn)
    known_execution(state, execution_arn)
    send(lock, signal.SIGCONT)  # suspended, it may hold the state's own lock
    settled(state, execution_arn)
    with contextlib.ExitStack() as at_last, state.transaction():
        if known := answered(state, "StopPipelineExecution", request):
            return known
        status = known_execution(state, execution_arn)["PipelineExecutionStatus"]
        if status != "Executing":
            raise invalid(f"Only an executing execution can be stopped; this one is {status}.")
        at_last.callback(send, lock, signal.SIGTERM)  # also where a full disk keeps the rest from being recorded
        state.update_execution(execution_arn, PipelineExecutionStatus="Stopping", StopTime=now())
        return keep_answer(state, "StopPipelineExecution", request, execution_arn)


def retry_pipeline_execution(state: State, request: Document) -> Document:
    """RetryPipelineExecution: successful steps are kept, the others run again; the same ARN."""
    execution_arn = request["PipelineExecutionArn"]
    if known := answered(state, "RetryPipelineExecution", request):
        return known
    refuse_retry(state, execution_arn)
    try:
        with taken_lock(lock_path(state, execution_arn), LOCK_WAIT_SECONDS) as lock:
            with state.transaction():
                if known := answered(state, "RetryPipelineExecution", request):
                    return known
                refuse_retry(state, execution_arn)
                start_anew(state, execution_arn, request)
                answer = keep_answer(state, "RetryPipelineExecution", request, execution_arn)
            spawn_runner(state, execution_arn, lock)
    except BlockingIOError:
        raise invalid("The execution is still coming to its end; retry it again in a moment.") from None
    return answer


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


def start_anew(state: State, execution_arn: str, request: Document) -> None:
    """Forget the steps that did not succeed, and those that ran because of that; the execution executes again."""
    execution = known_execution(state, execution_arn)
    steps = state.steps(execution_arn)
    unfinished = [step["StepName"] for step in steps if step["StepStatus"] != "Succeeded"]
    again = read_graph(execution["Definition"]).downstream(unfinished)
    for step in steps:
        if step["StepName"] in again and "SelectiveExecutionResult" not in step:
            state.delete_step(execution_arn, step["StepName"])
    changes = {"FailureReason": None, "Options": state.start_options, "StopTime": None}
    state.update_execution(
        execution_arn, PipelineExecutionStatus="Executing", **changes, **chosen(request, "ParallelismConfiguration")
    )


def send(lock: Path, number: signal.Signals) -> None:
    """Signal the runner that holds a lock, if one does."""
    if pid := runner_pid(lock):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
