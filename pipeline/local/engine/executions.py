"""Executions of pipelines, as requests see them: start, look, stop, retry.

An execution is run by a process of its own (`python -m pipeline.local.runner`), so that `start` returns at once and the
runner can be killed without harm: `runner_process` says what becomes of an execution whose runner is gone, and `retry`
goes on from there.
"""

import contextlib
import json
import secrets
import signal
import string

from pipeline.definition.parameters import bind
from pipeline.definition.steps import Graph, read_graph
from pipeline.errors import PipelineError
from pipeline.local.checks.definition import refusals
from pipeline.local.engine.pipelines import aliases_of, describe_pipeline, pipeline_named, version_of
from pipeline.local.engine.runner_process import (
    ACTIVE,
    known_execution,
    lock_path,
    send,
    settled,
    spawn_runner,
    taken_lock,
)
from pipeline.local.jobs.runtime import now
from pipeline.local.store.answers import RequestError, chosen, function_name, invalid, listing, paged
from pipeline.local.store.state import Document, State

LOCK_WAIT_SECONDS = 5.0
SUMMARY = tuple(f"PipelineExecution{name}" for name in ("Arn", "Status", "Description", "DisplayName"))
DESCRIPTION = (*SUMMARY, "PipelineArn", "FailureReason", "CreationTime", "LastModifiedTime", "ParallelismConfiguration",
               "SelectiveExecutionConfig", "PipelineVersionId", "CreatedBy", "LastModifiedBy",
               "MLflowConfig")  # fmt: skip
STEP_SUMMARY = ("StepName", "StepDisplayName", "StepDescription", "StartTime", "EndTime", "StepStatus", "AttemptCount",
                "CacheHitResult", "FailureReason", "Metadata", "SelectiveExecutionResult")  # fmt: skip

# start


def start_pipeline_execution(state: State, request: Document) -> Document:
    """StartPipelineExecution: a new execution and the process that runs it."""
    with contextlib.ExitStack() as at_last:
        with state.transaction():
            if known := answered(state, "Start", request):
                return known
            document = new_execution(state, request)
            graph, execution_arn = read_graph(document["Definition"]), document["PipelineExecutionArn"]
            for record in lent_steps(state, document, graph):
                state.put_step(execution_arn, record)
            path = lock_path(state, execution_arn)
            lock = at_last.enter_context(taken_lock(path))
            state.add_execution(document)
            name, last = document["PipelineName"], {"LastExecutionPipelineExecutionArn": execution_arn}
            state.change("Pipeline", name, lambda known: known.update(LastRunTime=document["CreationTime"]))
            state.change("PipelineVersion", f"{name}/{document['PipelineVersionId']}", lambda known: known.update(last))
            for step in graph.steps.values():
                if step.type == "Lambda":  # as it is now: another run may give its name to other code
                    name = function_name(str(step.definition.get("FunctionArn", "")))
                    kept = f"{execution_arn.rpartition('/')[2]}/{name}"
                    state.put("ExecutionFunction", kept, state.get("Function", name) or {})
            answer = keep_answer(state, "Start", request, execution_arn)
        spawn_runner(state, "execution", execution_arn, lock, path.with_suffix(".log"))
    return answer


def new_execution(state: State, request: Document) -> Document:
    """Return the document of a new execution; RequestError if it cannot be run here with these parameters."""
    pipeline = describe_pipeline(state, request)
    whole = json.loads(pipeline["PipelineDefinition"])
    definition = {name: value for name, value in whole.items() if value is not None}
    given = {item["Name"]: item["Value"] for item in request.get("PipelineParameters", [])}
    try:
        parameters = bind(definition.get("Parameters", []), given)
    except PipelineError as problem:
        raise invalid(str(problem)) from problem
    if problems := refusals(definition, state):
        raise invalid("\n".join(problems))
    named = {**definition.get("MlflowConfig", {}), **chosen(request, "MlflowExperimentName")}
    execution_id = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(12))
    return {
        **chosen(pipeline, "PipelineArn", "PipelineName", "PipelineVersionId", "ParallelismConfiguration"),
        **dict.fromkeys(("CreatedBy", "LastModifiedBy"), state.user_context()),
        "PipelineExecutionArn": f"{pipeline['PipelineArn']}/execution/{execution_id}",
        "PipelineExecutionStatus": "Executing",
        "CreationTime": now(),
        "LastModifiedTime": now(),
        "Definition": definition,
        "Parameters": parameters,
        "Options": state.start_options,
        **chosen(request, "PipelineExecutionDisplayName", "PipelineExecutionDescription"),
        **chosen(request, "ParallelismConfiguration", "SelectiveExecutionConfig"),
        **({"MLflowConfig": named} if named else {}),
    }


