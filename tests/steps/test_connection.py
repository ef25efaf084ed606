"""HTTP on one connection, with the server's limits, against a service that answers from a table."""

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from classifier.serving import connection
from classifier.serving.connection import Connection
from classifier.serving.exchange import Answer, Exchange
from classifier.serving.refusals import Refusal

LIMIT = 1000
BIG = 10_000_000


class Echo:
    """Answers with the request's body, at once or when told to."""

    max_body_bytes, max_held_bytes, max_connections = LIMIT, 3000, 2

    def __init__(self) -> None:
        self.held_bytes = 0
        self.draining = False
        self.started = 0
        self.connections: set[Connection] = set()
        self.waiting: list[tuple[Exchange, Callable[[Answer], None]]] = []
        self.log: list[tuple[str, int]] = []
        self.attempts: list[int] = []

    def check(self, exchange: Exchange) -> None:
        if exchange.path == "/no":
            raise Refusal(415, "No.")
        if (exchange.announced_bytes or 0) > LIMIT:
            raise connection.body_too_large(LIMIT)

    def overloaded(self) -> Refusal:
        return Refusal(503, "Full.", {"retry-after": "1"})

    def start(self, exchange: Exchange, respond: Callable[[Answer], None]) -> None:
        self.attempts.append(exchange.attempts)
        if exchange.path == "/later":
            self.waiting.append((exchange, respond))
        else:
            self.started += 1
            respond(
                Answer(200, b"".join(exchange.body) * (BIG if exchange.path == "/big" else 1) or b"-", "text/plain")
            )

    def finished(self, exchange: Exchange, status: int) -> None:
        self.log.append((exchange.path, status))


