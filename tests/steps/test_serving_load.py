"""The server when much is asked of it: many clients, hostile images, a killed worker, the end under load."""

import http.client
import io
import json
import os
import shutil
import signal
import socket
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classifier.data.images import Preprocess, decode, shrink, to_pixels
from classifier.model.predictor import DEFAULT_MAX_PIXELS, Predictor
from classifier.model.runtime_choice import Measurement, candidates
from classifier.model.runtimes import load_runtime, processor_name
from classifier.model.samples import Samples
from classifier.serving.worker import MAX_DECODING_BYTES, Worker
from tests.steps.prepared_data import CLASSES, Trained
from tests.steps.server_process import PATIENCE_SECONDS, Server, picture

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def server(trained: Trained) -> Iterator[Server]:
    running = Server(trained.model_dir).wait_until_ready()
    yield running
    running.process.terminate()
    assert running.end()[0] == 0


@pytest.fixture(scope="module")
def worker(trained: Trained) -> Worker:
    """A worker's inside."""
    with open(os.devnull, "w") as lock:  # noqa: PTH123
        number = os.dup(lock.fileno())
    return Worker(Predictor(trained.model_dir, runtime=load_runtime("onnxruntime", trained.model_dir)), number)


def saved(image: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def photo(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(photo(), "JPEG", exif=exif.tobytes())


def sixteen_bits() -> bytes:
    return saved(Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80) * 13), "PNG")


def animated() -> bytes:
    frames = [photo("P"), Image.new("P", (80, 60), 3)]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