def answered(state: State, verb: str, request: Document) -> Document | None:
    """Return the answer that this request got before under the same ClientRequestToken, if it has one."""
    token = request.get("ClientRequestToken")
    known = state.get("ClientRequestToken", f"{verb} {token}")
    if known and known["Request"] != request:
        message = f"ClientRequestToken {token!r} was given before, with another request; a new request needs a new one."
        raise RequestError("ConflictException", message)
    return known["Answer"] if known else None


def keep_answer(state: State, verb: str, request: Document, execution_arn: str) -> Document:
    """Return the answer to a request, and remember it under its ClientRequestToken."""
    answer = {"PipelineExecutionArn": execution_arn}
    if token := request.get("ClientRequestToken"):
        state.put("ClientRequestToken", f"{verb} {token}", {"Request": request, "Answer": answer})
    return answer


def lent_steps(state: State, execution: Document, graph: Graph) -> list[Document]:
    """Return the records of the steps whose values a selective execution takes from another one.

    "Selective execution of pipeline steps" in the guide: the source may have Succeeded, Failed or Stopped.
    """
    config = execution.get("SelectiveExecutionConfig")
    if not config:
        return []
    selected = [step["StepName"] for step in config["SelectedSteps"]]
    if faults := list(graph.selection_problems(selected)):
        raise invalid(" ".join(faults))
    needed, source = graph.values_needed(selected), config.get("SourcePipelineExecutionArn")
    if source is None and needed:
        names = ", ".join(sorted(needed))
        raise invalid(f"The selected steps read values of {names}; name an execution that has them as "
                      "SourcePipelineExecutionArn.")  # fmt: skip
    if source is None:
        return []
    lender = settled(state, source)
    if lender["PipelineName"] != execution["PipelineName"]:
        raise invalid(f"{source} is an execution of pipeline {lender['PipelineName']!r}, not of this one.")
    if (status := lender["PipelineExecutionStatus"]) in ACTIVE:
        raise invalid(f"{source} is {status}; only an execution that has ended can be the source of another.")
    records = {step["StepName"]: step for step in state.steps(source) if step["StepStatus"] == "Succeeded"}
    if lacking := sorted(needed - set(records)):
        raise invalid(f"The selected steps read values of {', '.join(lacking)}, which did not succeed in {source}.")
    result = {"SelectiveExecutionResult": {"SourcePipelineExecutionArn": source}}
    lent = [{**records[name], **result} for name in graph.steps if name in needed]
    return [{member: value for member, value in record.items() if member != "CacheHitResult"} for record in lent]


# look


def describe_pipeline_execution(state: State, request: Document) -> Document:
    """DescribePipelineExecution."""
    document = settled(state, request["PipelineExecutionArn"])
    pipeline = state.get("Pipeline", document["PipelineName"]) or {}
    return {**chosen(document, *DESCRIPTION), **(aliases_of(pipeline, document) if pipeline else {})}


def list_pipeline_executions(state: State, request: Document) -> Document:
    """ListPipelineExecutions; the newest first unless SortOrder says otherwise."""
    pipeline = pipeline_named(state, request["PipelineName"])
    wanted: list[tuple[str, list[str]]] = [("c.parent = ?", [pipeline["PipelineName"]])]
    if "PipelineVersionAlias" in request:
        version = version_of(state, pipeline, request)["PipelineVersionId"]
        wanted.append(("json_extract(d.document, '$.PipelineVersionId') = ?", [version]))
    page = listing(state, "PipelineExecution", request, "PipelineExecutionSummaries", wanted)
    summaries = []
    for document in page["PipelineExecutionSummaries"]:
        if document["PipelineExecutionStatus"] in ACTIVE:
            document = settled(state, document["PipelineExecutionArn"])
        reason = {"PipelineExecutionFailureReason": document["FailureReason"]} if document.get("FailureReason") else {}
        summaries.append({**chosen(document, *SUMMARY), "StartTime": document["CreationTime"], **reason})
    return {**page, "PipelineExecutionSummaries": summaries}


