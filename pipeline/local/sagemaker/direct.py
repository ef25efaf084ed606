"""Clients for the one command that has to start fast, `run --definition`: the local target's operations as methods.

They answer as the boto3 clients of `session` do, without the third of a second that botocore takes to import and to
read its models. Nothing is validated on the way; the definition itself is checked before it runs.
"""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from pipeline.local.sagemaker.api import LocalApi
from pipeline.local.store.answers import RequestError
from pipeline.local.store.state import State


class DirectClient:
    """`client.describe_endpoint(...)` calls DescribeEndpoint of the local target."""

    def __init__(self, state: State, service: str) -> None:
        self.api = LocalApi(state)
        self.service = service

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = re.sub(r"(?:^|_)([a-z])", lambda match: match[1].upper(), name)

        def call(**request: Any) -> Any:
            try:
                return with_times(self.api.call(self.service, operation, request))
            except RequestError as problem:
                error = {"Error": {"Code": problem.code, "Message": str(problem)}}
                raise ClientError(error, operation) from problem

        return call

    def get_paginator(self, name: str) -> "Paginator":
        """What follows NextToken."""
        return Paginator(getattr(self, name))


class Paginator:
    """Pages of a List operation."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def paginate(self, **request: Any) -> Iterator[Any]:
        """Page after page."""
        answer = self.call(**request)
        yield answer
        while token := answer.get("NextToken"):
            answer = self.call(**request, NextToken=token)
            yield answer


def with_times(value: Any, name: str = "") -> Any:
    """JSON in which the numbers of members named ...Time are times, as botocore parses them."""
    if isinstance(value, dict):
        return {key: with_times(member, key) for key, member in value.items()}
    if isinstance(value, list):
        return [with_times(member) for member in value]
    is_time = name.endswith("Time") and isinstance(value, float)
    return datetime.fromtimestamp(value, UTC) if is_time else value
