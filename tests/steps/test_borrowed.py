"""Connections that are lent to workers: what a worker answers by itself, what it gives back, and what that costs."""

import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from classifier.serving import borrowed
from classifier.serving.board import Board, new_board_file
from classifier.serving.borrowed import LINGER_SECONDS, REQUEST_BYTES, Borrowed, PlainRequest, plain_request
from classifier.serving.frames import FrameReader, Head
from classifier.serving.inbox import Lent
from tests.steps.prepared_data import Trained
from tests.steps.server_process import PATIENCE_SECONDS, Server, picture

CLIENTS, KILLS = 8, 3


def request(
    body: bytes = b"image",
    *,
    method: str = "POST",
    path: str = "/invocations",
    kind: str = "image/jpeg",
    more: str = "",
) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("data", "is_plain"),
    [
        (request(), True),
        (request(kind="IMAGE/PNG; a=b"), True),
        (request(more="Accept: text/csv\r\n"), True),
        (request(path="/invocations?x=1"), True),
        (request()[:-1], False),  # not whole
        (request() + b"P", False),  # and another
        (request() + request(), False),
        (request(b""), False),
        (request(method="GET"), False),
        (request(path="/ping"), False),
        (request(kind="application/json"), False),
        (request(more="Accept: audio/wav\r\n"), False),
        (request(more="Connection: close\r\n"), False),
        (request(more="Expect: 100-continue\r\n"), False),
        (request(more="Connection: Upgrade\r\nUpgrade: h2c\r\n"), False),
        (request().replace(b"HTTP/1.1", b"HTTP/1.0"), False),
        (request().replace(b"Content-Length: 5", b"Transfer-Encoding: chunked").replace(b"image", b"0\r\n\r\n"), False),
        (b"nonsense\r\n\r\n", False),
        (b"", False),
    ],
)
def test_a_worker_answers_whole_requests_of_one_image_and_nothing_else(data: bytes, is_plain: bool) -> None:
    assert isinstance(plain_request(memoryview(data)), PlainRequest) == is_plain


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (request()[:-1], "arriving"),
        (request()[:30], "arriving"),
        (request(more="Expect: 100-continue\r\n")[:-5], None),
        (request(bytes(REQUEST_BYTES))[:1000], None),  # will be too large
        (b"GARBAGE", None),
    ],
)
def test_only_what_may_become_plain_is_waited_for(data: bytes, found: str | None) -> None:
    assert plain_request(memoryview(data)) == found


class Fake:
    """Computes what it is told to."""

    def __init__(self) -> None:
        self.before_costly: Callable[[], None] = lambda: None
        self.heads: list[Head] = []
        self.compute: Callable[[bytes], bytes] = lambda body: body

    def answer(self, head: Head, body: bytes) -> tuple[Head, bytes]:
        self.heads.append(head)
        return {"id": 0, "status": 200, "decode_ms": 1.0, "infer_ms": 2.0, "best": [0], "scores": [1.0]}, self.compute(
            body
        )


class Bench:
    """What a worker has, with the server's and the clients' ends in hand."""

    def __init__(self) -> None:
        self.server, channel = socket.socketpair()
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)  # as the server has it
        self.server.settimeout(PATIENCE_SECONDS)
        self.worker, self.clients = Fake(), dict[int, socket.socket]()
        with new_board_file() as file:
            self.board = Board(file.fileno())
        self.channel, self.reader = channel, FrameReader()
        self.borrowed = Borrowed(self.worker, channel, self.board)

    def lend(self, number: int, threads: int = 1) -> socket.socket:
        client, lent = socket.socketpair()
        client.settimeout(PATIENCE_SECONDS)
        self.clients[number] = client
        self.borrowed.add(Lent(number, lent.detach(), threads))
        return client

    def said(self) -> list[tuple[Head, bytes]]:
        self.server.setblocking(False)
        try:
            return list(self.reader.feed(self.server.recv(1 << 20)))
        except BlockingIOError:
            return []


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.borrowed.give_back_all()
    for one in (bench.server, bench.channel, *bench.clients.values()):
        one.close()


def test_requests_are_answered_in_turn_and_reported_together(bench: Bench) -> None:
    first, second = bench.lend(1, threads=4), bench.lend(2)
    for client, body in ((first, b"one"), (second, b"two")):
        client.sendall(request(body, more="X-Amzn-SageMaker-Inference-Id: mine\r\n"))
    bench.borrowed.serve_next(wait=True)
    first.sendall(request(b"three"))
    bench.borrowed.serve_next(wait=True)
    assert second.recv(1000).endswith(b"\r\n\r\ntwo")  # the other one's turn came first
    bench.borrowed.serve_next(wait=True)
    assert first.recv(1000).count(b"HTTP/1.1 200 OK\r\n") == 2
    assert [head["threads"] for head in bench.worker.heads] == [4, 1, 4]
    assert bench.said() == []
    bench.borrowed.serve_next(wait=True)  # nothing comes within LINGER_SECONDS
    (served, _), (returned, rest) = bench.said()
    assert [(name, of["status"], of["bytes"]) for name, of in served["served"]] == [
        ("mine", 200, 3),
        ("mine", 200, 3),
        ("", 200, 5),
    ]
    assert (sorted(returned["returned"]), rest) == ([1, 2], b"")
    assert all(of["total_ms"] >= of["queue_ms"] >= 0 for _, of in served["served"])
    assert LINGER_SECONDS < 0.1


