"""The server when much is asked of it: many clients, hostile images, workers that die, the end under load."""

import base64
import http.client
import io
import json
import os
import signal
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classifier.job.system import core_count
from tests.steps.prepared_data import COLOURS, Trained
from tests.steps.serving.server_process import PATIENCE_SECONDS, Server, changed, picture, post, serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, or counts on what Linux does")
SLOW = picture(size=(3000, 3000))  # some hundred milliseconds
KILLER, SLEEPER = (picture(colour=colour) for colour in ((0, 0, 255), (255, 0, 0)))
STAND_IN = """

class StandIn(OnnxRuntime):
    "Notes what it runs; an image of one colour ends its process, one of another takes ten seconds."
    batch = {batch}

    def run(self, images, threads):
        import time
        with open(os.environ["NOTES"], "a") as notes:
            notes.write(f"{{threads}} {{len(images)}}\\n")
        red, green, blue = images[0].mean(axis=(1, 2)).tolist()
        if green < -0.95 and max(red, blue) > 0.95:
            os._exit(7) if blue > 0.95 else time.sleep(10)
        time.sleep({seconds})
        return super().run(images, threads)

missing = lambda name: None
RUNTIMES["{name}"] = ("onnxruntime", StandIn)
"""


def stand_in(trained: Trained, folder: Path, name: str = "onnxruntime", batch: int = 1, seconds: float = 0.0) -> Path:
    """A copy of the model whose code runs it by a stand-in, whose notes are in folder/notes."""
    model = changed(trained.model_dir, folder / "model", "serving/worker.py", JOB_SECONDS=2)
    with (model / "code/classifier/model/runtimes.py").open("a") as file:
        file.write(STAND_IN.format(name=name, batch=batch, seconds=seconds))
    return model


def notes(folder: Path) -> list[tuple[int, ...]]:
    """Threads and images of each run."""
    return [tuple(map(int, line.split())) for line in (folder / "notes").read_text().splitlines()]


def at_once(server: Server, bodies: list[bytes], content_type: str = "image/png") -> list[tuple[int, Any]]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: server.invoke(body, content_type), bodies))


def document(images: list[bytes]) -> bytes:
    return json.dumps({"images": [base64.b64encode(image).decode() for image in images]}).encode()


def test_a_request_alone_takes_all_cores_and_one_among_others_one(trained: Trained, tmp_path: Path) -> None:
    model = stand_in(trained, tmp_path, seconds=0.05)
    with serving(model, tmp_path, NOTES=str(tmp_path / "notes")) as server:
        before = len(notes(tmp_path))
        for _ in range(3):
            assert server.invoke(picture())[0] == 200
        alone = notes(tmp_path)[before:]
        assert {status for status, _ in at_once(server, [picture()] * 12)} == {200}
    assert alone == [(min(core_count(), 16), 1)] * 3
    assert notes(tmp_path)[before + 3 :].count((1, 1)) >= 10


def test_requests_that_wait_for_a_gpu_become_batches_and_get_their_own_rows(trained: Trained, tmp_path: Path) -> None:
    model = stand_in(trained, tmp_path, name="cuda", batch=4, seconds=0.2)
    settings = {"NOTES": str(tmp_path / "notes"), "INFERENCE_RUNTIME": "auto"}
    with serving(model, tmp_path, workers=2, **settings) as server:
        assert server.metrics()['classifier_runtime_info{runtime="cuda"}'] == 1
        expected = {colour: server.invoke(picture(colour=colour))[1] for colour in COLOURS}
        before, colours = len(notes(tmp_path)), list(COLOURS) * 6
        answers = at_once(server, [*[picture(colour=colour) for colour in colours], b"no image"])
        assert answers.pop()[0] == 400
        assert np.shape(server.invoke(document([picture()] * 7), "application/json")[1]) == (7, 3)
    np.testing.assert_allclose([answer for _, answer in answers], [expected[colour] for colour in colours], atol=1e-5)
    batches = [images for _, images in notes(tmp_path)[before:]]
    assert sum(batches) == len(colours) + 7
    assert max(batches) == 4 and len(batches) < 18


