"""Connections that the server has lent to a worker while there is more to do than the workers can.

Passing each request on to a worker, and its answer back, costs a loaded machine one request in twenty, most of it by
waking the server between the workers' computations. So the server lends connections (see dispatcher.py), and the worker
reads plain requests from them itself: small, of one image, wholly in the socket. It looks at a request (MSG_PEEK) and
takes it out of the socket only when it has the answer; everything else, and a request whose worker dies, is still there
for the server when the connection is its own again.
"""

import contextlib
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

import httptools

from classifier.serving.accept import JSON, accepted_format
from classifier.serving.board import Board
from classifier.serving.content_types import IMAGES
from classifier.serving.exchange import INFERENCE_ID, Answer, Exchange
from classifier.serving.frames import Head, packed
from classifier.serving.inbox import Lent
from classifier.serving.refusals import Refusal

REQUEST_BYTES = 256 * 1024  # a larger request may not fit into a socket
LINGER_SECONDS = 0.002  # without anything to do, or for the rest of a request, before the server gets connections back
PAUSE_SECONDS = 0.0001  # between looks at a request that is arriving
REPORT_SECONDS = 0.1  # the server writes the log and counts; it is not woken for each request
SO_TIMESTAMPNS = 35  # Linux's: when a request arrived
TIMESTAMP = struct.Struct("@ll")
ANCILLARY_BYTES = socket.CMSG_SPACE(TIMESTAMP.size)
INVOCATIONS = "/invocations"
Ancillary = list[tuple[int, int, bytes]]
LEFT_TO_THE_SERVER = frozenset({"expect", "transfer-encoding", "upgrade"})  # requests with such headers


class Answering(Protocol):
    """What computes."""

    before_costly: Callable[[], None]

    def answer(self, head: Head, body: bytes) -> tuple[Head, bytes]: ...


class Borrowed:
    """A worker's lent connections.

    Args:
        channel: The socket to the server.
        board: Tells the server, should the worker die, what became of the request that it was at.
    """

    def __init__(self, worker: Answering, channel: socket.socket, board: Board) -> None:
        self._worker, self._channel, self._board = worker, channel, board
        self._connections: dict[int, socket.socket] = {}  # by number; the first was served longest ago
        self._threads: dict[int, int] = {}
        self._numbers: dict[int, int] = {}  # by descriptor
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        self._buffer = memoryview(bytearray(REQUEST_BYTES))
        self._arriving: dict[int, float] = {}  # connections with the beginning of a request, and since when
        self._served: list[list[Any]] = []
        self._oldest = 0.0  # when the first of them was answered
        self._current = 0
        worker.before_costly = self._give_back_others

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, lent: Lent) -> None:
        """A connection."""
        number, descriptor = lent.number, lent.descriptor
        connection = socket.socket(fileno=descriptor)
        if sys.platform == "linux":
            connection.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._connections[number], self._numbers[descriptor] = connection, number
        self._threads[number] = lent.threads
        self._poll.register(descriptor, select.POLLIN)

    def serve_next(self, *, wait: bool) -> None:
        """Answer the request of one connection.

        Where there is none, wait a moment for one, or for the server; then give all connections back.
        """
        ready = self._ready(0.0) or (self._ready(LINGER_SECONDS) if wait else set())
        served = any(number in ready and self._serve(number) for number in list(self._connections))
        if wait and not ready:
            self.give_back_all()
        elif wait and not served and self._arriving:
            time.sleep(PAUSE_SECONDS)
        if self._served and time.monotonic() - self._oldest > REPORT_SECONDS:
            self._report()

    def _ready(self, seconds: float) -> set[int]:
        """Numbers of connections with something to read; 0 for the server."""
        return {self._numbers.get(descriptor, 0) for descriptor, _ in self._poll.poll(1000 * seconds)}

    def _serve(self, number: int) -> bool:
        """Whether that took time, or else the request is still arriving."""
        connection = self._connections[number]
        try:
            count, ancillary, _, _ = connection.recvmsg_into(
                [self._buffer], ANCILLARY_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT
            )
        except OSError:
            count = 0
        request = plain_request(self._buffer[:count]) if 0 < count < REQUEST_BYTES else None
        if request == "arriving":
            now = time.monotonic()
            if now < self._arriving.setdefault(number, now) + LINGER_SECONDS:
                return False
        self._arriving.pop(number, None)
        if not isinstance(request, PlainRequest):
            self.give_back([number])
            return True
        self._answer(number, request, count, ancillary)
        return True

    def _answer(self, number: int, request: "PlainRequest", count: int, ancillary: Ancillary) -> None:
        connection = self._connections.pop(number)
        self._connections[number] = connection  # as the last
        began = time.time()
        arrived = min(arrival(ancillary) or began, began)
        self._current = number
        self._board.begin(number)
        head, body = self._worker.answer(request.head | {"threads": self._threads[number]}, request.body)
        content_type = request.media_type if head["status"] == 200 else JSON
        answer = Answer(head["status"], body, content_type).rendered("POST", keep_alive=True)
        self._board.answer(number)
        take_out(connection, self._buffer[:count])
        rest = unsent(connection, answer)
        self._board.end()
        self._current = 0
        self._note(request, head, queue_ms=1000 * (began - arrived), total_ms=1000 * (time.time() - arrived))
        if rest:
            self.give_back([number], rest)

    def _note(self, request: "PlainRequest", head: Head, *, queue_ms: float, total_ms: float) -> None:
        if not self._served:
            self._oldest = time.monotonic()
        computed = {name: head[name] for name in ("decode_ms", "infer_ms", "best", "scores") if name in head}
        served = {"status": head["status"], "bytes": len(request.body), "queue_ms": queue_ms, "total_ms": total_ms}
        self._served.append([request.identifier, served | computed])

    def _report(self) -> None:
        message = packed({"served": self._served}, 0)
        self._served = []
        self._channel.sendall(message)

    def _give_back_others(self) -> None:
        """Nobody shall wait for what takes long."""
        self.give_back([number for number in self._connections if number != self._current])

    def give_back_all(self) -> None:
        """Every connection."""
        self.give_back(list(self._connections))

    def give_back(self, numbers: list[int], rest: bytes = b"") -> None:
        """Connections; `rest` is what the first one's client has not taken of its answer."""
        if not numbers:
            return
        if self._served:
            self._report()
        for number in numbers:
            connection = self._connections.pop(number)
            self._poll.unregister(connection)
            del self._numbers[connection.fileno()], self._threads[number]
            self._arriving.pop(number, None)
            connection.close()  # it stays open in the server
        self._channel.sendall(packed({"returned": numbers}, len(rest)) + rest)


