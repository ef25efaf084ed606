"""Clients whose requests are answered in this process by the local target: boto3's, and quicker ones of our commands.

botocore emits `before-send` with the finished HTTP request; whatever a handler returns stands for the response. So a
request is validated and serialised, and a response parsed, by botocore itself, as if it came from AWS. Services that
the local target does not stand for are refused by name; nothing leaves the machine.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from pipeline.definition.schemas import Schema
from pipeline.definition.schemas import operation as operation_schema
from pipeline.local.jobs.runtime import REGION
from pipeline.local.sagemaker.api import LocalApi
from pipeline.local.store.answers import HttpRequest, RequestError
from pipeline.local.store.state import State

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest, AWSResponse

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
    import botocore.session
    from botocore.awsrequest import AWSResponse
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES, ConstantProvider
    from urllib3 import HTTPResponse

    api = LocalApi(state)

    def answer(request: "AWSPreparedRequest", event_name: str, **rest: Any) -> "AWSResponse":
        service, operation = event_name.split(".", 2)[1:]
        headers = {k.lower(): v.decode() if isinstance(v, bytes) else v for k, v in request.headers.items()}
        asked = HttpRequest(service, operation, request.method, request.url, headers, body_of(request))
        try:
            reply = api.answer(asked)
        except RequestError as problem:  # nobody answers for that service; its protocol may be any
            raise client_error(problem, operation) from problem
        raw = HTTPResponse(reply.stream, preload_content=False, decode_content=False)
        return AWSResponse(request.url, reply.status, reply.headers, raw)

    core = botocore.session.Session()
    settings = core.get_component("config_store")
    for name, (_config_name, _variable, usual, _convert) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items():
        settings.set_config_provider(name, ConstantProvider(OWN_SETTINGS.get(name, usual)))
    core.set_credentials("local", "local")
    core.register_component("data_loader", loader())
    core.register("before-parameter-build", refuse_presigned)
    core.register("before-send", answer)
    return core


@cache
def loader() -> Any:
    """What reads the services' models, each of them once in this process."""
    from botocore.loaders import create_loader

    return create_loader()


def client_error(problem: RequestError, operation: str) -> ClientError:
    """A refusal as clients raise it."""
    return ClientError({"Error": {"Code": problem.code, "Message": str(problem)}}, operation)


def refuse_presigned(context: Mapping[str, Any], event_name: str, **rest: Any) -> None:
    """Raise a ClientError where a client would make a presigned URL or form: it would lead to AWS, past this session.

    `sandbox/guest/sitecustomize.py` has the same for jobs, since it can import nothing from here.
    """
    if context.get("is_presign_request"):
        service, operation = event_name.split(".", 2)[1:]
        said = f"The local target makes no presigned URLs ({service}:{operation}): they would lead to AWS."
        raise client_error(RequestError("NotImplemented", said), operation)


def body_of(request: "AWSPreparedRequest") -> bytes:
    """The body as bytes, whatever the caller gave."""
    body = request.body or b""
    if isinstance(body, str):
        return body.encode()
    return bytes(body if isinstance(body, bytes | bytearray) else body.read())


def keep_sdk_quiet() -> None:
    """Switch off the SageMaker SDK's usage reports in this process: it sends them past boto3."""
    os.environ.setdefault("SAGEMAKER_ADMIN_CONFIG_OVERRIDE", str(SDK_DEFAULTS))


@dataclass(frozen=True)
class LocalClient:
    """A client for services of a JSON protocol: `client.describe_endpoint(EndpointName=...)` is DescribeEndpoint.

    Requests are checked and responses shaped by the service's model, but without botocore's sessions and its models of
    endpoints, which take a quarter of a second to load.
    """

    api: LocalApi
    service: str

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = re.sub(r"(?:^|_)([a-z])", lambda match: match[1].upper(), name)

        def call(**request: Any) -> Any:
            try:
                answer = self.api.call(self.service, operation, request)
            except RequestError as problem:
                raise client_error(problem, operation) from problem
            try:
                schema = operation_schema(operation, "output", self.service)
            except KeyError:
                return {}  # the operation answers nothing
            return shaped(answer, schema)

        return call

    def get_paginator(self, name: str) -> Any:
        """The pages of a List operation, as far as NextToken leads."""

        def paginate(**request: Any) -> Iterator[Any]:
            page = getattr(self, name)(**request)
            yield page
            while "NextToken" in page:
                page = getattr(self, name)(**request, NextToken=page["NextToken"])
                yield page

        return SimpleNamespace(paginate=paginate)


def shaped(value: Any, schema: Schema) -> Any:
    """A response as boto3 gives it: times are datetimes, and what the model does not know is left out."""
    if "properties" in schema:
        known = {name: member for name, member in schema["properties"].items() if value.get(name) is not None}
        return {name: shaped(value[name], member) for name, member in known.items()}
    if "items" in schema:
        return [shaped(item, schema["items"]) for item in value]
    if "additionalProperties" in schema:
        return {key: shaped(item, schema["additionalProperties"]) for key, item in value.items()}
    return datetime.fromtimestamp(value, UTC) if isinstance(schema.get("type"), list) else value
