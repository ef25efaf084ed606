"""One HTTP request and what becomes of it."""

import itertools
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from typing import Protocol

from classifier.serving.refusals import Refusal

INFERENCE_ID = "x-amzn-sagemaker-inference-id"
INFERENCE_ID_CHARACTERS = 64  # InvokeEndpoint takes no longer one
CLIENT_CLOSED_REQUEST = 499  # nginx's code for a client that left; nobody reads it
REASONS = {status.value: status.phrase for status in HTTPStatus} | {413: "Content Too Large", 499: "Client Closed"}

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    body: bytes = b""
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def refusing(cls, refusal: Refusal) -> "Answer":
        """The refusal's sentence as JSON."""
        body = json.dumps({"error": refusal.sentence}, ensure_ascii=False).encode("utf-8", "replace")
        return cls(refusal.status, body, "application/json", refusal.headers)

    def rendered(self, method: str, *, keep_alive: bool) -> bytes:
        """As HTTP/1.1 has it, to a request of that method."""
        lines = [f"HTTP/1.1 {self.status} {REASONS.get(self.status, '')}", f"content-length: {len(self.body)}"]
        if self.content_type:
            lines.append(f"content-type: {self.content_type}")
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if not keep_alive:
            lines.append("connection: close")
        head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
        return head if method == "HEAD" else head + self.body


class Client(Protocol):
    """A connection, as who lends it to a worker sees it."""

    @property
    def is_lendable(self) -> bool:
        """Whether nothing is arriving, waiting or unsent on it."""

    def lend(self) -> int:
        """Leave it alone until it is taken back; its descriptor."""

    def take_back(self, *, unsent: bytes, attempted: bool) -> None:
        """Go on with it: send the rest of an answer; `attempted` if a worker died on its next request."""

    def abort(self) -> None:
        """End it."""


@dataclass(eq=False)
class Exchange:
    """A request while it arrives, waits and is answered."""

    method: str = ""
    target: str = ""  # path and query, as sent
    headers: dict[str, str] = field(default_factory=dict)  # names in lower case
    body: list[bytes] = field(default_factory=list)
    body_bytes: int = 0  # held
    received_bytes: int = 0  # of the body
    began: float = field(default_factory=time.perf_counter)
    milliseconds: dict[str, float] = field(default_factory=dict)  # of decode, queue and infer
    complete: bool = False  # the whole request has arrived
    started: bool = False
    answer: Answer | None = None
    sent: bool = False
    gone: bool = False  # the client left
    client: Client | None = None
    attempts: int = 0  # workers that died on it

    @cached_property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def announced_bytes(self) -> int | None:
        """Content-Length; None for a body in chunks."""
        return None if "transfer-encoding" in self.headers else int(self.headers.get("content-length") or 0)

    def add_target(self, target: bytes) -> None:
        """A part of it."""
        self.target += target.decode("latin-1")

    def add_header(self, name: bytes, value: bytes) -> None:
        """A header; the last of a name counts."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def identifier(self) -> str:
        """What the client calls the request, or else a number of ours that no other server process uses."""
        return self.headers.get(INFERENCE_ID, "")[:INFERENCE_ID_CHARACTERS] or f"{os.getpid()}-{next(_numbers)}"
