"""Requests to the local SageMaker and what answers them: errors as the service gives them, lists, missing resources."""

import base64
import io
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, Protocol

from pipeline.errors import PipelineError
from pipeline.local.store.state import Conditions, Document, State

PAGE = 100  # items in one answer of a List operation
FILTERS = {  # of List operations, on the catalog
    "NameContains": "instr(c.title, ?) > 0",
    "PipelineNamePrefix": "instr(c.title, ?) = 1",
    "StatusEquals": "c.status = ?",
    **{f"{name}After": "c.time >= ?" for name in ("CreationTime", "Created")},
    **{f"{name}Before": "c.time <= ?" for name in ("CreationTime", "Created")},
    "LastModifiedTimeAfter": "c.modified >= ?",
    "LastModifiedTimeBefore": "c.modified <= ?",
    **dict.fromkeys(("WarmPoolStatusEquals", "TrainingPlanArnEquals"), "? IS NULL"),  # which no job has here
    "ManagedBy": "? = 'CUSTOMER'",
}
SORTS = {"Name": "c.title", "Status": "c.status", "CreationTime": "c.time", "PipelineExecutionArn": "c.name"}
NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class RequestError(PipelineError):
    """A refused request: `code` as in the service's error responses."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


@dataclass(frozen=True)
class HttpRequest:
    """A request as botocore is about to send it; the names of headers are in lower case."""

    service: str  # as botocore's events name it: s3, sagemaker, sagemaker-runtime, ...
    operation: str
    method: str
    url: str
    headers: dict[str, str]
    body: bytes
    upload: BinaryIO | None = None  # of S3 over HTTP instead of the body, which need not fit into memory


class Body(io.RawIOBase):
    """So many bytes of a stream, which need not fit into memory."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        self.source = source
        self.left = size

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes."""
        content = self.source.read(min(self.left, len(buffer)))
        buffer[: len(content)] = content
        self.left -= len(content)
        return len(content)

    def close(self) -> None:
        """Close the stream."""
        self.source.close()
        super().close()


@dataclass(frozen=True)
class Reply:
    """Status, headers and body of an HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes | Body

    @property
    def stream(self) -> Body:
        """The body, to be read once."""
        return Body(io.BytesIO(self.body), len(self.body)) if isinstance(self.body, bytes) else self.body

    @classmethod
    def json(cls, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> "Reply":
        """A JSON body; times are seconds since 1970, as both JSON protocols carry them."""
        headers = {"Content-Type": "application/x-amz-json-1.1", **(headers or {})}
        return cls(status, headers, json.dumps(content).encode())

    @classmethod
    def xml(cls, name: str, content: Any, status: int = 200) -> "Reply":
        """An XML body of nested dictionaries; a list is repeated elements. What XML cannot hold becomes U+FFFD."""
        from xml.sax.saxutils import escape  # for this only: it takes a while to load

        def text(content: Any) -> str:
            if not isinstance(content, dict):
                return escape(NOT_IN_XML.sub("\ufffd", str(content)), {"\r": "&#13;"})
            members = [(key, item) for key, v in content.items() for item in (v if isinstance(v, list) else [v])]
            return "".join(f"<{key}>{text(item)}</{key}>" for key, item in members)

        return cls(status, {"Content-Type": "application/xml"}, text({name: content}).encode())


class Api(Protocol):
    """What answers requests. The rooms below `sagemaker` are given one and do not know who it is."""

    def call(self, service: str, operation: str, request: Document) -> Document:
        """Answer an operation of a JSON protocol; RequestError with the service's error code if it is refused."""

    def answer(self, request: HttpRequest) -> Reply:
        """Answer an HTTP request; a refusal is a reply too. RequestError if nobody answers for that service."""


def invalid(message: str) -> RequestError:
    """ValidationException, which SageMaker gives for nearly everything."""
    return RequestError("ValidationException", message)


def found(state: State, kind: str, name: str, what: str) -> Document:
    """Return a document; RequestError if there is none."""
    document = state.get(kind, name)
    if document is None:
        raise invalid(f"Could not find {what} {name!r}.")
    return document


def unused(state: State, kind: str, name: str, what: str) -> None:
    """Raise RequestError if a name is taken."""
    if state.get(kind, name) is not None:
        raise invalid(f"Cannot create already existing {what} {name!r}.")


def listing(state: State, kind: str, request: Document, member: str, conditions: Conditions = ()) -> Document:
    """The answer of ListTrainingJobs and its like: by a part of the name, by status and by times, page by page.

    The documents are whole: clients leave out what the service's model does not know.
    """
    conditions = list(conditions)
    for name in FILTERS.keys() & request.keys():
        value = seconds(request[name], name) if name.endswith(("After", "Before")) else request[name]
        conditions.append((FILTERS[name], [value]))
    sort = SORTS[request.get("SortBy", "CreationTime")]
    return page_of(state, kind, request, member=member, conditions=conditions, sort=sort)


def seconds(value: str | float, name: str) -> float:
    """Return a time of a request, ISO 8601 or seconds since 1970, as the latter; RequestError if it is neither."""
    with suppress(ValueError):
        return float(value)
    try:
        return iso_seconds(str(value))
    except ValueError:
        raise invalid(f"{name} must be a time such as 2030-01-31T12:00:00Z, but is {value!r}.") from None


def iso_seconds(text: str) -> float:
    """Return a time of ISO 8601, in UTC unless it says otherwise, as seconds since 1970; ValueError if it is none."""
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=time.tzinfo or UTC).timestamp()