def test_what_is_not_plain_stays_in_the_socket_for_the_server(bench: Bench) -> None:
    client, lent = socket.socketpair()
    bench.borrowed.add(Lent(7, os.dup(lent.fileno()), 1))
    client.sendall(request(kind="application/json"))
    bench.borrowed.serve_next(wait=True)
    assert bench.said() == [({"returned": [7]}, b"")]
    assert lent.recv(1000) == request(kind="application/json")
    assert len(bench.borrowed) == 0
    client.close()
    lent.close()


def test_a_request_that_is_arriving_is_waited_for_a_moment_but_holds_up_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = borrowed.LINGER_SECONDS
    monkeypatch.setattr(borrowed, "LINGER_SECONDS", 1.0)  # a busy machine may take longer for the rest
    slow, quick = bench.lend(1), bench.lend(2)
    whole = request(b"slow")
    slow.sendall(whole[:-2])
    quick.sendall(request(b"quick"))
    bench.borrowed.serve_next(wait=True)
    assert quick.recv(1000).endswith(b"quick")
    bench.borrowed.serve_next(wait=True)
    slow.sendall(whole[-2:])
    bench.borrowed.serve_next(wait=True)
    assert slow.recv(1000).endswith(b"\r\n\r\nslow")
    monkeypatch.setattr(borrowed, "LINGER_SECONDS", moment)
    slow.sendall(whole[:-2])
    deadline = time.monotonic() + PATIENCE_SECONDS
    said: list[tuple[Head, bytes]] = []
    while {"returned": [1]} not in [head for head, _ in said] and time.monotonic() < deadline:
        bench.borrowed.serve_next(wait=False)
        said += bench.said()
    assert len(bench.borrowed) == 1  # the one that asks for nothing


def test_a_request_leaves_the_socket_with_its_answer_only(bench: Bench) -> None:
    client, lent = socket.socketpair()
    seen: list[tuple[bytes, int, int]] = []
    bench.borrowed.add(Lent(7, os.dup(lent.fileno()), 1))

    def compute(body: bytes) -> bytes:
        seen.append((lent.recv(1000, socket.MSG_PEEK), bench.board.begun, bench.board.answering))
        return body

    bench.worker.compute = compute
    client.sendall(request())
    bench.borrowed.serve_next(wait=True)
    assert seen == [(request(), 7, 0)]
    assert (bench.board.begun, bench.board.answering) == (0, 0)
    lent.setblocking(False)
    with pytest.raises(BlockingIOError):
        lent.recv(1)
    client.close()
    lent.close()


def test_nobody_waits_for_a_costly_image(bench: Bench) -> None:
    slow, _ = bench.lend(1), bench.lend(2)
    said: list[tuple[Head, bytes]] = []

    def compute(body: bytes) -> bytes:
        bench.worker.before_costly()
        said.extend(bench.said())
        return body

    bench.worker.compute = compute
    slow.sendall(request())
    bench.borrowed.serve_next(wait=True)
    assert said == [({"returned": [2]}, b"")]
    assert slow.recv(1000).endswith(b"image")
    assert len(bench.borrowed) == 1


def test_the_rest_of_an_answer_that_the_client_does_not_take_is_the_servers_to_send(bench: Bench) -> None:
    client = bench.lend(1)
    answer = bytes(range(256)) * 2000  # half a megabyte
    bench.worker.compute = lambda body: answer
    client.sendall(request())
    bench.borrowed.serve_next(wait=True)
    client.setblocking(False)
    received = client.recv(len(answer) * 2)
    messages: list[tuple[Head, bytes]] = []
    while not any("returned" in head for head, _ in messages):
        messages += bench.said()
    rest = messages[-1][1]
    assert messages[-1][0] == {"returned": [1]}
    assert (received + rest).endswith(answer) and rest


def test_a_client_that_left_is_given_back(bench: Bench) -> None:
    bench.lend(1).close()
    bench.borrowed.serve_next(wait=True)
    assert bench.said() == [({"returned": [1]}, b"")]
    assert bench.worker.heads == []


# with a server


class Load:
    """Clients that ask again as soon as they are answered, each on its own connection."""

    def __init__(self, server: Server, clients: int, body: bytes) -> None:
        self._server, self._body, self._end = server, body, threading.Event()
        self.statuses: Counter[int] = Counter()
        self.contents: set[bytes] = set()
        self.failures: list[Exception] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=PATIENCE_SECONDS)
        try:
            while not self._end.is_set():
                connection.request("POST", "/invocations", self._body, {"Content-Type": "image/jpeg"})
                answer = connection.getresponse()
                self.contents.add(answer.read())
                self.statuses[answer.status] += 1
                if answer.headers.get("connection") == "close":
                    return
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(error)
        finally:
            connection.close()

    def stop(self) -> None:
        self._end.set()
        self._join()

    def end(self) -> None:
        self._end.set()
        self.wait()

    def wait(self) -> None:
        self._join()
        assert self.failures == []

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)


