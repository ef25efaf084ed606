"""What answers a request to the local SageMaker, by service and operation. Anything else is refused by name.

An operation comes either as a call with its request's members (`call`: the runner) or as the HTTP request that botocore
would send (`answer`: the boto3 clients of this machine's commands, of `pipeline.local.session` and of jobs).
"""

import json
import re
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from pipeline.errors import PipelineError
from pipeline.local.sagemaker import identity, s3
from pipeline.local.sagemaker.logs import answer_logs
from pipeline.local.sagemaker.schedules import answer_schedules
from pipeline.local.sagemaker.service import answer_sagemaker
from pipeline.local.store.answers import HttpRequest, Reply, RequestError, invalid
from pipeline.local.store.state import Document, State

JSON_SERVICES: dict[str, Callable[[State, str, Document], Document]] = {
    "sagemaker": answer_sagemaker,
    "cloudwatch-logs": answer_logs,
    "scheduler": answer_schedules,
}


class LocalApi:
    """Answers on one home; see `store.answers.Api`."""

    def __init__(self, state: State) -> None:
        self.state = state

    def call(self, service: str, operation: str, request: Document) -> Document:
        """Answer an operation of a JSON protocol.

        Raises:
            RequestError: refused, with the service's error code.
        """
        return JSON_SERVICES[service](self.state, operation, request)

    def answer(self, request: HttpRequest) -> Reply:
        """Answer an HTTP request; a refusal is a reply too.

        Raises:
            RequestError: nobody answers for that service.
        """
        if request.service not in SERVICES:
            message = f"The local target does not answer {request.service}:{request.operation}."
            raise RequestError("UnknownOperationException", message)
        answer, error = SERVICES[request.service]
        try:
            reply = answer(self.state, request)
        except RequestError as problem:
            reply = error(problem)
        except PipelineError as problem:
            reply = error(invalid(str(problem)))
        bare = request.method == "HEAD" or reply.status == 304
        return Reply(reply.status, reply.headers, b"") if bare else reply


def answer_json(state: State, request: HttpRequest) -> Reply:
    """JSON 1.1; EventBridge Scheduler's names are in the path."""
    content = json.loads(request.body or b"{}")
    if request.service == "scheduler":
        content = {"Name": unquote(urlsplit(request.url).path.rpartition("/")[2]), **content}
    return Reply.json(JSON_SERVICES[request.service](state, request.operation, content))


def answer_runtime(state: State, request: HttpRequest) -> Reply:
    """InvokeEndpoint; an error of the server becomes ModelError, as on the service."""
    from pipeline.local.jobs.servers import CUSTOM_ATTRIBUTES
    from pipeline.local.sagemaker import endpoints
    from pipeline.local.sagemaker.capture import INFERENCE_ID

    match = re.fullmatch(r"/endpoints/([^/]+)/invocations", urlsplit(request.url).path)
    if request.operation != "InvokeEndpoint" or match is None:
        raise RequestError(
            "ValidationError", f"The local target does not answer sagemaker-runtime:{request.operation}."
        )
    handed_on = ("Content-Type", "Accept", CUSTOM_ATTRIBUTES, INFERENCE_ID)
    headers = {name: request.headers[name.lower()] for name in handed_on if name.lower() in request.headers}
    name = unquote(match[1])
    answer = endpoints.invoke_endpoint(state, name, request.body, headers)
    if not 200 <= answer.status < 300:
        return model_error(answer.status, answer.body.decode(errors="replace"))
    shown = {"Content-Type": answer.content_type, "x-Amzn-Invoked-Production-Variant": endpoints.variant(state, name)}
    if answer.custom_attributes is not None:
        shown[CUSTOM_ATTRIBUTES] = answer.custom_attributes
    return Reply(200, shown, answer.body)


def model_error(status: int, said: str) -> Reply:
    """ModelError, which the service makes of any answer that is not 2xx."""
    fault = "client" if 400 <= status < 500 else "server"
    content = {
        "Message": f'Received {fault} error ({status}) from primary with message "{said}".',
        "OriginalStatusCode": status,
        "OriginalMessage": said,
    }
    return Reply.json(content, 424, {"x-amzn-ErrorType": "ModelError"})


def answer_lambda(state: State, request: HttpRequest) -> Reply:
    """Invoke; one with InvocationType Event is answered when the function has ended, too."""
    from pipeline.local.jobs import functions

    match = re.search(r"/functions/([^/]+)/invocations", request.url)
    if request.operation != "Invoke" or match is None:
        raise RequestError("InvalidRequestException", f"The local target does not answer lambda:{request.operation}.")
    function = functions.function_named(state, unquote(match[1]))
    kind = request.headers.get("x-amz-invocation-type", "RequestResponse")
    if kind == "DryRun":
        return Reply(204, {}, b"")
    try:
        result = functions.invoke_now(state, LocalApi(state), function, json.loads(request.body or b"null"))
    except functions.FunctionError as problem:
        if kind == "Event":
            return Reply(202, {}, b"")
        error_type, _, message = str(problem).rpartition(": ")
        content = {"errorMessage": message or str(problem), "errorType": error_type or "Unhandled"}
        return Reply.json(content, 200, {"X-Amz-Function-Error": "Unhandled"})
    return Reply.json(result) if kind != "Event" else Reply(202, {}, b"")


def json_error(problem: RequestError) -> Reply:
    """An error as both JSON protocols carry it."""
    content = {"__type": problem.code, "message": str(problem), "Message": str(problem)}
    return Reply.json(content, problem.status, {"x-amzn-ErrorType": problem.code})


SERVICES: dict[str, tuple[Callable[[State, HttpRequest], Reply], Callable[[RequestError], Reply]]] = {
    **dict.fromkeys(JSON_SERVICES, (answer_json, json_error)),
    "sagemaker-runtime": (answer_runtime, json_error),
    "lambda": (answer_lambda, json_error),
    "s3": (s3.answer_s3, s3.error),
    "sts": (identity.answer_identity, identity.error),
    "iam": (identity.answer_identity, identity.error),
}
