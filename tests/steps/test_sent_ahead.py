"""Jobs that a worker gets while it computes another, and how they are taken back."""

import base64
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from classifier.serving.frames import packed
from classifier.serving.inbox import requests
from tests.steps.prepared_data import Trained
from tests.steps.server_process import Server, picture

QUICK, IMAGES = 40, 64


def frame(number: int, body: bytes = b"") -> bytes:
    return packed({"id": number}, len(body)) + body


def test_a_worker_takes_requests_in_turn_without_those_that_were_recalled() -> None:
    ours, theirs = socket.socketpair()
    taken = requests(theirs)
    ours.sendall(frame(1, b"one") + frame(2, b"two") + frame(3, b"three") + packed({"recalled": 2}, 0))
    assert next(taken) == ({"id": 1}, b"one")
    ours.sendall(packed({"recalled": 1}, 0) + frame(4, b"four")[:-2])  # the first has been begun, the last is not whole
    assert next(taken) == ({"id": 3}, b"three")
    ours.sendall(b"ur")
    assert next(taken) == ({"id": 4}, b"four")
    ours.close()
    assert list(taken) == []
    theirs.close()


def test_nothing_waits_for_a_request_that_takes_long(trained: Trained) -> None:
    server = Server(trained.model_dir).wait_until_ready().wait_for_workers(2)
    image = base64.b64encode(picture("PNG", (1400, 1400))).decode()
    slow = json.dumps({"images": [image] * IMAGES}).encode()
    ended: list[str] = []

    def ask(name: str, body: bytes, content_type: str) -> None:
        status, _ = server.invoke(body, content_type)
        assert status == 200
        ended.append(name)

    with ThreadPoolExecutor(QUICK + 1) as pool:
        waiting = [pool.submit(ask, "slow", slow, "application/json")]
        time.sleep(0.05)
        waiting += [pool.submit(ask, "quick", picture("PNG"), "image/png") for _ in range(QUICK)]
        for future in waiting:
            future.result()
    assert ended == ["quick"] * QUICK + ["slow"]
    server.process.terminate()
    assert server.end()[0] == 0
