"""Pipelines, as requests see them: a name, a definition that can be run, and how many steps may run at once."""

from pipeline.definition.check import check
from pipeline.definition.steps import load_definition
from pipeline.errors import DefinitionError, PipelineError
from pipeline.local.jobs.runtime import arn, now
from pipeline.local.store.answers import checked_name, chosen, found, invalid, listed, paged
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage

NAME_LIMIT = 256


def create_pipeline(state: State, request: Document) -> Document:
    """CreatePipeline."""
    name = checked_name(request, "PipelineName", NAME_LIMIT)
    request = with_definition(state, request)
    if "PipelineDefinition" not in request:
        raise invalid("CreatePipeline needs PipelineDefinition or PipelineDefinitionS3Location.")
    with state.transaction():
        if state.get("Pipeline", name):
            raise invalid(f"Pipeline names must be unique; {name!r} exists.")
        return put_pipeline(state, {"CreationTime": now(), "PipelineStatus": "Active"}, request)


def update_pipeline(state: State, request: Document) -> Document:
    """UpdatePipeline; what the request leaves out is kept."""
    request = with_definition(state, request)
    with state.transaction():
        known = found_pipeline(state, request["PipelineName"])
        return put_pipeline(state, known, {**request, "PipelineName": known["PipelineName"]})


def put_pipeline(state: State, known: Document, request: Document) -> Document:
    """Store a pipeline; the answer to both requests."""
    pipeline_arn = arn("pipeline", request["PipelineName"])
    document = {**known, **request, "PipelineArn": pipeline_arn, "LastModifiedTime": now()}
    state.put("Pipeline", request["PipelineName"], document)
    return chosen(document, "PipelineArn")


def with_definition(state: State, request: Document) -> Document:
    """The request with its definition, checked, as text; one of more than 100 KB is given by its place in S3.

    Raises:
        RequestError: with every problem.
    """
    location = request.get("PipelineDefinitionS3Location")
    try:
        if location:
            text = Storage(state).read(f"s3://{location['Bucket']}/{location['ObjectKey']}").decode()
            request = {**request, "PipelineDefinition": text}
    except (ValueError, PipelineError) as problem:
        raise invalid(str(problem)) from problem
    if "PipelineDefinition" in request and (problems := definition_problems(request["PipelineDefinition"])):
        raise invalid("\n".join(problems))
    return request


def definition_problems(text: str) -> list[str]:
    """Why a definition could not be run here, one sentence each."""
    try:
        return check(load_definition(text), service=False, local=True)
    except DefinitionError as problem:
        return [f"The definition {problem}"]


def found_pipeline(state: State, name: str) -> Document:
    """A pipeline by name or ARN."""
    return found(state, "Pipeline", name.rpartition("/")[2] if name.startswith("arn:") else name, "pipeline")


def describe_pipeline(state: State, request: Document) -> Document:
    """DescribePipeline."""
    return found_pipeline(state, request["PipelineName"])


def list_pipelines(state: State, request: Document) -> Document:
    """ListPipelines."""
    members = ("PipelineArn", "PipelineName", "CreationTime", "LastModifiedTime")
    prefix = request.get("PipelineNamePrefix", "")
    pipelines = listed(state.all("Pipeline"), request, lambda document: document["PipelineName"].startswith(prefix))
    return paged("PipelineSummaries", [chosen(document, *members) for document in pipelines], request)


def delete_pipeline(state: State, request: Document) -> Document:
    """DeletePipeline; its executions stay readable."""
    document = found_pipeline(state, request["PipelineName"])
    state.delete("Pipeline", document["PipelineName"])
    return chosen(document, "PipelineArn")
