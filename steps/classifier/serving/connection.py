"""uvicorn's HTTP/1.1 with the limits that it lacks: on a head's bytes, on the time that a request may take to arrive.

A client that is still sending loses an answer that comes with a closed connection. So a body that is refused is
answered at once, then read on for a while and thrown away, and only a client that does not stop is cut off.
"""

import asyncio
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from classifier.serving.app import Endpoint

HEAD_BYTES = 32 * 1024
FRAMING_BYTES = 64 * 1024  # that chunks and trailers may add to a body, beyond as much as the body itself
DISCARDED_SHARE = 8  # times the limit of a body, at most
READING_SECONDS = 30.0  # from a request's first byte to its last
DISCARDING_SECONDS = 10.0
GRACE_SECONDS = 0.25  # for a request that was on its way on an idle connection when the server was told to end
MAX_CONNECTIONS = 1000


class Connection(HttpToolsProtocol):
    """A client."""

    def __init__(self, endpoint: Endpoint, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._endpoint = endpoint
        self._arriving = ""  # the part of the last request, "head" or "body", that is not all there
        self._bytes, self._body_bytes = 0, 0  # of that request, and of its body
        self._new_bytes = 0  # just received, if a request begins with them
        self._is_closing = False  # nothing more is read as a request
        self._deadline: asyncio.TimerHandle | None = None
        self.refused = 0  # the status that a request's body was refused with here

    @property
    def is_lost(self) -> bool:
        """Whether nobody waits for an answer."""
        return self.parser is None or self.transport.is_closing()

    @property
    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503, "The endpoint has more connections than it can hold: try again.")

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        if not self._is_closing:
            self._new_bytes = 0 if self._arriving else len(data)
            super().data_received(data)
        if self._is_closing or (self._arriving == "body" and self._is_answered):
            if self._bytes > DISCARDED_SHARE * self._endpoint.max_body_bytes:
                self.transport.abort()
        elif self._arriving == "head" and self._bytes > HEAD_BYTES:
            self._refuse(431, f"The request's head is larger than {HEAD_BYTES // 1024} KB.")
        elif self._arriving == "body" and self._bytes > 2 * self._body_bytes + FRAMING_BYTES:
            self._refuse(400, "The body's chunks are mostly framing: send larger ones.")
        if self._arriving and self._deadline is None:
            self._set_deadline(READING_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_deadline(None)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self._arriving, self._body_bytes = "head", 0
        self._bytes, self._new_bytes = self._new_bytes, 0  # of others that begin with it nothing is known yet

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._arriving == "head":  # else it is a trailer
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._arriving = "body"
        if self._endpoint.is_draining or any(name == b"upgrade" for name, _ in self.headers):
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._arriving = ""
        self._set_deadline(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        length = next((int(value) for name, value in self.headers if name == b"content-length"), float("inf"))
        if self._arriving == "body" and (self.expect_100_continue or length > self._endpoint.max_body_bytes):
            self._close_slowly()  # else what is left of it is read and thrown away, and the connection goes on

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "The request is no HTTP/1.1.")

    def timeout_keep_alive_handler(self) -> None:
        self.transport.abort()  # a client that does not read its answer would keep a connection that is only closed

    def shutdown(self) -> None:
        if self._is_answered:
            self.loop.call_later(GRACE_SECONDS, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def _close_if_idle(self) -> None:
        if self._is_answered:
            self.transport.close()

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self._end_late) if seconds else None

    def _end_late(self) -> None:
        if self._is_closing or (self._arriving == "body" and self._is_answered):
            self.transport.abort()
        else:
            self._refuse(408, f"The request did not arrive within {READING_SECONDS:g} s.")

    def _refuse(self, status: int, sentence: str) -> None:
        """Answer what cannot be read on, once all before it has been answered; read no further request."""
        self._is_closing = True
        if self._arriving != "body" and not self._is_answered:
            self.cycle.keep_alive = False  # an earlier request's answer is the last
        elif self._arriving == "body" and (self.pipeline or self.cycle.response_started):
            self.transport.abort()
        else:
            if self._arriving == "body":  # the application is told that the client has left
                self.refused, self.cycle.disconnected = status, True
                self.cycle.message_event.set()
            else:
                self._endpoint.log("", "", status)
            body = orjson.dumps({"error": sentence})
            lines = [f"content-length: {len(body)}", "content-type: application/json", "connection: close"]
            lines += ["retry-after: 1"] if status == 503 else []
            self.transport.write(STATUS_LINE[status] + "\r\n".join([*lines, "", ""]).encode() + body)
            self._close_slowly()

    def _close_slowly(self) -> None:
        """Send no more, and read and throw away for a while, so that what was sent arrives."""
        self._is_closing = True
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        if not self.transport.is_closing():
            self.transport.write_eof()
        self._set_deadline(DISCARDING_SECONDS)
