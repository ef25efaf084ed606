"""What answers a request to the local SageMaker, by service and operation. Anything else is refused by name.

An operation comes either as a call with its request's members (`call`: the runner, the commands of this project) or as
the HTTP request that botocore would send (`answer`: boto3 clients). Both are held to the service's own model.
"""

import json
from importlib import import_module
from typing import Any
from urllib.parse import unquote, urlsplit

from pipeline.definition.service_model import operation as operation_shape
from pipeline.definition.shape_check import ShapeCheck
from pipeline.errors import PipelineError
from pipeline.local.store.answers import HttpRequest, Reply, RequestError, invalid
from pipeline.local.store.state import Document, State

JSON_SERVICES = {"sagemaker": "service", "logs": "logs", "scheduler": "schedules"}
ANSWERS = {  # a function for a request, and one for a refusal; modules are imported when they are needed
    **dict.fromkeys(JSON_SERVICES, ("api.answer_json", "api.json_error")),
    "sagemaker-runtime": ("invocations.answer_runtime", "api.json_error"),
    "lambda": ("lambda_functions.answer", "api.json_error"),
    "s3": ("s3.answer_s3", "s3.error"),
    "sts": ("identity.answer_identity", "identity.error"),
    "iam": ("identity.answer_identity", "identity.error"),
}
ALIASES = {"cloudwatch-logs": "logs"}  # how botocore's events name a service


class LocalApi:
    """Answers on one home; see `store.answers.Api`."""

    def __init__(self, state: State) -> None:
        self.state = state

    def call(self, service: str, operation: str, request: Document) -> Document:
        """Answer an operation of a JSON protocol.

        Raises:
            RequestError: refused, with the service's error code.
        """
        check_request(service, operation, request)
        answer: Document = function_at(f"{JSON_SERVICES[service]}.answer")(self.state, operation, request)
        return answer

    def answer(self, request: HttpRequest) -> Reply:
        """Answer an HTTP request; a refusal is a reply too.

        Raises:
            RequestError: nobody answers for that service.
        """
        service = ALIASES.get(request.service, request.service)
        if service not in ANSWERS:
            message = f"The local target does not answer {service}:{request.operation}."
            raise RequestError("UnknownOperationException", message)
        answer, error = map(function_at, ANSWERS[service])
        try:
            reply: Reply = answer(self.state, request)
        except RequestError as problem:
            reply = error(problem)
        except PipelineError as problem:
            reply = error(invalid(str(problem)))
        bare = request.method == "HEAD" or reply.status == 304
        return Reply(reply.status, reply.headers, b"") if bare else reply


def function_at(place: str) -> Any:
    """A function of this package, by its module and name."""
    module, _, name = place.partition(".")
    return getattr(import_module(f"pipeline.local.sagemaker.{module}"), name)


def check_request(service: str, operation: str, request: Document) -> None:
    """Hold a request to the service's model: members, types, patterns, enumerations, bounds.

    Raises:
        RequestError: with everything that is wrong.
    """
    check = ShapeCheck(operation, lambda value: None, lambda value: None, expression_shapes=frozenset())
    try:
        shape = operation_shape(operation, "input", service)
    except KeyError:
        return  # the operation is refused by its name, or takes nothing
    if problems := list(check.problems(request, shape)):
        raise invalid(" ".join(problems))


def answer_json(state: State, request: HttpRequest) -> Reply:
    """JSON 1.1; EventBridge Scheduler's names are in the path."""
    content = json.loads(request.body or b"{}")
    service = ALIASES.get(request.service, request.service)
    if service == "scheduler":
        content = {"Name": unquote(urlsplit(request.url).path.rpartition("/")[2]), **content}
    return Reply.json(LocalApi(state).call(service, request.operation, content))


def json_error(problem: RequestError) -> Reply:
    """An error as both JSON protocols carry it."""
    content = {"__type": problem.code, "message": str(problem), "Message": str(problem)}
    return Reply.json(content, problem.status, {"x-amzn-ErrorType": problem.code})
