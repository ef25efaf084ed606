"""Which operation an HTTP request is, and what its URL says of the members, by the services' own models.

The service is in the signature's credential scope. The operation is found as the protocol has it that the model names
first: in X-Amz-Target (json), in Action (query), or by method, path, query and headers (rest-json, rest-xml).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from pipeline.definition.schemas import service_model
from pipeline.local.store.answers import HttpRequest, RequestError, iso_seconds
from pipeline.local.store.state import Document

BUCKET_HOST = re.compile(r"([a-z0-9][a-z0-9.-]+)\.localhost(?::\d+)?")  # of virtual-host style
UNREADABLE = "SerializationException"
LISTED = "docs/api.md lists what it answers"
Route = tuple[str, str, re.Pattern[str], dict[str, str], set[str]]


def signing_name(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return what a request's signature calls its service; RequestError if it names none."""
    if "AWSAccessKeyId" in query:  # Signature Version 2, by which boto3 presigns in some regions, is for S3 alone
        return "s3"
    given = re.search(r"Credential=([^\s,]+)", headers.get("authorization", ""))
    scope = re.fullmatch(r".+/([^/]+)/aws4_request", given[1] if given else query.get("X-Amz-Credential", ""))
    if scope is None:
        said = "The signature names no service; its Credential must end with /<region>/<service>/aws4_request."
        raise RequestError("IncompleteSignature", said)
    return scope[1]


def recognized(signed: str, request: HttpRequest, services: Iterable[str]) -> HttpRequest:
    """Return a request with its service, which is one of those that share a signing name, and its operation."""
    names = [name for name in services if signed in (name, service_model(name)["metadata"].get("signingName"))]
    parts = urlsplit(request.url)
    query, operation = dict(parse_qsl(parts.query, keep_blank_values=True)), ""
    for name in names:
        if operation := operation_of(name, request, parts.path, query):
            return replace(request, service=name, operation=operation)
    what = f"operation of {signed} that is called by {request.method} {parts.path[:200]}" if names else repr(signed)
    raise RequestError("UnknownOperationException", f"The local target answers no {what}; {LISTED}.")


def protocol(service: str) -> str:
    """Return the protocol that a service's model names first."""
    return str(service_model(service)["metadata"]["protocols"][0])


def operation_of(service: str, request: HttpRequest, path: str, query: Mapping[str, str]) -> str:
    """Return the operation that a request is if it is one of the service's, known or not, else nothing."""
    if protocol(service) == "json":
        prefix, _, name = request.headers.get("x-amz-target", "").rpartition(".")
        return name[:100] if prefix == service_model(service)["metadata"]["targetPrefix"] else ""
    if protocol(service) == "query":
        return {**query, **dict(parse_qsl(request.body.decode(errors="replace")))}.get("Action", "")[:100]
    present = query.keys() | request.headers.keys()
    for operation, method, pattern, literals, needed in routes(service):
        is_meant = all(name in query and value in ("", query[name]) for name, value in literals.items())
        if is_meant and method == request.method and needed <= present and pattern.fullmatch(path):
            return operation
    return ""


@cache
def routes(service: str) -> list[Route]:
    """Return the operations of a service of a REST protocol; what asks for more of a request comes first.

    Each with its method, path, literals of the query (an empty value stands for any), and required parts of the query
    and headers.
    """
    model, found = service_model(service), []
    for name, operation in sorted(model["operations"].items(), key=lambda item: bool(item[1].get("deprecated"))):
        shape = model["shapes"].get(operation.get("input", {}).get("shape"), {})
        members = [shape["members"][member] for member in shape.get("required", [])]
        needed = {member["locationName"] for member in members if member.get("location") in ("header", "querystring")}
        http = operation["http"]
        literals = dict(parse_qsl(http["requestUri"].partition("?")[2], keep_blank_values=True))
        found.append((name, http["method"], path_pattern(http["requestUri"]), literals, needed))
    return sorted(found, key=lambda route: -len(route[3]) - len(route[4]))


@cache
def path_pattern(template: str) -> re.Pattern[str]:
    """Return what a path matches that is made of a URI template: `{Name}` is a segment, `{Name+}` several."""
    escaped = re.escape(template.partition("?")[0].rstrip("/"))
    return re.compile(
        re.sub(r"\\\{(\w+)(\\\+)?\\\}", lambda m: f"(?P<{m[1]}>{'.+' if m[2] else '[^/]+'})", escaped) + "/?"
    )


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
        place, key = member.get("location", ""), member.get("locationName", name)
        if values := places.get(place, {}).get(key.lower() if place == "header" else key):
            found[name] = typed(name, values, model["shapes"][member["shape"]]["type"])
    return found


def typed(name: str, values: list[str], kind: str) -> Any:
    """Return a member that came as text; RequestError if it is none of its type."""
    text = values[-1]
    try:
        if kind == "timestamp":
            return iso_seconds(text)
        if kind in ("integer", "long"):
            return int(text)
        return text == "true" if kind == "boolean" else values if kind == "list" else text
    except (ValueError, OverflowError) as problem:
        noun = "a time such as 2026-01-31T00:00:00Z" if kind == "timestamp" else "a whole number"
        raise RequestError(UNREADABLE, f"{name} must be {noun}, but is {text[:100]!r}.") from problem
