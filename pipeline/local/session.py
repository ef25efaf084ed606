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
from urllib.parse import unquote, urlsplit

import botocore.handlers
import botocore.session
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES, ConstantProvider
from botocore.exceptions import ClientError

from pipeline.errors import PipelineError
from pipeline.local import endpoints, functions, service
from pipeline.local.answers import RequestError, invalid
from pipeline.local.capture import INFERENCE_ID
from pipeline.local.logs import answer_logs
from pipeline.local.runtime import REGION
from pipeline.local.s3_requests import S3Request, answer_s3
from pipeline.local.schedules import answer_schedules
from pipeline.local.servers import CUSTOM_ATTRIBUTES, Answer
from pipeline.local.state import State
from pipeline.local.storage import Storage
from pipeline.local.wire import Reply

CREDENTIALS = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": REGION}
OWN_ENVIRONMENT = {  # of a process whose clients all are answered here; whatever the user's machine says about AWS
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_MAX_ATTEMPTS": "1",
    "AWS_RETRY_MODE": "legacy",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}
OWN_SETTINGS = {  # the same, for a session beside others
    "region": REGION,
    "config_file": os.devnull,
    "credentials_file": os.devnull,
    "ignore_configured_endpoint_urls": True,
    "max_attempts": 1,
    "retry_mode": "legacy",
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}


def answer_every_client(home: Path) -> None:
    """From now on every botocore client of this process is answered locally (moto hooks in likewise)."""
    os.environ.update(OWN_ENVIRONMENT)
    os.environ.setdefault("AWS_DEFAULT_REGION", REGION)
    botocore.handlers.BUILTIN_HANDLERS.append(("before-send", Backend(State(home))))


def local_session(state: State) -> Any:
    """A boto3 session on a home, which nothing of the user's own AWS settings reaches."""
    import boto3

    core = botocore.session.Session()
    settings = core.get_component("config_store")
    for name, (_config_name, _variable, usual, _convert) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items():
        settings.set_config_provider(name, ConstantProvider(OWN_SETTINGS.get(name, usual)))
    core.register("before-send", Backend(state))
    return boto3.Session(botocore_session=core, **CREDENTIALS)


class Backend:
    """The `before-send` handler."""

    def __init__(self, state: State) -> None:
        self.state = state

    def __call__(self, request: AWSPreparedRequest, event_name: str = "", **rest: Any) -> AWSResponse:
        """Answer a request; event names are before-send.<service>.<operation>.

        Raises:
            ClientError: nobody answers for that service; its protocol may be any.
        """
        _, name, operation = event_name.split(".", 2)
        if name not in SERVICES:
            message = f"The local target does not answer {name}:{operation}."
            raise ClientError({"Error": {"Code": "UnknownOperationException", "Message": message}}, operation)
        try:
            reply = SERVICES[name](self.state, operation, request)
        except RequestError as problem:
            reply = error_reply(problem)
        except PipelineError as problem:
            reply = error_reply(invalid(str(problem)))
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
    match = re.fullmatch(r"/endpoints/([^/]+)/invocations", urlsplit(request.url).path)
    if operation != "InvokeEndpoint" or match is None:
        raise RequestError("ValidationError", f"The local target does not answer sagemaker-runtime:{operation}.")
    handed_on = ("Content-Type", "Accept", CUSTOM_ATTRIBUTES, INFERENCE_ID)
    headers = {name: as_text(request.headers[name]) for name in handed_on if name in request.headers}
    name = unquote(match[1])
    answer = endpoints.invoke_endpoint(state, name, body_of(request), headers)
    if not 200 <= answer.status < 300:
        return model_error(answer)
    shown = {"Content-Type": answer.content_type, "x-Amzn-Invoked-Production-Variant": endpoints.variant(state, name)}
    if answer.custom_attributes is not None:
        shown[CUSTOM_ATTRIBUTES] = answer.custom_attributes
    return Reply(200, shown, answer.body)


def model_error(answer: Answer) -> Reply:
    """ModelError, which the service makes of any answer that is not 2xx."""
    said = answer.body.decode(errors="replace")
    fault = "client" if 400 <= answer.status < 500 else "server"
    content = {
        "Message": f'Received {fault} error ({answer.status}) from primary with message "{said}".',
        "OriginalStatusCode": answer.status,
        "OriginalMessage": said,
    }
    return Reply.json(content, 424, {"x-amzn-ErrorType": "ModelError"})


def answer_lambda(state: State, operation: str, request: AWSPreparedRequest) -> Reply:
    """Invoke; one with InvocationType Event is answered when the function has ended, too."""
    match = re.search(r"/functions/([^/]+)/invocations", request.url)
    if operation != "Invoke" or match is None:
        raise RequestError("InvalidRequestException", f"The local target does not answer lambda:{operation}.")
    function = functions.function_named(state, unquote(match[1]))
    kind = as_text(request.headers.get("X-Amz-Invocation-Type", "RequestResponse"))
    if kind == "DryRun":
        return Reply(204, {}, b"")
    try:
        result = functions.invoke_now(state, function, json.loads(body_of(request) or b"null"))
    except functions.FunctionError as problem:
        if kind == "Event":
            return Reply(202, {}, b"")
        error_type, _, message = str(problem).rpartition(": ")
        content = {"errorMessage": message or str(problem), "errorType": error_type or "Unhandled"}
        return Reply.json(content, 200, {"X-Amz-Function-Error": "Unhandled"})
    return Reply.json(result) if kind != "Event" else Reply(202, {}, b"")


def answer_cloudwatch_logs(state: State, operation: str, request: AWSPreparedRequest) -> Reply:
    """JSON 1.1."""
    return Reply.json(answer_logs(state, operation, json.loads(request.body or b"{}")))


def answer_scheduler(state: State, operation: str, request: AWSPreparedRequest) -> Reply:
    """JSON, the schedule's name in the path."""
    name = unquote(urlsplit(request.url).path.rpartition("/")[2])
    return Reply.json(answer_schedules(state, operation, name, json.loads(body_of(request) or b"{}")))


def answer_objects(state: State, operation: str, request: AWSPreparedRequest) -> Reply:
    """REST with XML."""
    headers = {name.lower(): as_text(value) for name, value in request.headers.items()}
    return answer_s3(Storage(state), S3Request(operation, request.url, headers, body_of(request)))


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


SERVICES: dict[str, Callable[[State, str, AWSPreparedRequest], Reply]] = {
    "sagemaker": answer_sagemaker,
    "sagemaker-runtime": answer_runtime,
    "lambda": answer_lambda,
    "cloudwatch-logs": answer_cloudwatch_logs,
    "logs": answer_cloudwatch_logs,
    "s3": answer_objects,
    "scheduler": answer_scheduler,
}
