"""Which operation an HTTP request is, and what its URL says of the members, by the services' own models.

The service is in the signature's credential scope, which any client that speaks to AWS sends. The operation is found
as the protocol has it that the model names first: in X-Amz-Target (json), in Action (query), or by method, path, query
and headers (rest-json, rest-xml).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from pipeline.definition.schemas import service_model
from pipeline.local.store.answers import HttpRequest, RequestError
from pipeline.local.store.state import Document

BUCKET_HOST = re.compile(r"([a-z0-9][a-z0-9.-]+)\.localhost(?::\d+)?")  # of virtual-host style
RPC = ("json", "query")
PLACES = ("header", "querystring")
UNREADABLE = "SerializationException"
LISTED = "docs/api.md lists what it answers"


@dataclass(frozen=True)
class Route:
    """An operation of a REST protocol, and what a request has that is one."""

    operation: str
    method: str
    path: re.Pattern[str]
    query: Mapping[str, str]  # literals of its URI; an empty value stands for any
    needed: frozenset[str]  # required members: parameters of the query, and headers

    def is_taken(self, request: HttpRequest, path: str, query: Mapping[str, str]) -> bool:
        """Return whether a request is this operation."""
        is_so = request.method == self.method and self.path.fullmatch(path) is not None
        if not is_so or not self.needed <= query.keys() | request.headers.keys():
            return False
        return all(name in query and value in ("", query[name]) for name, value in self.query.items())


def signing_name(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return what a request's signature calls its service; RequestError if it has no such signature."""
    if "AWSAccessKeyId" in query:  # Signature Version 2, by which boto3 presigns in some regions, is for S3 alone
        return "s3"
    match = re.search(r"Credential=([^\s,]+)", headers.get("authorization", ""))
    credential = match[1] if match else query.get("X-Amz-Credential", "")
    scope = re.fullmatch(r".+/([^/]+)/aws4_request", credential)
    if scope is None:
        said = "The signature names no service; its Credential must end with /<region>/<service>/aws4_request."
        raise RequestError("IncompleteSignature", said)
    return scope[1]


def recognized(service: str, request: HttpRequest, services: Iterable[str]) -> HttpRequest:
    """Return a request with its service and operation; RequestError if no model of `services` has it.

    Args:
        service: as the signature names it, which several services may share.
        services: those that are answered, as botocore names them.
    """
    names = [name for name in services if service in (name, metadata(name).get("signingName"))]
    parts = urlsplit(request.url)
    query, operation = dict(parse_qsl(parts.query, keep_blank_values=True)), ""
    for name in names:
        if operation := operation_of(name, request, parts.path, query):
            return replace(request, service=name, operation=operation)
    what = f"operation of {service} that is called by {request.method} {parts.path[:200]}" if names else f"{service!r}"
    raise RequestError("UnknownOperationException", f"The local target answers no {what}; {LISTED}.")


def metadata(service: str) -> Mapping[str, Any]:
    """Return what a model says of its service: protocol, signing name, prefix of targets."""
    found: Mapping[str, Any] = service_model(service)["metadata"]
    return found


def protocol(service: str) -> str:
    """Return the protocol that a service's model names first."""
    return str(metadata(service).get("protocols", [metadata(service)["protocol"]])[0])


def operation_of(service: str, request: HttpRequest, path: str, query: Mapping[str, str]) -> str:
    """Return the name of the operation that a request is if it is one of the service's, known or not, else nothing."""
    if protocol(service) == "json":
        prefix, _, name = request.headers.get("x-amz-target", "").rpartition(".")
        return name[:100] if prefix == metadata(service)["targetPrefix"] else ""
    if protocol(service) == "query":
        return {**query, **dict(parse_qsl(request.body.decode(errors="replace")))}.get("Action", "")[:100]
    return next((route.operation for route in routes(service) if route.is_taken(request, path, query)), "")


@cache
def routes(service: str) -> list[Route]:
    """Return the operations of a service of a REST protocol; what asks for more of a request comes first."""
    model, found = service_model(service), []
    for name, operation in sorted(model["operations"].items(), key=lambda item: bool(item[1].get("deprecated"))):
        shape = model["shapes"].get(operation.get("input", {}).get("shape"), {})
        members = [shape["members"][member] for member in shape.get("required", [])]
        needed = frozenset(member["locationName"] for member in members if member.get("location") in PLACES)
        path, _, literals = operation["http"]["requestUri"].partition("?")
        query = dict(parse_qsl(literals, keep_blank_values=True))
        found.append(Route(name, operation["http"]["method"], path_pattern(path), query, needed))
    return sorted(found, key=lambda route: -len(route.query) - len(route.needed))


@cache
def path_pattern(template: str) -> re.Pattern[str]:
    """Return what a path matches that is made of a URI template: `{Name}` is a segment, `{Name+}` several."""
    literal, *labels = re.split(r"\{(\w+\+?)\}", template.partition("?")[0].rstrip("/"))
    pattern = re.escape(literal)
    for label, literal in zip(labels[::2], labels[1::2], strict=True):
        text = ".+" if label.endswith("+") else "[^/]+"
        pattern += f"(?P<{label.rstrip('+')}>{text}){re.escape(literal)}"
    return re.compile(f"{pattern}/?")


def located(request: HttpRequest, service: str) -> Document:
    """Return the members of a request of a REST protocol that are in its path, query and headers, typed."""
    model, parts = service_model(service), urlsplit(request.url)
    operation = model["operations"][request.operation]
    path = path_pattern(operation["http"]["requestUri"]).fullmatch(parts.path)
    places: dict[str, Mapping[str, list[str]]] = {
        "uri": {name: [unquote(value)] for name, value in (path.groupdict() if path else {}).items()},
        "querystring": parse_qs(parts.query, keep_blank_values=True),
        "header": {name: [value] for name, value in request.headers.items()},
    }
    found = {}
    for name, member in model["shapes"][operation["input"]["shape"]]["members"].items():
        key = member.get("locationName", name)
        place = places.get(member.get("location", ""), {})
        if values := place.get(key.lower() if member.get("location") == "header" else key):
            found[name] = typed(name, values, model["shapes"][member["shape"]]["type"])
    return found


def seconds(text: str) -> float:
    """Return a time of ISO 8601, in UTC unless it says otherwise, as seconds since 1970; ValueError if it is none."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def typed(name: str, values: list[str], kind: str) -> Any:
    """Return a member that came as text; RequestError if it is none of its type."""
    text = values[-1]
    try:
        if kind == "timestamp":
            return seconds(text)
        if kind in ("integer", "long"):
            return int(text)
        return text == "true" if kind == "boolean" else values if kind == "list" else text
    except (ValueError, OverflowError) as problem:
        noun = "a time such as 2026-01-31T00:00:00Z" if kind == "timestamp" else "a whole number"
        raise RequestError(UNREADABLE, f"{name} must be {noun}, but is {text[:100]!r}.") from problem
