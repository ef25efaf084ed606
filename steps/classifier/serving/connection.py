"""HTTP/1.1 on one connection: requests in, answers out, in turn.

httptools (llhttp, Node's parser) reads; what is here keeps limits that a parser does not: on bytes, on time, on memory.
A client that is still sending loses an answer that comes with a closed connection. So a refused body is answered at
once, then read on for a while and thrown away, and only a client that does not stop is cut off.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

import httptools

from classifier.serving.exchange import CLIENT_CLOSED_REQUEST, Answer, Exchange
from classifier.serving.refusals import Refusal

HEAD_BYTES = 32 * 1024
FRAMING_BYTES = 64 * 1024  # that chunks and trailers may add to a body, beyond as much as the body itself
DISCARDED_SHARE = 8  # times the limit of a body, at most
DISCARDING_SECONDS = 10.0
READING_SECONDS = 30.0  # from a request's first byte to its last
IDLE_SECONDS = 75.0  # between requests
WRITING_SECONDS = 30.0
GRACE_SECONDS = 0.25  # for a request that was on its way on an idle connection when the server was told to end
PIPELINED = 16  # requests that may wait for their turn on one connection
RECEIVED = memoryview(bytearray(64 * 1024))
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Service(Protocol):
    """What answers the requests of all connections."""

    max_body_bytes: int
    held_bytes: int  # of bodies, in all connections
    max_held_bytes: int
    max_connections: int
    draining: bool
    connections: "set[Connection]"

    def check(self, exchange: Exchange) -> None:
        """Refuse a request whose head tells enough; raises Refusal."""

    def overloaded(self) -> Refusal:
        """Refuse a body that there is no memory for."""

    def start(self, exchange: Exchange, respond: Callable[[Answer], None]) -> None:
        """Answer a complete request, now or later."""

    def finished(self, exchange: Exchange, status: int) -> None:
        """Take note of an answer that was sent, or of a client that left."""


class Connection(asyncio.BufferedProtocol):
    """A client."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._exchanges: deque[Exchange] = deque()  # the first is being answered; the last may still arrive
        self._parser = httptools.HttpRequestParser(self)
        self._deadline = time.monotonic() + IDLE_SECONDS
        self._raw_bytes = 0  # of the request that is arriving
        self._new_bytes = 0  # just received, if a request begins with them
        self._closing = False  # nothing more is read as a request
        self._keep_alive = True
        self._pumping = False
        self._paused = False
        self._lent = False
        self._taken_back = float("-inf")  # when
        self._attempts = 0  # of workers at the next request, while it was lent
        self._transport: asyncio.Transport

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if len(self._service.connections) >= self._service.max_connections:
            self._refuse_and_close(self._service.overloaded())
            transport.close()
        self._service.connections.add(self)

    def connection_lost(self, exception: Exception | None) -> None:
        self._service.connections.discard(self)
        for exchange in self._exchanges:
            exchange.gone = True
            self._release(exchange)
            if exchange.headers and not exchange.answer:
                self._service.finished(exchange, CLIENT_CLOSED_REQUEST)
        self._exchanges.clear()

    def pause_writing(self) -> None:
        self._paused = True  # the client does not read: it gets no further answers meanwhile
        self._deadline = time.monotonic() + WRITING_SECONDS

    def resume_writing(self) -> None:
        self._paused = False
        arriving = self._exchanges and not self._exchanges[-1].complete
        self._deadline = time.monotonic() + READING_SECONDS if arriving else float("inf")
        self._pump()

    def get_buffer(self, size_hint: int) -> memoryview:
        return RECEIVED  # of all connections, since what arrived is read before anything else happens

    def buffer_updated(self, count: int) -> None:
        self._raw_bytes += count
        if self._closing:
            if self._raw_bytes > DISCARDED_SHARE * self._service.max_body_bytes:
                self._transport.abort()
            return
        self._new_bytes = 0 if self._exchanges and not self._exchanges[-1].complete else count
        try:
            self._parser.feed_data(RECEIVED[:count])
        except httptools.HttpParserUpgrade:
            self._closing = True  # the request is answered, the upgrade is not made
        except httptools.HttpParserError as error:
            if not isinstance(error.__context__, Refusal):
                cause = str(error) or type(error).__name__
                self._refuse_and_close(Refusal(400, f"The request is no HTTP/1.1: {cause.rstrip('.')}."))
            else:
                self._refuse_and_close(error.__context__)
        else:
            self._limit_framing()

    # httptools

    def on_message_begin(self) -> None:
        if len(self._exchanges) == PIPELINED:
            raise Refusal(400, f"More than {PIPELINED} requests at once on one connection: wait for their answers.")
        self._exchanges.append(Exchange(client=self, attempts=self._attempts))
        self._attempts = 0
        self._raw_bytes, self._new_bytes = self._new_bytes, 0  # of others that begin with it nothing is known yet
        self._deadline = time.monotonic() + READING_SECONDS

    def on_url(self, url: bytes) -> None:
        self._exchanges[-1].add_target(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._exchanges[-1].method:  # else it is a trailer
            self._exchanges[-1].add_header(name, value)

    def on_headers_complete(self) -> None:
        exchange = self._exchanges[-1]
        exchange.method = self._parser.get_method().decode("latin-1")
        expects = "expect" in exchange.headers
        self._keep_alive = self._keep_alive and "upgrade" not in exchange.headers
        try:
            self._service.check(exchange)
        except Refusal as refusal:
            exchange.answer = Answer.refusing(refusal)
            announced = exchange.announced_bytes
            if expects or announced is None or announced > self._service.max_body_bytes:
                self._keep_alive = False
            self._pump()
            if expects:  # it waits to be told to go on
                self._transport.close()
        else:
            if expects and exchange is self._exchanges[0]:
                self._transport.write(CONTINUE)

    def on_body(self, body: bytes) -> None:
        exchange = self._exchanges[-1]
        exchange.received_bytes += len(body)
        if exchange.answer:
            return
        exchange.body.append(body)
        exchange.body_bytes += len(body)
        self._service.held_bytes += len(body)
        if exchange.body_bytes > self._service.max_body_bytes:
            raise body_too_large(self._service.max_body_bytes)
        if self._service.held_bytes > self._service.max_held_bytes:
            raise self._service.overloaded()

    def on_message_complete(self) -> None:
        self._exchanges[-1].complete = True
        self._keep_alive = self._keep_alive and self._parser.should_keep_alive()
        if not self._paused:
            self._deadline = float("inf")
        self._pump()

    # answers

    def _pump(self) -> None:
        """Answer requests in turn, as far as they have arrived."""
        if self._pumping:
            return
        self._pumping = True
        while self._exchanges and not self._paused and self._finish(self._exchanges[0]):
            self._exchanges.popleft()
        self._pumping = False
        if self._exchanges or self._paused or self._transport.is_closing():
            return
        if not self._keep_alive:
            self._transport.close()
        self._deadline = time.monotonic() + IDLE_SECONDS

    def _finish(self, exchange: Exchange) -> bool:
        """Bring the first exchange further; whether that was all."""
        if exchange.complete and not exchange.started and not exchange.answer:
            exchange.started = True
            self._service.start(exchange, partial(self._respond, exchange))
        if exchange.answer and not exchange.sent:
            exchange.sent = True
            self._send(exchange, exchange.answer)
        return exchange.sent and exchange.complete

    def _respond(self, exchange: Exchange, answer: Answer) -> None:
        if not exchange.gone:
            exchange.answer = answer
            self._pump()

    def _send(self, exchange: Exchange, answer: Answer) -> None:
        self._release(exchange)
        if self._service.draining:
            self._keep_alive = False
        if not self._transport.is_closing():
            self._transport.write(answer.rendered(exchange.method, keep_alive=self._keep_alive))
        self._service.finished(exchange, answer.status)

    def _refuse_and_close(self, refusal: Refusal) -> None:
        """Answer what cannot be read on; then read and discard for a while, so that the answer arrives."""
        self._closing, self._keep_alive = True, False
        last = self._exchanges[-1] if self._exchanges else Exchange()
        if last.complete:
            return  # once it is answered, the connection ends
        if len(self._exchanges) > 1:
            self._release(self._exchanges.pop())  # the same for those before it
            return
        self._exchanges = deque([last])
        self._deadline = time.monotonic() + DISCARDING_SECONDS
        last.answer = last.answer or Answer.refusing(refusal)
        self._pump()
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _limit_framing(self) -> None:
        """Refuse a head, or chunks and trailers, that do not end."""
        if not self._exchanges or self._exchanges[-1].complete:
            return
        exchange = self._exchanges[-1]
        if not exchange.method and self._raw_bytes > HEAD_BYTES:
            self._refuse_and_close(Refusal(431, f"The request's head is larger than {HEAD_BYTES // 1024} KB."))
        elif exchange.method and not exchange.answer and self._raw_bytes > 2 * exchange.body_bytes + FRAMING_BYTES:
            self._refuse_and_close(Refusal(400, "The body's chunks are mostly framing: send larger ones."))
        elif exchange.answer and self._raw_bytes > DISCARDED_SHARE * self._service.max_body_bytes:
            self._transport.abort()

    def _release(self, exchange: Exchange) -> None:
        self._service.held_bytes -= exchange.body_bytes
        exchange.body, exchange.body_bytes = [], 0

    # the service's clock

    def check_deadline(self, now: float) -> None:
        """End what takes too long: a request that does not arrive, an answer that is not read, an idle client."""
        if now < self._deadline:
            return
        arriving = self._exchanges and not self._exchanges[-1].complete and not self._exchanges[-1].answer
        if arriving and not self._closing:
            self._refuse_and_close(Refusal(408, f"The request did not arrive within {READING_SECONDS:g} s."))
        else:
            self._transport.abort()

    def close_if_idle(self, now: float) -> None:
        """Close the connection unless a request is arriving or being answered, or may have come while it was lent."""
        if not self._exchanges and not self._lent and now > self._taken_back + GRACE_SECONDS:
            self._transport.close()

    # lending to a worker

    @property
    def is_lendable(self) -> bool:
        """Whether nothing is arriving, waiting or unsent."""
        busy = self._exchanges or self._paused or self._closing or not self._keep_alive or self._lent
        return not busy and not self._transport.is_closing() and not self._transport.get_write_buffer_size()

    def lend(self) -> int:
        """Read nothing until it is taken back; its descriptor."""
        self._lent, self._deadline = True, float("inf")
        self._transport.pause_reading()
        return int(self._transport.get_extra_info("socket").fileno())

    def take_back(self, *, unsent: bytes, attempted: bool) -> None:
        """Go on reading; the worker has answered every request that it took out of the socket."""
        self._lent, self._taken_back = False, time.monotonic()
        self._deadline = self._taken_back + IDLE_SECONDS
        self._attempts = int(attempted)
        self._transport.resume_reading()
        if unsent:
            self._transport.write(unsent)

    def abort(self) -> None:
        """End it: half an answer may have been sent."""
        self._lent = False
        self._transport.abort()


def body_too_large(limit: int) -> Refusal:
    """More bytes than accepted, announced or sent."""
    return Refusal(413, f"The request is larger than {limit / (1024 * 1024):g} MB: send a smaller image.")
