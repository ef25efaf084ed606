"""boto3 clients whose requests are answered in this process by the local target.

botocore emits `before-send` with the finished HTTP request; whatever a handler returns stands for the response. So a
request is validated and serialised, and a response parsed, by botocore itself, as if it came from AWS. Services that
the local target does not stand for are refused by name; nothing leaves the machine.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import botocore.session
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES, ConstantProvider
from botocore.exceptions import ClientError

from pipeline.local.jobs.runtime import REGION
from pipeline.local.sagemaker.api import LocalApi
from pipeline.local.store.answers import HttpRequest, RequestError
from pipeline.local.store.state import State

SDK_DEFAULTS = Path(__file__).with_name("sdk_defaults.yaml")
OWN_SETTINGS = {  # whatever the user's machine says about AWS
    "region": REGION,
    "config_file": os.devnull,
    "credentials_file": os.devnull,
    "ignore_configured_endpoint_urls": True,
    "max_attempts": 1,
    "retry_mode": "legacy",
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}


def local_session(state: State) -> Any:
    """A boto3 session on a home, which nothing of the user's own AWS settings reaches."""
    import boto3

    return boto3.Session(botocore_session=core_session(state))


def core_session(state: State) -> Any:
    """The same as a botocore session, whose clients are made without importing boto3."""
    api = LocalApi(state)

    def answer(request: AWSPreparedRequest, event_name: str, **rest: Any) -> AWSResponse:
        service, operation = event_name.split(".", 2)[1:]
        headers = {k.lower(): v.decode() if isinstance(v, bytes) else v for k, v in request.headers.items()}
        asked = HttpRequest(service, operation, request.method, request.url, headers, body_of(request))
        try:
            reply = api.answer(asked)
        except RequestError as problem:  # nobody answers for that service; its protocol may be any
            raise ClientError({"Error": {"Code": problem.code, "Message": str(problem)}}, operation) from problem
        return AWSResponse(request.url, reply.status, reply.headers, reply.stream)

    core = botocore.session.Session()
    settings = core.get_component("config_store")
    for name, (_config_name, _variable, usual, _convert) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items():
        settings.set_config_provider(name, ConstantProvider(OWN_SETTINGS.get(name, usual)))
    core.set_credentials("local", "local")
    core.register("before-parameter-build", refuse_presigned)
    core.register("before-send", answer)
    return core


def keep_sdk_quiet() -> None:
    """Switch off the SageMaker SDK's usage reports in this process: it sends them past boto3."""
    os.environ.setdefault("SAGEMAKER_ADMIN_CONFIG_OVERRIDE", str(SDK_DEFAULTS))


def refuse_presigned(context: Mapping[str, Any], event_name: str, **rest: Any) -> None:
    """Refuse to make URLs that would lead to AWS, past this session.

    Raises:
        ClientError: always, for a presigned URL or form.
    """
    if context.get("is_presign_request"):
        service, operation = event_name.split(".", 2)[1:]
        said = f"The local target makes no presigned URLs ({service}:{operation}): they would lead to AWS."
        raise ClientError({"Error": {"Code": "NotImplemented", "Message": said}}, operation)


def body_of(request: AWSPreparedRequest) -> bytes:
    """The body as bytes, whatever the caller gave."""
    body = request.body or b""
    if isinstance(body, str):
        return body.encode()
    return bytes(body if isinstance(body, bytes | bytearray) else body.read())
