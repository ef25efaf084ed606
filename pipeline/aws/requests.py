"""Requests about what may not be there, and how long to wait for a change."""

from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import ClientError

from pipeline.aws.errors import is_missing

WAITER = {"Delay": 2, "MaxAttempts": 1800}  # seconds, and times: an hour


def describe(operation: Callable[..., Any], **request: Any) -> dict[str, Any] | None:
    """Return what a Describe or Get operation answers, or None if there is no such resource."""
    try:
        answer: dict[str, Any] = operation(**request)
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    return answer


def put_new(s3: Any, bucket: str, key: str, content: bytes) -> bool:
    """Store an object unless its name is taken; return whether it was stored."""
    try:
        s3.put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
    except ClientError as error:
        if error.response["Error"]["Code"] in (
            "PreconditionFailed",
            "ConditionalRequestConflict",
        ):  # or is being stored
            return False
        raise
    return True


def items(client: Any, operation: str, **request: Any) -> Iterator[dict[str, Any]]:
    """Yield what a List or Describe operation answers, all pages."""
    pages = client.get_paginator(operation).paginate(**request)
    keys = getattr(pages, "result_keys", [])  # the local target's pages have none, but one list each
    for page in pages:
        name = keys[0].expression if keys else next((name for name in page if isinstance(page[name], list)), "")
        yield from page.get(name, [])


def list_all(client: Any, operation: str, **request: Any) -> Iterator[dict[str, Any]]:
    """Yield the same, or nothing if what the operation asks about is missing."""
    try:
        yield from items(client, operation, **request)
    except ClientError as error:
        if not is_missing(error):
            raise
