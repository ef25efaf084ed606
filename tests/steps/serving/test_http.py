"""HTTP as clients speak it, and as nobody should: what is answered, what is refused, and when a connection ends."""

import http.client
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.steps.prepared_data import Trained
from tests.steps.serving.server_process import POST_IMAGE, Server, changed, picture, post, serving

IMAGE = picture()
GET = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = f"{POST_IMAGE}Transfer-Encoding: chunked\r\n\r\n".encode()
UPGRADE = b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n"


@pytest.fixture(scope="module")
def server(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One whose limits of time are short."""
    seconds = {"READING_SECONDS": 1.0, "DISCARDING_SECONDS": 1.0}
    model = changed(trained.model_dir, tmp_path_factory.mktemp("model") / "m", "serving/app.py", **seconds)
    with serving(model, tmp_path_factory.mktemp("server"), MAX_REQUEST_MEGABYTES="0.125") as running:
        yield running


def converse(server: Server, sent: bytes) -> tuple[list[int], bytes]:
    """The statuses of all answers on a connection of its own until the server ends it, and the last body."""
    with server.connect() as client:
        client.sendall(sent)
        answers = b"".join(iter(lambda: client.recv(65536), b""))
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)], answers.rpartition(b"\r\n\r\n")[2]


def reply(client: socket.socket) -> int:
    """The status of the next answer, once all of it is read."""
    answer = http.client.HTTPResponse(client)
    answer.begin()
    answer.read()
    return answer.status


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/nothing", 404, None),
        ("GET", "/invocations", 405, {"POST"}),
        ("POST", "/ping", 405, {"GET", "HEAD"}),
        ("DELETE", "/metrics", 405, {"GET", "HEAD"}),
    ],
)
def test_other_paths_and_methods_are_refused_in_json(
    server: Server, method: str, path: str, status: int, allowed: set[str] | None
) -> None:
    found, headers, body = server.request(method, path)
    assert (found, set(headers["allow"].split(", ")) if "allow" in headers else None) == (status, allowed)
    assert json.loads(body)["error"].endswith(": POST images to /invocations, or GET /ping.")


@pytest.mark.parametrize("path", ["/ping", "/metrics", "/execution-parameters", "/"])
def test_head_is_get_without_its_body(server: Server, path: str) -> None:
    status, headers, body = server.request("HEAD", path)
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) == len(server.request("GET", path)[2]) or path == "/metrics"


LAST = "Connection: close\r\n"
CHUNKS = CHUNKED + b"%x;a=b\r\n%s\r\n0\r\nA: b\r\n\r\n" % (len(IMAGE), IMAGE)
UNDERSTOOD: dict[str, tuple[bytes, list[int]]] = {
    "an absolute target": (b"GET http://any.host:80/ping?x=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", [200]),
    "HTTP/1.0": (b"GET /ping HTTP/1.0\r\n\r\n", [200]),
    "a query": (post(IMAGE, LAST, "/invocations?a=b"), [200]),
    "requests sent together": (post(IMAGE) + GET + post(b"no") + post(IMAGE, LAST), [200, 200, 400, 200]),
    "chunks": (CHUNKS + GET[:-2] + b"Connection: close\r\n\r\n", [200, 200]),
    "an upgrade that is not made": (UPGRADE % b"h2c" + b"PRI * HTTP/2.0", [200]),
    "a WebSocket": (UPGRADE % b"websocket", [200]),
    "a good request before noise": (post(IMAGE) + b"\x16\x03\x01\r\n\r\n", [200]),
}


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_what_clients_send_is_understood(server: Server, case: str) -> None:
    sent, expected = UNDERSTOOD[case]
    assert converse(server, sent)[0] == expected


NO_HTTP, LARGE_HEAD = "The request is no HTTP/1.1", "The request's head is larger than 32 KB."
LARGE, LATE = "The request is larger than 0.125 MB", "The request did not arrive within 1 s."
REFUSED: dict[str, tuple[bytes, int, str]] = {
    "noise": (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, NO_HTTP),
    "two lengths": (post(b"a", "Content-Length: 2\r\n"), 400, NO_HTTP),
    "a negative length": (f"{POST_IMAGE}Content-Length: -1\r\n\r\n".encode(), 400, NO_HTTP),
    "a length and chunks": (post(b"a", "Transfer-Encoding: chunked\r\n"), 400, NO_HTTP),
    "chunks of nonsense": (CHUNKED + b"xyz\r\n", 400, NO_HTTP),
    "a head without end": (b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000, 431, LARGE_HEAD),
    "a target without end": (b"GET /" + b"x" * 40_000, 431, LARGE_HEAD),
    "trailers without end": (CHUNKED + b"0\r\nX: " + b"x" * 400_000, 400, "The body's chunks are mostly framing"),
    "crumbs": (CHUNKED + b"1;" + b"x" * 98 + b"\r\nx\r\n" * 1000, 400, "The "),
    "a long body that waits": (post(b"", "Expect: 100-continue\r\n").replace(b": 0", b": 2000000"), 413, LARGE),
    "a long body that does not": (post(bytes(200_000))[:-1], 413, LARGE),
    "a long body in chunks": (CHUNKED + b"30000\r\n" + bytes(0x30000), 413, LARGE),
    "a head that does not arrive": (b"POST /invo", 408, LATE),
    "a body that does not arrive": (post(IMAGE)[:-1], 408, LATE),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_request_is_refused_in_a_sentence_and_the_connection_ends(server: Server, case: str) -> None:
    sent, status, sentence = REFUSED[case]
    began = time.monotonic()
    statuses, body = converse(server, sent)
    assert statuses == [status]
    assert json.loads(body)["error"].startswith(sentence)
    assert time.monotonic() - began < 10
    assert server.invoke(IMAGE)[0] == 200


def test_a_connection_goes_on_after_slow_early_and_refused_requests(server: Server) -> None:
    with server.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in GET:
            client.sendall(bytes([byte]))
        assert reply(client) == 200
        request = post(IMAGE, "Expect: 100-continue\r\n")
        client.sendall(request[: -len(IMAGE)])
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(IMAGE)
        assert reply(client) == 200
        request = post(bytes(50_000)).replace(b"image/png", b"video/mp4")
        client.sendall(request[:20_000])
        assert reply(client) == 415, "before all of it has arrived"
        client.sendall(request[20_000:] + post(IMAGE))
        assert reply(client) == 200


def test_a_client_that_does_not_stop_sending_is_answered_and_cut_off(server: Server) -> None:
    with server.connect() as client:
        client.sendall(CHUNKED)
        chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
        for _ in range(3):
            client.sendall(chunk)
        assert reply(client) == 413, "the answer comes while the client is still sending"
        with pytest.raises(OSError, match=r"Connection reset by peer|Broken pipe"):
            for _ in range(1000):
                client.sendall(chunk)


def test_slow_clients_keep_nobody_waiting(server: Server) -> None:
    clients = [server.connect() for _ in range(300)]
    for client in clients:
        client.sendall(post(IMAGE)[:-1])
    began = time.monotonic()
    assert server.invoke(IMAGE)[0] == 200
    assert time.monotonic() - began < 5
    assert {reply(client) for client in clients} == {408}
    for client in clients:
        client.close()


def test_curl_is_answered(server: Server, tmp_path: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    (tmp_path / "a.png").write_bytes(IMAGE)
    ways = (["-F", "image=@a.png", "-F", "note=x"], ["-H", "Content-Type: image/png", "--data-binary", "@a.png"])
    for options in ways:
        command = ["curl", "-sS", *options, f"http://127.0.0.1:{server.port}/invocations"]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
        assert len(json.loads(ran.stdout)) == 3