def lines(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines() if line.startswith("{")]


def test_under_load_workers_get_the_connections_and_give_them_back_and_every_request_is_accounted_for(
    trained: Trained,
) -> None:
    server = Server(trained.model_dir).wait_until_ready().wait_for_workers(2)
    load = Load(server, CLIENTS, picture("JPEG", (300, 300)))
    server.wait_for("lent_connections", lambda lent: lent > CLIENTS // 2)
    load.end()
    server.wait_for("lent_connections", lambda lent: lent == 0)
    assert load.statuses.keys() == {200}
    assert len(load.contents) == 1
    asked = load.statuses.total()
    page = server.request("GET", "/metrics")[2].decode()
    assert f'classifier_requests_total{{status="200"}} {asked}\n' in page
    assert f'classifier_seconds_count{{stage="queue"}} {asked}\n' in page
    server.process.terminate()
    code, stdout, stderr = server.end()
    assert (code, stderr) == (0, "")
    assert len(lines(stdout)) == asked
    assert len({line["id"] for line in lines(stdout)}) == asked


def test_a_single_client_is_lent_to_the_worker_that_has_all_cores(trained: Trained) -> None:
    server = Server(trained.model_dir).wait_until_ready().wait_for_workers(2)
    load = Load(server, 1, picture("JPEG", (300, 300)))
    server.wait_for("lent_connections", lambda lent: lent == 1)
    other = Load(server, 1, picture("JPEG", (300, 300)))
    time.sleep(0.2)
    other.end()
    load.end()
    assert load.statuses.keys() == other.statuses.keys() == {200}
    server.process.terminate()
    assert server.end()[0] == 0


def test_other_requests_on_a_lent_connection_are_answered_as_ever(trained: Trained) -> None:
    server = Server(trained.model_dir).wait_until_ready().wait_for_workers(2)
    good, large = picture("JPEG", (300, 300)), picture("JPEG") + bytes(REQUEST_BYTES)
    load = Load(server, CLIENTS, good)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_SECONDS)
    for _ in range(10):
        for method, path, body, kind, expected in (
            ("POST", "/invocations", good, "image/jpeg", 200),
            ("GET", "/ping", None, "", 200),
            ("POST", "/invocations", good, "image/jpeg", 200),
            ("POST", "/invocations", b"no image", "image/jpeg", 400),
            ("POST", "/invocations", good, "image/jpeg", 200),
            ("POST", "/invocations", b"text", "text/plain", 415),
            ("POST", "/invocations", large, "image/jpeg", 200),
        ):
            connection.request(method, path, body, {"Content-Type": kind})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == expected
            assert answer.headers.get("connection") is None
    connection.close()
    load.end()
    assert load.statuses.keys() == {200}
    server.process.terminate()
    assert server.end()[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_that_dies_costs_at_most_the_answer_that_it_was_writing(trained: Trained) -> None:
    server = Server(trained.model_dir).wait_until_ready().wait_for_workers(2)
    load = Load(server, CLIENTS, picture("JPEG", (600, 600)))
    for _ in range(KILLS):
        server.wait_for("ready_workers", lambda ready: ready == 2)
        server.wait_for("lent_connections", lambda lent: lent > CLIENTS // 2)
        os.kill(server.workers()[0], signal.SIGKILL)
        time.sleep(0.05)
    load.stop()
    assert load.statuses.keys() == {200}
    assert len(load.failures) <= KILLS
    server.process.terminate()
    code, stdout, _ = server.end()
    assert code == 0
    assert stdout.count("ended with status -9: another takes its place") == KILLS


def test_sigterm_with_lent_connections_answers_all_and_closes_them(trained: Trained) -> None:
    server = Server(trained.model_dir).wait_until_ready().wait_for_workers(2)
    load = Load(server, CLIENTS, picture("JPEG", (300, 300)))
    server.wait_for("lent_connections", lambda lent: lent > CLIENTS // 2)
    server.process.terminate()
    load.wait()  # each until its connection is closed with an answer
    assert load.statuses.keys() == {200}
    code, stdout, stderr = server.end()
    assert (code, stderr) == (0, "")
    assert len(lines(stdout)) == load.statuses.total()


def test_a_short_queue_or_a_small_limit_of_bodies_lends_nothing(trained: Trained) -> None:
    for settings in ({"MAX_QUEUED_REQUESTS": "20"}, {"MAX_REQUEST_MEGABYTES": "0.1"}):
        server = Server(trained.model_dir, **settings).wait_until_ready().wait_for_workers(2)
        load = Load(server, CLIENTS, picture("JPEG", (300, 300)))
        for _ in range(10):
            assert server.gauge("lent_connections") == 0
        load.end()
        server.process.terminate()
        assert server.end()[0] == 0