@pytest.mark.parametrize(("bad", "status"), [(KILLER, 7), (SLEEPER, -signal.SIGALRM)])
def test_an_image_that_ends_or_blocks_its_worker_costs_nobody_else_an_answer(
    trained: Trained, tmp_path: Path, bad: bytes, status: int
) -> None:
    model = stand_in(trained, tmp_path)
    with serving(model, tmp_path, NOTES=str(tmp_path / "notes")) as server:
        answers = at_once(server, [picture(), picture(), bad, picture(), picture(), picture()])
        sentence = "The model's process ended on this request; the endpoint's log may say why."
        assert answers.pop(2) == (500, {"error": sentence})
        assert {status for status, _ in answers} == {200}
        server.wait_for("ready_workers", lambda ready: ready == 2)
        assert server.metrics()["classifier_worker_restarts_total"] == 2
    assert f"ended with status {status}: another takes its place" in server.output.read_text()


def test_a_killed_worker_costs_no_answer_and_none_outlives_the_server(trained: Trained, tmp_path: Path) -> None:
    with serving(trained.model_dir, tmp_path, fails=True) as server:  # as it ends here
        server.wait_for("ready_workers", lambda ready: ready == 2)
        old = server.workers()
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(server.invoke, picture("JPEG", (400, 400))) for _ in range(60)]
            for pid in old:
                time.sleep(0.05)
                os.kill(pid, signal.SIGKILL)
            assert {future.result()[0] for future in waiting} == {200}
        server.wait_for("ready_workers", lambda ready: ready == 2)
        new = server.workers()
        assert not set(old) & set(new)
        server.process.kill()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(Path(f"/proc/{pid}").exists() for pid in new):
            assert time.monotonic() < deadline, "workers end with a server that is killed"
            time.sleep(0.01)
    assert server.output.read_text().count("ended with status -9: another takes its place") == 2


def test_sigterm_finishes_what_is_arriving_running_and_waiting_and_exits_0(trained: Trained, tmp_path: Path) -> None:
    with serving(trained.model_dir, tmp_path) as server:
        image = picture("JPEG", (300, 300))
        _, half, *whole = clients = [server.connect() for _ in range(42)]
        for client in whole:
            client.sendall(post(image))
        half.sendall(post(image)[:200])
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert server.process.poll() is None, "it waits for the request"
        half.sendall(post(image)[200:])
        answers = [b"".join(iter(lambda client=client: client.recv(65536), b"")) for client in clients]
        assert answers.pop(0) == b""
        assert all(answer.startswith(b"HTTP/1.1 200 OK\r\n") for answer in answers)
        for client in clients:
            client.close()
        code, stdout, stderr = server.end()
    assert (code, stderr, len(server.log())) == (0, "", 41)
    address = f"http://127.0.0.1:{server.port}/invocations"
    assert stdout.splitlines()[0] == f"Serving 3 classes on {address} with 2 worker(s), runtime onnxruntime"


