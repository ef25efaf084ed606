"""Clients of this project's own commands: they call the local target without HTTP.

They check requests and shape responses by the service's model, raise ClientError and follow NextToken as boto3 clients
do, but need neither botocore's sessions nor its models of endpoints, which take a quarter of a second to load.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from pipeline.definition.shapes import Shape
from pipeline.definition.shapes import operation as operation_shape
from pipeline.local.store.answers import Api, RequestError


@dataclass(frozen=True)
class LocalClient:
    """`client.describe_endpoint(EndpointName=...)` is DescribeEndpoint, for services of a JSON protocol."""

    api: Api
    service: str

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = re.sub(r"(?:^|_)([a-z])", lambda match: match[1].upper(), name)

        def call(**request: Any) -> Any:
            try:
                answer = self.api.call(self.service, operation, request)
            except RequestError as problem:
                error = {"Error": {"Code": problem.code, "Message": str(problem)}}
                raise ClientError(error, operation) from problem
            try:
                return shaped(answer, operation_shape(operation, "output", self.service))
            except KeyError:
                return {}  # it answers nothing

        return call

    def get_paginator(self, name: str) -> "Paginator":
        """The pages of a List operation."""
        return Paginator(getattr(self, name))


@dataclass(frozen=True)
class Paginator:
    """Follows NextToken."""

    call: Callable[..., Any]

    def paginate(self, **request: Any) -> Iterator[Any]:
        """Page after page."""
        page = self.call(**request)
        yield page
        while "NextToken" in page:
            page = self.call(**request, NextToken=page["NextToken"])
            yield page


def shaped(value: Any, shape: Shape) -> Any:
    """A response as boto3 gives it: times are datetimes, and what the model does not know is left out."""
    if shape.type == "structure":
        known = {name: member for name, member in value.items() if name in shape.members and member is not None}
        return {name: shaped(member, shape.member(name)) for name, member in known.items()}
    if shape.type == "list":
        return [shaped(item, shape.member("member")) for item in value]
    if shape.type == "map":
        return {key: shaped(item, shape.member("value")) for key, item in value.items()}
    return datetime.fromtimestamp(value, UTC) if shape.type == "timestamp" else value