def list_pipeline_execution_steps(state: State, request: Document) -> Document:
    """ListPipelineExecutionSteps: the steps that were started; the service's default order is descending."""
    execution_arn = request.get("PipelineExecutionArn", "")
    settled(state, execution_arn)
    steps = state.steps(execution_arn)
    if request.get("SortOrder", "Descending") == "Descending":
        steps.reverse()
    return paged("PipelineExecutionSteps", [chosen(step, *STEP_SUMMARY) for step in steps], request)


def list_pipeline_parameters_for_execution(state: State, request: Document) -> Document:
    """ListPipelineParametersForExecution."""
    values = settled(state, request["PipelineExecutionArn"])["Parameters"].items()
    return paged("PipelineParameters", [{"Name": name, "Value": str(value)} for name, value in values], request)


def describe_pipeline_definition_for_execution(state: State, request: Document) -> Document:
    """DescribePipelineDefinitionForExecution."""
    document = settled(state, request["PipelineExecutionArn"])
    return {"PipelineDefinition": json.dumps(state.definition(document)), "CreationTime": document["CreationTime"]}


# stop and retry


def stop_pipeline_execution(state: State, request: Document) -> Document:
    """StopPipelineExecution: SIGTERM to the runner, which stops its jobs."""
    execution_arn = request["PipelineExecutionArn"]
    lock = lock_path(state, execution_arn)
    known_execution(state, execution_arn)
    send(lock, signal.SIGCONT)  # suspended, it may hold the state's own lock
    settled(state, execution_arn)
    with contextlib.ExitStack() as at_last, state.transaction():
        if known := answered(state, "Stop", request):
            return known
        status = known_execution(state, execution_arn)["PipelineExecutionStatus"]
        if status != "Executing":
            raise invalid(f"Only an executing execution can be stopped; this one is {status}.")
        at_last.callback(send, lock, signal.SIGTERM)  # also where a full disk keeps the rest from being recorded
        state.update_execution(execution_arn, PipelineExecutionStatus="Stopping", StopTime=now())
        return keep_answer(state, "Stop", request, execution_arn)


def retry_pipeline_execution(state: State, request: Document) -> Document:
    """RetryPipelineExecution: the steps that did not succeed run again, with those that ran because of that."""
    execution_arn = request["PipelineExecutionArn"]
    if known := answered(state, "Retry", request):
        return known
    retryable(state, execution_arn)
    path = lock_path(state, execution_arn)
    with contextlib.ExitStack() as held:
        try:
            lock = held.enter_context(taken_lock(path, LOCK_WAIT_SECONDS))
        except BlockingIOError:
            raise invalid("The execution is still coming to its end; retry it again in a moment.") from None
        with state.transaction():
            if known := answered(state, "Retry", request):  # at the same instant
                return known
            graph = read_graph(state.definition(retryable(state, execution_arn)))
            steps = state.steps(execution_arn)
            again = graph.downstream(step["StepName"] for step in steps if step["StepStatus"] != "Succeeded")
            for step in steps:
                if step["StepName"] in again and "SelectiveExecutionResult" not in step:
                    state.delete_step(execution_arn, step["StepName"])
            changes: Document = {"PipelineExecutionStatus": "Executing", "FailureReason": None, "StopTime": None}
            changes |= {"Options": state.start_options, "LastModifiedBy": state.user_context()}
            changes |= chosen(request, "ParallelismConfiguration")
            state.update_execution(execution_arn, **changes)
            answer = keep_answer(state, "Retry", request, execution_arn)
        spawn_runner(state, "execution", execution_arn, lock, path.with_suffix(".log"))
    return answer


def retryable(state: State, execution_arn: str) -> Document:
    """Return an execution; RequestError if it has not ended, went well, or was ended by a Fail step."""
    execution = known_execution(state, execution_arn)
    status = execution["PipelineExecutionStatus"]
    if status not in ("Failed", "Stopped"):
        raise invalid(f"Only a Failed or Stopped execution can be retried; this one is {status}.")
    if any("Fail" in step.get("Metadata", {}) for step in state.steps(execution_arn)):
        raise invalid("An execution that a Fail step ended cannot be retried; start a new one.")
    return execution