def test_connections_that_stay_open_are_told_of_the_end_with_their_last_answer(
    trained: Trained, tmp_path: Path
) -> None:
    statuses: Counter[tuple[int, str | None]] = Counter()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_SECONDS)
        ending = None
        while ending != "close":
            connection.request("POST", "/invocations", picture("JPEG"), {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            answer.read()
            ending = answer.headers.get("connection")
            statuses[answer.status, ending] += 1
        connection.close()

    with serving(trained.model_dir, tmp_path) as server:
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        server.process.terminate()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
    assert statuses.keys() == {(200, None), (200, "close")}
    assert statuses[200, "close"] == 8
    assert len(server.log()) == statuses.total()


@pytest.mark.parametrize("queued", [0, 3])
def test_a_full_queue_is_answered_503_at_once_and_the_rest_is_served(
    trained: Trained, tmp_path: Path, queued: int
) -> None:
    def ask(_: int = 0) -> tuple[int, str | None]:
        status, headers, _body = server.request("POST", "/invocations", SLOW, Content_Type="image/png")
        return status, headers.get("retry-after")

    with serving(trained.model_dir, tmp_path, workers=1, MAX_QUEUED_REQUESTS=str(queued)) as server:
        assert ask() == (200, None)
        with ThreadPoolExecutor(20) as pool:
            answers = Counter(pool.map(ask, range(20)))
        assert answers.keys() == {(200, None), (503, "1")}
        refused = [line["total_ms"] for line in server.log() if line["status"] == 503]
        assert min(refused) < 100, "at once"
        assert ask() == (200, None)


def test_nobody_waits_behind_a_request_of_many_images(trained: Trained, tmp_path: Path) -> None:
    many, ended = document([picture(size=(1400, 1400))] * 64), list[str]()

    def ask(name: str, body: bytes, content_type: str) -> None:
        assert server.invoke(body, content_type)[0] == 200
        ended.append(name)

    with serving(trained.model_dir, tmp_path) as server, ThreadPoolExecutor(41) as pool:
        waiting = [pool.submit(ask, "many", many, "application/json")]
        server.wait_for("running", lambda running: running == 1)
        waiting += [pool.submit(ask, "one", picture(), "image/png") for _ in range(40)]
        for future in waiting:
            future.result()
    assert ended == ["one"] * 40 + ["many"]


def png_of_zeros(width: int, height: int) -> bytes:
    """A PNG of any size in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def peak_megabytes(server: Server) -> float:
    """Of the workers."""
    paths = [Path(f"/proc/{pid}/status") for pid in server.workers()]
    return sum(int(path.read_text().partition("VmHWM:")[2].split()[0]) for path in paths) / 1024


def test_decompression_bombs_are_refused_before_they_take_memory(trained: Trained, tmp_path: Path) -> None:
    grey = io.BytesIO()
    Image.new("L", (7000, 6000)).save(grey, "JPEG")
    bombs = [png_of_zeros(100_000, 300), png_of_zeros(6000, 4000), grey.getvalue()]
    with serving(trained.model_dir, tmp_path) as server:
        before = peak_megabytes(server)
        answers = at_once(server, bombs * 2)
        assert {status for status, _ in answers} == {413}
        told = (
            "The image would take 229 MB to decode (100000 x 300 px), but at most 144 are accepted: send a smaller one."
        )
        assert answers[0][1]["error"] == told
        assert peak_megabytes(server) - before < 50


def test_a_body_as_large_as_is_announced_is_taken(trained: Trained, tmp_path: Path) -> None:
    with serving(trained.model_dir, tmp_path, workers=1, MAX_REQUEST_MEGABYTES="80") as server:
        assert json.loads(server.request("GET", "/execution-parameters")[2])["MaxPayloadInMB"] == 80
        body = picture("BMP", (200, 200)) + bytes(79 * 2**20)
        assert server.invoke(body, "image/bmp")[0] == 200
        assert server.invoke(bytes(81 * 2**20))[0] == 413


def test_bodies_beyond_the_memory_for_all_of_them_are_answered_503(trained: Trained, tmp_path: Path) -> None:
    with serving(trained.model_dir, tmp_path, workers=1) as server:
        clients = [server.connect() for _ in range(16)]
        for client in clients:
            client.sendall(post(bytes(6 * 2**20))[:-1])
        statuses = {int(client.recv(65536).split()[1]) for client in clients[12:]}
        assert 503 in statuses
        for client in clients:
            client.close()
        server.wait_for("queue_length", lambda length: length == 0)
        assert server.invoke(picture())[0] == 200