Talk = Callable[[Echo, asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


def talk(conversation: Talk) -> Echo:
    """Run a conversation with a server on a free port."""
    service = Echo()

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Connection(service), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        async with asyncio.timeout(10):
            await conversation(service, reader, writer)
        writer.close()
        server.close()

    asyncio.run(run())
    return service


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def test_requests_sent_together_are_answered_in_turn() -> None:
    async def conversation(service: Echo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post("/later", b"one") + post("/", b"two") + post("/no", b"three") + post("/", b"four"))
        while not service.waiting:
            await asyncio.sleep(0.001)
        service.waiting[0][1](Answer(200, b"at last"))
        answers = [await answer(reader) for _ in range(4)]
        assert [(status, body) for status, _, body in answers] == [
            (200, b"at last"),
            (200, b"two"),
            (415, b'{"error": "No."}'),
            (200, b"four"),
        ]

    service = talk(conversation)
    assert service.log == [("/later", 200), ("/", 200), ("/no", 415), ("/", 200)]
    assert service.held_bytes == 0


def test_a_lent_connection_is_left_alone_until_it_is_taken_back() -> None:
    async def conversation(service: Echo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post("/", b"one"))
        assert (await answer(reader))[2] == b"one"
        [connection] = service.connections
        assert connection.is_lendable
        lent = socket.socket(fileno=os.dup(connection.lend()))
        assert not connection.is_lendable
        writer.write(post("/", b"two"))
        await asyncio.sleep(0.05)
        connection.check_deadline(time.monotonic() + 1e6)  # it is the worker's time
        connection.close_if_idle(time.monotonic() + 1e6)
        assert lent.recv(1000, socket.MSG_PEEK) == post("/", b"two")
        lent.close()
        connection.take_back(unsent=b"rest", attempted=True)
        connection.close_if_idle(time.monotonic())  # a request may have come while it was lent
        assert await reader.readexactly(4) == b"rest"
        assert (await answer(reader))[2] == b"two"
        writer.write(post("/later", b"three"))
        while not service.waiting:
            await asyncio.sleep(0.001)
        assert not connection.is_lendable
        service.waiting[0][1](Answer(200, b"done"))
        assert (await answer(reader))[2] == b"done"

    service = talk(conversation)
    assert service.log == [("/", 200), ("/", 200), ("/later", 200)]
    assert service.attempts == [0, 1, 0]  # a worker died on the second


def test_a_request_that_arrives_byte_by_byte_is_answered() -> None:
    async def conversation(service: Echo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in post("/path?query", b"slow"):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await answer(reader))[2] == b"slow"

    assert talk(conversation).log == [("/path", 200)]


def test_a_refused_body_is_answered_before_it_has_arrived_and_the_connection_goes_on() -> None:
    async def conversation(service: Echo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = post("/no", b"x" * 500)
        writer.write(request[:-100])
        assert (await answer(reader))[0] == 415
        writer.write(request[-100:] + post("/", b"next"))
        assert (await answer(reader))[::2] == (200, b"next")

    talk(conversation)


@pytest.mark.parametrize("head", ["Connection: close", "Expect: 100-continue"])
def test_a_client_that_asks_to_close_or_to_go_on_is_understood(head: str) -> None:
    async def conversation(service: Echo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = post("/", b"body", head)
        writer.write(request[:-4])
        if "Expect" in head:
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(request[-4:])
        status, headers, body = await answer(reader)
        assert (status, body) == (200, b"body")
        assert ("connection" in headers) == ("close" in head)
        if "close" in head:
            assert await reader.read() == b""

    talk(conversation)


def test_an_upgrade_is_not_made_but_the_request_is_answered() -> None:
    async def conversation(service: Echo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nPRI * HTTP/2.0")
        status, headers, _ = await answer(reader)
        assert (status, headers["connection"]) == (200, "close")
        assert await reader.read() == b""

    talk(conversation)


REFUSED: dict[str, tuple[bytes, int, str]] = {
    "noise": (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, "The request is no HTTP/1.1: "),
    "two lengths": (
        post("/", b"a", "Content-Length: 2"),
        400,
        "The request is no HTTP/1.1: ",
    ),
    "a long head": (b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000, 431, "The request's head is larger than 32 KB."),
    "a long body": (post("/", b"x" * 1001), 413, "The request is larger than 0.000953674 MB: send a smaller image."),
    "a long body in chunks": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001,
        413,
        "The request is larger than 0.000953674 MB: send a smaller image.",
    ),
    "trailers without end": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * 70_000,
        400,
        "The body's chunks are mostly framing: send larger ones.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_request_is_refused_and_the_connection_ends(case: str) -> None:
    sent, status, sentence = REFUSED[case]

    async def conversation(service: Echo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        found, headers, body = await answer(reader)
        assert (found, headers["connection"]) == (status, "close")
        assert json.loads(body)["error"].startswith(sentence)
        assert await reader.read() == b""

    service = talk(conversation)
    assert service.held_bytes == 0


def test_too_many_requests_at_once_on_one_connection_end_it_after_those_that_were_accepted() -> None:
    async def conversation(service: Echo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post("/later", b"") + post("/", b"x") * 100)
        while not service.waiting:
            await asyncio.sleep(0.001)
        service.waiting[0][1](Answer(200, b"first"))
        assert (await reader.read()).count(b"HTTP/1.1 200 OK") == connection.PIPELINED

    talk(conversation)


def test_bodies_beyond_the_memory_for_them_are_answered_503() -> None:
    async def conversation(service: Echo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        service.held_bytes = 2500  # of others
        writer.write(post("/", b"x" * 600))
        status, headers, body = await answer(reader)
        assert (status, headers["retry-after"], body) == (503, "1", b'{"error": "Full."}')

    assert talk(conversation).held_bytes == 2500


def test_one_connection_too_many_is_answered_503() -> None:
    async def conversation(service: Echo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        others = [await asyncio.open_connection(*writer.get_extra_info("peername")) for _ in range(2)]
        assert (await answer(others[-1][0]))[0] == 503
        for _, other in others:
            other.close()

    talk(conversation)


def test_a_client_that_does_not_read_gets_no_further_answers_until_it_does() -> None:
    async def conversation(service: Echo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post("/big", b"x") * 5)
        while not service.started:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert service.started == 1
        for _ in range(5):
            assert len((await answer(reader))[2]) == BIG

    assert talk(conversation).started == 5


def test_a_client_that_leaves_is_noted_and_its_request_marked_as_gone() -> None:
    async def conversation(service: Echo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post("/later", b"x"))
        while not service.waiting:
            await asyncio.sleep(0.001)
        writer.close()
        while service.connections:
            await asyncio.sleep(0.001)
        exchange, respond = service.waiting[0]
        assert exchange.gone
        respond(Answer(200))

    service = talk(conversation)
    assert service.log == [("/later", 499)]
    assert service.held_bytes == 0


def test_a_request_that_does_not_arrive_is_answered_408() -> None:
    async def conversation(service: Echo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post("/", b"body")[:-1])
        while not service.held_bytes:
            await asyncio.sleep(0.001)
        (client,) = service.connections
        client.check_deadline(float("inf"))
        status, _, body = await answer(reader)
        assert (status, body) == (408, b'{"error": "The request did not arrive within 30 s."}')

    talk(conversation)


def test_an_idle_client_is_closed_without_a_word() -> None:
    async def conversation(service: Echo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not service.connections:
            await asyncio.sleep(0.001)
        (client,) = service.connections
        client.check_deadline(0)
        client.check_deadline(float("inf"))
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)

    talk(conversation)
