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


def list_all(client: Any, operation: str, **request: Any) -> Iterator[dict[str, Any]]:
    """Yield what a List or Describe operation answers, all pages; nothing if what it asks about is missing."""
    pages = client.get_paginator(operation).paginate(**request)
    try:
        for page in pages:
            yield from next((member for member in page.values() if isinstance(member, list)), [])
    except ClientError as error:
        if not is_missing(error):
            raise
