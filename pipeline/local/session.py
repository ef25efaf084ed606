"""boto3 clients whose requests are answered in this process by the local target.

botocore emits `before-send` with the finished HTTP request; whatever a handler returns stands for the response. So a
request is validated and serialised, and a response parsed, by botocore itself, as if it came from AWS. Services that
the local target does not stand for are refused by name; nothing leaves the machine.
"""

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import botocore.handlers
import botocore.session
from botocore.awsrequest import AWSPreparedRequest, AWSResponse

from pipeline.local import endpoints, functions, service
from pipeline.local.answers import RequestError
from pipeline.local.logs import answer_logs
from pipeline.local.s3_requests import answer_s3
from pipeline.local.state import State
from pipeline.local.wire import Reply

CREDENTIALS = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}


def answer_every_client(home: Path) -> None:
    """From now on every botocore client of this process is answered locally (moto hooks in likewise)."""
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "local")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "local")
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    botocore.handlers.BUILTIN_HANDLERS.append(("before-send", Backend(State(home))))


def local_session(state: State) -> Any:
    """A boto3 session on a home."""
    import boto3

    core = botocore.session.Session()
    core.register("before-send", Backend(state))
    return boto3.Session(botocore_session=core, **CREDENTIALS)


class Backend:
    """The `before-send` handler."""

    def __init__(self, state: State) -> None:
        self.state = state

    def __call__(self, request: AWSPreparedRequest, event_name: str = "", **rest: Any) -> AWSResponse:
        """Answer a request; event names are before-send.<service>.<operation>."""
        _, name, operation = event_name.split(".", 2)
        try:
            reply = SERVICES.get(name, refuse)(self.state, operation, request)
        except RequestError as problem:
            reply = error_reply(problem)
        return AWSResponse(request.url, reply.status, reply.headers, RawBody(reply.body))


class RawBody(io.BytesIO):
    """What botocore expects of a response's raw stream."""

    def stream(self, amount: int = 65536, decode_content: bool | None = None) -> Any:
        """Chunks of the body."""
        while chunk := self.read(amount):
            yield chunk

    def release_conn(self) -> None:
        """There is no connection."""


def answer_sagemaker(state: State, operation: str, request: AWSPreparedRequest) -> Reply:
    """JSON 1.1."""
    return Reply.json(service.answer(state, operation, json.loads(request.body or b"{}")))


def answer_runtime(state: State, operation: str, request: AWSPreparedRequest) -> Reply:
    """InvokeEndpoint; an error of the server becomes ModelError, as on the service."""
    match = re.fullmatch(r"https://[^/]+/endpoints/([^/]+)/invocations", request.url)
    if operation != "InvokeEndpoint" or match is None:
        raise RequestError("ValidationError", f"The local target does not answer sagemaker-runtime:{operation}.")
    headers = {name: as_text(request.headers[name]) for name in ("Content-Type", "Accept") if name in request.headers}
    custom = "X-Amzn-SageMaker-Custom-Attributes"
    if custom in request.headers:
        headers[custom] = as_text(request.headers[custom])
    answer = endpoints.invoke_endpoint(state, unquote(match[1]), body_of(request), headers)
    if answer.status == 200:
        shown = {"Content-Type": answer.content_type, "x-Amzn-Invoked-Production-Variant": "AllTraffic"}
        return Reply(200, shown, answer.body)
    said = answer.body.decode(errors="replace")
    content = {
        "Message": f'Received client error ({answer.status}) from primary with message "{said}".',
        "OriginalStatusCode": answer.status,
        "OriginalMessage": said,
    }
    return Reply.json(content, 424, {"x-amzn-ErrorType": "ModelError"})


def answer_lambda(state: State, operation: str, request: AWSPreparedRequest) -> Reply:
    """Invoke, synchronously."""
    match = re.search(r"/functions/([^/]+)/invocations", request.url)
    if operation != "Invoke" or match is None:
        raise RequestError("InvalidRequestException", f"The local target does not answer lambda:{operation}.")
    function = functions.function_named(state, unquote(match[1]))
    try:
        result = functions.invoke_now(state, function, json.loads(body_of(request) or b"null"))
    except functions.FunctionError as problem:
        return Reply.json({"errorMessage": str(problem)}, 200, {"X-Amz-Function-Error": "Unhandled"})
    return Reply.json(result)


def answer_cloudwatch_logs(state: State, operation: str, request: AWSPreparedRequest) -> Reply:
    """JSON 1.1."""
    return Reply.json(answer_logs(state, operation, json.loads(request.body or b"{}")))


def refuse(state: State, operation: str, request: AWSPreparedRequest) -> Reply:
    """A service that the local target does not stand for."""
    raise RequestError("UnknownOperationException", f"The local target does not answer {operation} at {request.url}.")


def error_reply(problem: RequestError) -> Reply:
    """An error as both JSON protocols carry it."""
    content = {"__type": problem.code, "message": str(problem), "Message": str(problem)}
    return Reply.json(content, problem.status, {"x-amzn-ErrorType": problem.code})


def body_of(request: AWSPreparedRequest) -> bytes:
    """The body as bytes, whatever the caller gave."""
    body = request.body
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    return bytes(body) if isinstance(body, bytes | bytearray) else bytes(body.read())


def as_text(value: str | bytes) -> str:
    """A header's value."""
    return value.decode() if isinstance(value, bytes) else value


Answer = Callable[[State, str, AWSPreparedRequest], Reply]

SERVICES: dict[str, Answer] = {
    "sagemaker": answer_sagemaker,
    "sagemaker-runtime": answer_runtime,
    "lambda": answer_lambda,
    "cloudwatch-logs": answer_cloudwatch_logs,
    "logs": answer_cloudwatch_logs,
    "s3": lambda state, operation, request: answer_s3(state, operation, request.url, body_of(request)),
}