def take_out(connection: socket.socket, request: memoryview) -> None:
    """Read what has been looked at; a connection that does not give it any more is at its end."""
    taken = 0
    while taken < len(request):
        try:
            count = connection.recv_into(request[taken:])
        except OSError:
            count = 0
        if not count:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            return
        taken += count


def unsent(connection: socket.socket, answer: bytes) -> bytes:
    """Send, without waiting; what the client does not take. Of one that has left, nothing is kept."""
    try:
        return answer[connection.send(answer, socket.MSG_DONTWAIT) :]
    except BlockingIOError:
        return answer
    except OSError:
        return b""


def arrival(ancillary: Ancillary) -> float | None:
    """When the request's last bytes arrived, in seconds since 1970; None where the system does not tell."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS) and len(data) == TIMESTAMP.size:
            seconds, nanoseconds = TIMESTAMP.unpack(data)
            return float(seconds + nanoseconds / 1e9)
    return None


class PlainRequest:
    """One that a worker may answer by itself.

    Args:
        exchange: A whole POST to /invocations.
        media_type: Of its answer.
    """

    def __init__(self, exchange: Exchange, media_type: str) -> None:
        self.body = exchange.body[0] if len(exchange.body) == 1 else b"".join(exchange.body)
        self.media_type = media_type
        self.identifier = exchange.headers.get(INFERENCE_ID, "")
        self.head: Head = {
            "id": 0,
            "content_type": exchange.headers["content-type"],
            "accept": exchange.headers.get("accept", "*/*"),
        }


def plain_request(data: memoryview) -> PlainRequest | Literal["arriving"] | None:
    """What `data` holds, if that is one whole request of one image, or may become one; None for anything else."""
    reading = Reading()
    try:
        reading.parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    exchange = reading.exchange
    headers = exchange.headers
    if not LEFT_TO_THE_SERVER.isdisjoint(headers) or (exchange.announced_bytes or 0) >= REQUEST_BYTES:
        return None
    if reading.is_arriving:
        return "arriving"
    if not reading.is_one or not exchange.body:
        return None
    if exchange.method != "POST" or exchange.path != INVOCATIONS or not reading.keeps_alive:
        return None
    if headers.get("content-type", "").partition(";")[0].strip().lower() not in IMAGES:
        return None
    try:
        return PlainRequest(exchange, accepted_format(headers.get("accept", "*/*")).media_type)
    except Refusal:
        return None


class Reading:
    """A request, as httptools reads it."""

    def __init__(self) -> None:
        self.exchange = Exchange()
        self.parser = httptools.HttpRequestParser(self)
        self.keeps_alive = False  # whether another request may follow
        self._begun, self._ended = 0, 0

    @property
    def is_one(self) -> bool:
        """Whether that was one whole request, and nothing else."""
        return self._begun == self._ended == 1

    @property
    def is_arriving(self) -> bool:
        """Whether there is the beginning of one."""
        return self._begun == 1 and self._ended == 0

    def on_message_begin(self) -> None:
        self._begun += 1

    def on_url(self, url: bytes) -> None:
        self.exchange.add_target(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.exchange.add_header(name, value)

    def on_headers_complete(self) -> None:
        self.exchange.method = self.parser.get_method().decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self.exchange.body.append(body)

    def on_message_complete(self) -> None:
        self._ended += 1
        self.keeps_alive = self.parser.should_keep_alive()  # which knows only now
