"""The AWS services that the deploy function calls: its clients, and how an answer says missing, taken or refused."""

import functools
from collections.abc import Callable
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

CLIENT_CONFIG = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 3})

MISSING = ("could not find", "does not exist", "not found")
ALLOW = "allow the function's role this action"
REMEDIES = {  # error codes that a person can mend
    "AccessDeniedException": ALLOW,
    "AccessDenied": ALLOW,
    "LimitExceededException": "ask for a higher quota",
    "ResourceLimitExceeded": "ask for a higher quota or choose another deploy.instance_type",
    "ResourceInUse": "run it again once the other change has ended",
    "ResourceNotFound": "correct the name or create it",
    "ValidationException": "correct what it names",
}


class DeployError(Exception):
    """Nothing was deployed; the text is one sentence that says why and what to do."""


@functools.cache
def client(service: str) -> Any:
    """The client, made by the default session when first needed and kept while the container lives."""
    return boto3.client(service, config=CLIENT_CONFIG)


def found(describe: Callable[..., dict[str, Any]], **name: str) -> dict[str, Any] | None:
    """The description, or None if there is none, which only the text of a ValidationException tells."""
    try:
        return describe(**name)
    except ClientError as error:
        if any(words in message(error).lower() for words in MISSING):
            return None
        raise


def endpoint_named(name: str) -> dict[str, Any] | None:
    """DescribeEndpoint, or None if there is none."""
    return found(client("sagemaker").describe_endpoint, EndpointName=name)


def was_refused(error: ClientError | BotoCoreError) -> bool:
    """Whether the request certainly had no effect: after a time-out or a fault of the service it may have had."""
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
        return 400 <= status < 500
    return isinstance(error, ParamValidationError)


def explained(error: ClientError | ParamValidationError) -> DeployError | None:
    """The sentence for an error that a person can mend; None for throttling and faults: the caller tries again."""
    if isinstance(error, ParamValidationError):
        details = "; ".join(str(error).splitlines()[1:])  # the first line is a heading
        return DeployError(f"A value is not acceptable to AWS: {details}; correct it.")
    code = error.response.get("Error", {}).get("Code", "")
    if code not in REMEDIES:
        return None
    said = " ".join(message(error).split()).rstrip(".")
    return DeployError(f"AWS refused {error.operation_name}: {said}; {REMEDIES[code]}.")


def message(error: ClientError) -> str:
    """What the service said."""
    return str(error.response.get("Error", {}).get("Message", error))