def page_of(state: State, kind: str, request: Document, *, member: str, conditions: Conditions, sort: str) -> Document:
    """Return a page of a kind's documents under a member; NextToken is the key of the last one where there are more.

    So pages stay right when documents are added or deleted meanwhile. The usual order is descending.
    """
    size, token = int(request.get("MaxResults", PAGE)), request.get("NextToken")
    found = state.page(
        kind,
        conditions,
        sort=sort,
        is_descending=request.get("SortOrder", "Descending") == "Descending",
        after=key_in(token) if token else None,
        limit=size + 1,
    )
    more = {}
    if len(found) > size:
        more = {"NextToken": base64.urlsafe_b64encode(json.dumps(found[size - 1][0]).encode()).decode()}
    return {member: [document for _, document in found[:size]], **more}


def key_in(token: str) -> tuple[Any, int]:
    """Return the key that a NextToken holds; RequestError if it is none."""
    try:
        key, number = json.loads(base64.urlsafe_b64decode(token))
        if isinstance(key, str | int | float) and isinstance(number, int) and abs(number) < 2**63:
            return key.encode().decode() if isinstance(key, str) else float(key), number
    except (ValueError, TypeError, OverflowError, RecursionError):
        pass
    raise invalid(f"NextToken {token!r} is not one that an earlier answer gave.")


def paged(member: str, items: Sequence[Any], request: Document) -> Document:
    """Return the answer of a List operation: at most MaxResults items, and a NextToken where there are more."""
    token, size = str(request.get("NextToken", "0")), int(request.get("MaxResults", PAGE))
    if not re.fullmatch("[0-9]{1,12}", token):
        raise invalid(f"NextToken {token!r} is not one that an earlier answer gave.")
    end = int(token) + size
    more = {"NextToken": str(end)} if end < len(items) else {}
    return {member: list(items[int(token) : end]), **more}


def chosen(document: Document, *names: str) -> Document:
    """Some members of a document, where present."""
    return {name: document[name] for name in names if name in document}


def function_name(arn_or_name: str) -> str:
    """The name within arn:aws:lambda:<region>:<account>:function:<name>[:<version or alias>]."""
    parts = arn_or_name.split(":")
    return parts[6] if len(parts) > 6 else arn_or_name
