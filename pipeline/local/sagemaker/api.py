"""What answers a request to the local SageMaker, by service and operation. Anything else is refused by name.

An operation comes either as a call with its request's members (`call`: the runner, the commands of this project) or as
the HTTP request that botocore would send (`answer`: boto3 clients). Both are held to the service's own model. Modules
are imported when they are needed, since a command uses few of them.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson

from pipeline.definition.schemas import Schema, differences, service_model
from pipeline.definition.schemas import operation as operation_schema
from pipeline.errors import PipelineError
from pipeline.local.sagemaker.http import LISTED, UNREADABLE, located, protocol, typed
from pipeline.local.store.answers import HttpRequest, Reply, RequestError, invalid, paged
from pipeline.local.store.state import Document, State

MODULES = {  # by service and module: what is answered by a function of the operation's name in snake case
    ("sagemaker", "engine.pipelines"): """
        CreatePipeline UpdatePipeline DescribePipeline ListPipelines DeletePipeline
        ListPipelineVersions UpdatePipelineVersion
    """,
    ("sagemaker", "engine.executions"): """
        StartPipelineExecution DescribePipelineExecution DescribePipelineDefinitionForExecution ListPipelineExecutions
        ListPipelineExecutionSteps ListPipelineParametersForExecution StopPipelineExecution RetryPipelineExecution
    """,
    ("sagemaker", "sagemaker.jobs"): """
        DescribeProcessingJob ListProcessingJobs DescribeTrainingJob ListTrainingJobs DescribeHyperParameterTuningJob
        ListHyperParameterTuningJobs ListTrainingJobsForHyperParameterTuningJob DescribeTransformJob ListTransformJobs
    """,
    ("sagemaker", "sagemaker.created_jobs"): """
        CreateTrainingJob StopTrainingJob CreateProcessingJob StopProcessingJob CreateTransformJob StopTransformJob
        CreateHyperParameterTuningJob StopHyperParameterTuningJob
    """,
    ("sagemaker", "sagemaker.registry"): """
        CreateModelPackageGroup DescribeModelPackageGroup ListModelPackageGroups DeleteModelPackageGroup
        CreateModelPackage DescribeModelPackage ListModelPackages UpdateModelPackage DeleteModelPackage
    """,
    ("sagemaker", "sagemaker.endpoints"): """
        CreateModel DescribeModel ListModels DeleteModel
        CreateEndpointConfig DescribeEndpointConfig ListEndpointConfigs DeleteEndpointConfig
        CreateEndpoint UpdateEndpoint DescribeEndpoint ListEndpoints DeleteEndpoint
    """,
    ("sagemaker", "sagemaker.search"): "Search",
    ("sagemaker", "sagemaker.lineage"): """
        DescribeArtifact DescribeAction DescribeContext DescribeTrialComponent ListAssociations
        ListArtifacts ListContexts ListTrialComponents
    """,
    ("sagemaker", "sagemaker.api"): "AddTags ListTags DeleteTags",
    ("logs", "sagemaker.jobs"): "DescribeLogStreams GetLogEvents FilterLogEvents",
    ("scheduler", "sagemaker.schedules"): """
        CreateSchedule GetSchedule UpdateSchedule DeleteSchedule ListSchedules ListScheduleGroups GetScheduleGroup
    """,
    ("lambda", "sagemaker.account"): """
        CreateFunction UpdateFunctionCode GetFunction GetFunctionConfiguration DeleteFunction Invoke
    """,
    ("sts", "sagemaker.account"): "GetCallerIdentity",
    ("iam", "sagemaker.account"): "GetRole SimulatePrincipalPolicy",
    ("sagemaker-runtime", "sagemaker.endpoints"): "InvokeEndpoint",
    ("s3", "sagemaker.s3"): """
        GetObject HeadObject PutObject CopyObject DeleteObject DeleteObjects ListObjects ListObjectsV2 GetObjectTagging
        CreateMultipartUpload UploadPart UploadPartCopy CompleteMultipartUpload AbortMultipartUpload
        ListBuckets CreateBucket DeleteBucket HeadBucket GetBucketLocation
        PutBucketEncryption PutBucketTagging PutBucketOwnershipControls PutPublicAccessBlock
    """,
}
OPERATIONS = {(service, name): module for (service, module), names in MODULES.items() for name in names.split()}
OF_HTTP = ("Invoke", "InvokeEndpoint")  # whose bodies are no members
SERVICES = tuple(dict.fromkeys(service for service, _ in MODULES))
ALIASES = {"cloudwatch-logs": "logs"}  # how botocore's events name a service


class LocalApi:
    """Answers on one home; see `store.answers.Api`."""

    def __init__(self, state: State) -> None:
        self.state = state

    def call(self, service: str, operation: str, request: Document) -> Document:
        """Answer an operation of a JSON protocol, or raise a RequestError with the service's code."""
        function = function_of(service, operation)
        if "input" in service_model(service)["operations"][operation]:
            schema = operation_schema(operation, "input", service)
            if problems := [text for _, text in differences(request, schema, operation)]:
                raise invalid(" ".join(problems))
        answer: Document = function(self.state, request)
        if service == "sagemaker" and request.get("Tags") and operation.startswith("Create"):
            (arn,) = answer.values()
            add_tags(self.state, {"ResourceArn": arn, "Tags": request["Tags"]})
        return answer

    def answer(self, request: HttpRequest) -> Reply:
        """Answer an HTTP request; a refusal is a reply too, but a RequestError where nobody answers for the service."""
        service, operation = ALIASES.get(request.service, request.service), request.operation
        if service not in SERVICES:
            raise unanswered(service, operation)
        kind = "s3" if service == "s3" else protocol(service)
        try:
            if service == "s3":
                reply = import_module("pipeline.local.sagemaker.s3").answer(self.state, request)
            elif operation in OF_HTTP:
                reply = function_of(service, operation)(self.state, request)
            else:
                answer = self.call(service, operation, members(service, request))
                status = service_model(service)["operations"][operation]["http"].get("responseCode", 200)
                reply = replied(kind, operation, answer, status)
        except PipelineError as problem:
            reply = refusal(problem if isinstance(problem, RequestError) else invalid(str(problem)), kind)
        is_bare = request.method == "HEAD" or reply.status in (204, 304)
        return Reply(reply.status, reply.headers, b"") if is_bare else reply


