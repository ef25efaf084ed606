"""What answers a request to the local SageMaker, by service and operation. Anything else is refused by name.

An operation comes either as a call with its request's members (`call`: the runner, the commands of this project) or as
the HTTP request that botocore would send (`answer`: boto3 clients). Both are held to the service's own model. Modules
are imported when they are needed, since a command uses few of them.
"""

import json
import re
from functools import cache
from importlib import import_module
from typing import Any
from urllib.parse import unquote, urlsplit

from pipeline.definition.schemas import differences
from pipeline.definition.schemas import operation as operation_schema
from pipeline.errors import PipelineError
from pipeline.local.store.answers import HttpRequest, Reply, RequestError, invalid, paged
from pipeline.local.store.state import Document, State

MODULES = {  # of JSON protocols: what is answered by a function of the operation's name in snake case
    "engine.executions": """
        CreatePipeline UpdatePipeline DescribePipeline ListPipelines DeletePipeline
        StartPipelineExecution DescribePipelineExecution DescribePipelineDefinitionForExecution ListPipelineExecutions
        ListPipelineExecutionSteps ListPipelineParametersForExecution StopPipelineExecution RetryPipelineExecution
    """,
    "sagemaker.jobs": """
        DescribeProcessingJob ListProcessingJobs DescribeTrainingJob ListTrainingJobs DescribeHyperParameterTuningJob
        ListHyperParameterTuningJobs ListTrainingJobsForHyperParameterTuningJob
    """,
    "sagemaker.transform_jobs": "CreateTransformJob DescribeTransformJob ListTransformJobs StopTransformJob",
    "sagemaker.registry": """
        CreateModelPackageGroup DescribeModelPackageGroup ListModelPackageGroups DeleteModelPackageGroup
        CreateModelPackage DescribeModelPackage ListModelPackages UpdateModelPackage DeleteModelPackage
    """,
    "sagemaker.endpoints": """
        CreateModel DescribeModel ListModels DeleteModel
        CreateEndpointConfig DescribeEndpointConfig ListEndpointConfigs DeleteEndpointConfig
        CreateEndpoint UpdateEndpoint DescribeEndpoint ListEndpoints DeleteEndpoint
    """,
    "sagemaker.api": "AddTags ListTags DeleteTags",
}
SAGEMAKER = {operation: module for module, names in MODULES.items() for operation in names.split()}
FUNCTIONS = "CreateFunction UpdateFunctionCode GetFunction GetFunctionConfiguration DeleteFunction"
JSON_SERVICES = {
    "sagemaker": SAGEMAKER,
    "logs": dict.fromkeys(("DescribeLogStreams", "GetLogEvents", "FilterLogEvents"), "sagemaker.jobs"),
    "scheduler": dict.fromkeys(("GetSchedule", "UpdateSchedule"), "sagemaker.account"),
    "lambda": dict.fromkeys(FUNCTIONS.split(), "sagemaker.account"),
}
OTHER_SERVICES = {  # what answers their HTTP requests
    "sagemaker-runtime": "endpoints.answer_runtime",
    "s3": "s3.answer",
    **dict.fromkeys(("sts", "iam"), "account.answer_query"),
    "lambda:Invoke": "account.invoke",
}
XML_SERVICES = ("s3", "sts", "iam")
NAMES_IN_PATH = {"lambda": "FunctionName", "scheduler": "Name"}
ALIASES = {"cloudwatch-logs": "logs"}  # how botocore's events name a service


class LocalApi:
    """Answers on one home; see `store.answers.Api`."""

    def __init__(self, state: State) -> None:
        self.state = state

    def call(self, service: str, operation: str, request: Document) -> Document:
        """Answer an operation of a JSON protocol, or raise a RequestError with the service's code."""
        module = JSON_SERVICES[service].get(operation)
        if module is None:
            raise unanswered(service, operation)
        check_request(service, operation, request)
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()
        answer: Document = function_at(f"{module}.{name}")(self.state, request)
        if request.get("Tags") and operation.startswith("Create"):
            (arn,) = answer.values()
            add_tags(self.state, {"ResourceArn": arn, "Tags": request["Tags"]})
        return answer

    def answer(self, request: HttpRequest) -> Reply:
        """Answer an HTTP request; a refusal is a reply too, but a RequestError where nobody answers for the service."""
        service, operation = ALIASES.get(request.service, request.service), request.operation
        place = OTHER_SERVICES.get(f"{service}:{operation}") or OTHER_SERVICES.get(service)
        if not place and service not in JSON_SERVICES:
            raise unanswered(service, operation)
        reply: Reply
        try:
            if place:
                reply = function_at(f"sagemaker.{place}")(self.state, request)
            else:
                reply = Reply.json(self.call(service, operation, members(service, request)))
        except PipelineError as problem:
            refused = problem if isinstance(problem, RequestError) else invalid(str(problem))
            reply = refusal(refused, is_xml=service in XML_SERVICES)
        is_bare = request.method == "HEAD" or reply.status == 304
        return Reply(reply.status, reply.headers, b"") if is_bare else reply


def unanswered(service: str, operation: str) -> RequestError:
    """The refusal of what the local target does not stand for."""
    return RequestError("UnknownOperationException", f"The local target does not answer {service}:{operation}.")


@cache
def function_at(place: str) -> Any:
    """A function of `pipeline.local`, by its module and name."""
    module, _, name = place.rpartition(".")
    return getattr(import_module(f"pipeline.local.{module}"), name)


def check_request(service: str, operation: str, request: Document) -> None:
    """Refuse a request that the service's model does not allow: members, types, patterns, enumerations, bounds."""
    try:
        schema = operation_schema(operation, "input", service)
    except KeyError:
        return  # the operation takes nothing
    if problems := [text for _, text in differences(request, schema, operation)]:
        raise invalid(" ".join(problems))


def members(service: str, request: HttpRequest) -> Document:
    """The members of a request of a JSON protocol, one of which may be in the path."""
    content: Document = json.loads(request.body or b"{}")
    name = name_in_path(request)
    return {NAMES_IN_PATH[service]: name, **content} if name else content


def name_in_path(request: HttpRequest) -> str:
    """The function or the schedule that a path names, or nothing."""
    match = re.search(r"/(?:functions|schedules)/([^/]+)", urlsplit(request.url).path)
    return unquote(match[1]) if match else ""


def refusal(problem: RequestError, *, is_xml: bool) -> Reply:
    """An error as the JSON protocols or those of XML carry it."""
    if is_xml:
        error = {"Code": problem.code, "Message": str(problem)}
        return Reply.xml("ErrorResponse", {"Error": error, "RequestId": "local"}, problem.status)
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