KINDS = {
    "EXIF rotation": rotated(),
    "alpha": saved(photo("RGBA"), "PNG"),
    "alpha in a palette": saved(photo("P"), "PNG", transparency=3),
    "CMYK": saved(photo("CMYK"), "JPEG"),
    "16 bits": sixteen_bits(),
    "animated": animated(),
    "grey": saved(photo("L"), "JPEG"),
    "a strip": saved(photo().resize((900, 20)), "PNG"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_served_the_very_pixels_that_training_and_evaluation_show_it(worker: Worker, kind: str) -> None:
    preprocess: Preprocess = worker.predictor.preprocess
    served = worker.crop(KINDS[kind])
    stored = shrink(decode(KINDS[kind], max_pixels=DEFAULT_MAX_PIXELS), preprocess)  # as PrepareData keeps it
    assert served.tobytes() == to_pixels(stored, preprocess).tobytes()
    assert served.tobytes() == worker.predictor.pixels(KINDS[kind]).tobytes()


def test_an_array_is_prepared_like_the_image_that_it_is_of(worker: Worker) -> None:
    for mode in ("RGB", "RGBA", "L"):
        array = np.asarray(photo(mode))
        assert worker.crop(array).tobytes() == worker.crop(saved(photo(mode), "PNG")).tobytes()


def test_several_images_are_answered_in_every_format(server: Server, trained: Trained) -> None:
    files = [picture("PNG", colour=colour) for colour in ("grass", "<rust> & co")]
    expected = Predictor(trained.model_dir).predict(files)
    body = (
        b"".join(
            b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n' + file + b"\r\n" for file in files
        )
        + b"--b--\r\n"
    )

    def ask(accept: str) -> bytes:
        status, kind, content = server.request(
            "POST", "/invocations", body, Content_Type="multipart/form-data; boundary=b", Accept=accept
        )
        assert (status, kind) == (200, accept.partition(";")[0])
        return content

    np.testing.assert_allclose(json.loads(ask("application/json")), expected, atol=1e-4)
    np.testing.assert_allclose(np.loadtxt(io.BytesIO(ask("text/csv")), delimiter=","), expected, atol=1e-4)
    np.testing.assert_allclose(np.load(io.BytesIO(ask("application/x-npy"))), expected, atol=1e-4)
    lines = ask("application/jsonlines").splitlines()
    np.testing.assert_allclose([json.loads(line) for line in lines], expected, atol=1e-4)
    labels = [json.loads(line)["label"] for line in ask("application/jsonlines;verbose=1").splitlines()]
    assert labels == ["grass", "<rust> & co"]


def test_one_bad_image_of_several_is_named(server: Server) -> None:
    status, answer = server.invoke(json.dumps({"images": ["QUJD", "QUJD"]}).encode(), "application/json")
    assert (status, answer) == (
        400,
        {"error": "Image 1 of 2: The file is not a JPEG, PNG, WebP, BMP, TIFF or GIF image."},
    )


def test_batch_transform_learns_what_the_server_takes(server: Server) -> None:
    status, kind, body = server.request("GET", "/execution-parameters")
    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == {"MaxConcurrentTransforms": 4, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 6}


def test_metrics_count_requests_predictions_and_doubts(server: Server) -> None:
    def readable() -> dict[str, float]:
        status, kind, body = server.request("GET", "/metrics")
        assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    before = readable()
    server.invoke(picture("PNG"))
    server.invoke(b"no image")
    after = readable()
    changed = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
    assert changed['classifier_requests_total{status="200"}'] == 1
    assert changed['classifier_requests_total{status="400"}'] == 1
    assert changed['classifier_predictions_total{class="grass"}'] == 1
    assert changed['classifier_seconds_count{stage="infer"}'] == 1
    assert after['classifier_runtime_info{runtime="onnxruntime"}'] == 1
    assert 'classifier_predictions_total{class="<rust> & co"}' in after
    assert len(CLASSES) == sum(name.startswith("classifier_predictions_total") for name in after)


def png_of_zeros(width: int, height: int) -> bytes:
    """A PNG of any size in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def peak_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


@ON_LINUX
def test_decompression_bombs_are_refused_before_they_take_memory(trained: Trained) -> None:
    server = Server(trained.model_dir, SAGEMAKER_MODEL_SERVER_WORKERS="1").wait_until_ready()
    before = sum(map(peak_megabytes, server.workers()))
    bombs = [png_of_zeros(100_000, 300), png_of_zeros(6000, 4000), saved(Image.new("L", (7000, 6000)), "JPEG")]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(server.invoke, bombs * 2))
    assert {status for status, _ in answers} == {413}
    assert answers[0][1]["error"] == (
        "The image would take 229 MB to decode (100000 x 300 px), "
        f"but at most {MAX_DECODING_BYTES // 2**20} are accepted: send a smaller one."
    )
    assert sum(map(peak_megabytes, server.workers())) - before < 50
    server.process.terminate()
    assert server.end()[0] == 0


@ON_LINUX
def test_a_killed_worker_costs_no_answer_and_is_replaced(trained: Trained) -> None:
    server = Server(trained.model_dir).wait_until_ready()
    server.wait_for_workers(2)
    old = server.workers()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(server.invoke, picture("JPEG", (400, 400))) for _ in range(60)]
        for pid in old:
            time.sleep(0.05)
            os.kill(pid, signal.SIGKILL)
        assert {future.result()[0] for future in waiting} == {200}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while set(old) & set(server.workers()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    server.wait_until_ready().wait_for_workers(2)
    server.process.terminate()
    code, stdout, _ = server.end()
    assert code == 0
    assert stdout.count("ended with status -9: another takes its place") == 2


def test_sigterm_under_load_answers_every_request_that_was_accepted(trained: Trained) -> None:
    server = Server(trained.model_dir).wait_until_ready()
    image = picture("JPEG", (300, 300))
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS) for _ in range(40)]
    for client in clients:
        client.sendall(head.encode() + image)
    server.process.send_signal(signal.SIGTERM)
    answers = [b"".join(iter(lambda client=client: client.recv(65536), b"")) for client in clients]
    assert all(answer.startswith(b"HTTP/1.1 200 OK\r\n") for answer in answers)
    for client in clients:
        client.close()
    assert server.end()[0] == 0


def test_a_full_queue_is_answered_503_at_once_and_the_rest_is_served(trained: Trained) -> None:
    server = Server(trained.model_dir, SAGEMAKER_MODEL_SERVER_WORKERS="1", MAX_QUEUED_REQUESTS="3").wait_until_ready()
    slow = picture("PNG", (3000, 3000))

    def ask(body: bytes) -> tuple[int, str | None]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_SECONDS)
        connection.request("POST", "/invocations", body, {"Content-Type": "image/png"})
        answer = connection.getresponse()
        found = answer.status, answer.headers.get("retry-after")
        connection.close()
        return found

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, [slow] * 20))
    assert set(answers) == {(200, None), (503, "1")}
    assert ask(slow) == (200, None)
    server.process.terminate()
    assert server.end()[0] == 0


def test_a_request_whose_client_left_is_not_computed(trained: Trained) -> None:
    server = Server(trained.model_dir, SAGEMAKER_MODEL_SERVER_WORKERS="1").wait_until_ready()
    slow = picture("PNG", (3000, 3000))
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(slow)}\r\n\r\n"
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS) for _ in range(10)]
    for client in clients:
        client.sendall(head.encode() + slow)
    for client in clients[1:]:
        client.close()
    assert clients[0].recv(65536).startswith(b"HTTP/1.1 200 OK")
    clients[0].close()
    server.process.terminate()
    _, stdout, _ = server.end()
    statuses = [json.loads(line)["status"] for line in stdout.splitlines() if line.startswith("{")]
    assert sorted(statuses) == [200] + [499] * 9


TORCHSCRIPT_IS_BEST = Measurement(
    processor_name(), {**dict.fromkeys(candidates("onnxruntime"), 10.0), "torchscript": 1.0}, {}
)


def test_a_runtime_that_training_found_faster_on_such_a_processor_serves_from_the_start(
    trained: Trained, tmp_path: Path
) -> None:
    model = shutil.copytree(trained.model_dir, tmp_path / "model")
    (model / "runtimes.json").write_text(json.dumps(asdict(TORCHSCRIPT_IS_BEST)))
    server = Server(model, INFERENCE_RUNTIME="auto").wait_until_ready()
    assert b'runtime="torchscript"' in server.request("GET", "/metrics")[2]
    server.process.terminate()
    assert server.end() == (
        0,
        f"Serving 3 classes on http://127.0.0.1:{server.port}/invocations with 2 worker(s), runtime torchscript\n"
        "Runtime torchscript is the one to use; measured in training, on such a processor: "
        f"{TORCHSCRIPT_IS_BEST.told()}\n",
        "",
    )


def test_a_runtime_that_is_faster_takes_over_while_the_server_answers(trained: Trained, tmp_path: Path) -> None:
    model = shutil.copytree(trained.model_dir, tmp_path / "model")
    (model / "runtimes.json").unlink()
    trial = f"print({json.dumps(asdict(TORCHSCRIPT_IS_BEST))!r})"  # what is fastest here depends on the machine
    (model / "code/classifier/model/runtime_trial.py").write_text(trial)
    server = Server(model, INFERENCE_RUNTIME="auto").wait_until_ready()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while b'runtime="torchscript"' not in server.request("GET", "/metrics")[2] and time.monotonic() < deadline:
        assert server.invoke(picture("PNG"))[0] == 200
        time.sleep(0.05)
    assert server.invoke(picture("PNG"))[0] == 200
    server.process.terminate()
    code, stdout, stderr = server.end()
    assert (code, stderr) == (0, "")
    assert [line for line in stdout.splitlines() if not line.startswith("{")] == [
        f"Serving 3 classes on http://127.0.0.1:{server.port}/invocations with 2 worker(s), runtime onnxruntime",
        f"Runtime torchscript is the one to use; measured at the start: {TORCHSCRIPT_IS_BEST.told()}",
    ]


def test_a_runtime_that_disagrees_with_the_trained_network_is_not_served(trained: Trained, tmp_path: Path) -> None:
    model = shutil.copytree(trained.model_dir, tmp_path / "model")
    samples = Samples.load(model)
    replace(samples, probabilities=samples.probabilities[:, ::-1]).save(model)
    code, stdout, stderr = Server(model).end()
    assert (code, stdout) == (1, "")
    assert stderr.startswith("The runtime onnxruntime is not used: a probability differs by ")
    assert stderr.endswith("and 0.01 is accepted. Set deploy.runtime to auto or to another.\n")


@ON_LINUX
def test_nothing_is_left_when_the_server_itself_is_killed(trained: Trained) -> None:
    server = Server(trained.model_dir).wait_until_ready()
    workers = server.workers()
    server.process.kill()
    server.end()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