def operations() -> dict[str, Mapping[str, Callable[..., Any]]]:
    """Return the functions that answer, by service and operation; their docstrings say what differs from AWS."""
    return {each: {name: function_of(each, name) for of, name in OPERATIONS if of == each} for each in SERVICES}


@cache
def function_of(service: str, operation: str) -> Callable[..., Any]:
    """Return the function that answers an operation; RequestError if there is none."""
    if (service, operation) not in OPERATIONS:
        raise unanswered(service, operation)
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()
    function: Callable[..., Any] = getattr(import_module(f"pipeline.local.{OPERATIONS[service, operation]}"), name)
    return function


def unanswered(service: str, operation: str) -> RequestError:
    """The refusal of what the local target does not stand for."""
    said = f"The local target does not answer {service}:{operation}; {LISTED}."
    return RequestError("NotImplemented" if service == "s3" else "UnknownOperationException", said)


def members(service: str, request: HttpRequest) -> Document:
    """Return the members of a request, nulls left out and times as seconds since 1970."""
    operation, kind = service_model(service)["operations"].get(request.operation, {}), protocol(service)
    if "input" not in operation:
        return {}
    schema = operation_schema(request.operation, "input", service)
    try:
        content = form(request, schema) if kind == "query" else orjson.loads(request.body or b"{}")
        if not isinstance(content, dict):
            raise RequestError(UNREADABLE, "The body must be a JSON object.")
        content = normalized(content, schema)
    except orjson.JSONDecodeError as problem:
        raise RequestError(UNREADABLE, f"The body is not JSON: {problem}.") from problem
    except RecursionError as problem:
        raise RequestError(UNREADABLE, "The body is nested too deeply.") from problem
    return {**content, **located(request, service)} if kind == "rest-json" else content


def form(request: HttpRequest, schema: Schema) -> Document:
    """Return the members of a request of the query protocol: texts, numbers, and lists such as Names.member.1."""
    content: Document = {}
    for key, value in parse_qsl(f"{urlsplit(request.url).query}&{request.body.decode(errors='replace')}"):
        name, is_list, _ = key.partition(".member.")
        if is_list:
            content[name] = [*content.get(name, []), value]
        elif name not in ("Action", "Version"):
            content[name] = typed(name, [value], schema["properties"].get(name, {}).get("type"))
    return content


def normalized(value: Any, schema: Schema) -> Any:
    """Return a value without its nulls, times that are text as seconds since 1970."""
    if isinstance(value, dict):
        schemas, other = schema.get("properties", {}), schema.get("additionalProperties", {})
        return {key: normalized(item, schemas.get(key, other)) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [normalized(item, schema.get("items", {})) for item in value]
    if isinstance(value, str) and isinstance(schema.get("type"), list):
        return typed(schema["title"], [value], "timestamp")
    return value


def replied(kind: str, operation: str, answer: Document, status: int) -> Reply:
    """An answer as a protocol carries it."""
    if kind == "query":
        content = {f"{operation}Result": answer, "ResponseMetadata": {"RequestId": "local"}}
        return Reply.xml(f"{operation}Response", content, status)
    return Reply.json(answer, status, {"Content-Type": "application/json"} if kind == "rest-json" else {})


def refusal(problem: RequestError, kind: str) -> Reply:
    """An error as S3 or a protocol carries it."""
    error, request_id = {"Code": problem.code, "Message": str(problem)}, {"RequestId": "local"}
    if kind == "s3":
        return Reply.xml("Error", {**error, **request_id}, problem.status)
    if kind == "query":
        return Reply.xml("ErrorResponse", {"Error": {"Type": "Sender", **error}, **request_id}, problem.status)
    content = {"__type": problem.code, "message": str(problem), "Message": str(problem)}
    return Reply.json(content, problem.status, {"x-amzn-ErrorType": problem.code})


def add_tags(state: State, request: Document) -> Document:
    """AddTags, which any resource may have: the new ones replace those of the same key."""
    with state.transaction():
        known = state.get("Tags", request["ResourceArn"]) or {}
        state.put("Tags", request["ResourceArn"], {**known, **{tag["Key"]: tag["Value"] for tag in request["Tags"]}})
    return list_tags(state, {"ResourceArn": request["ResourceArn"]})


def list_tags(state: State, request: Document) -> Document:
    """ListTags."""
    known: dict[str, str] = state.get("Tags", request["ResourceArn"]) or {}
    return paged("Tags", [{"Key": key, "Value": value} for key, value in known.items()], request)


def delete_tags(state: State, request: Document) -> Document:
    """DeleteTags."""
    with state.transaction():
        known = state.get("Tags", request["ResourceArn"]) or {}
        kept = {key: value for key, value in known.items() if key not in request["TagKeys"]}
        state.put("Tags", request["ResourceArn"], kept)
    return {}
