"""serve.py as a server process on a free port: answers, refusals, and both ways to end."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import evaluate
from classifier.data.prepared_images import PreparedImages
from classifier.job.failures import StepError
from classifier.model.predictor import Predictor
from classifier.serving.accept import Format, accepted_format
from classifier.serving.refusals import Refusal
from classifier.serving.server_settings import ServerSettings
from serve import listen
from tests.steps.prepared_data import CLASSES, IMAGES_PER_CLASS, Prepared, Trained
from tests.steps.server_process import PATIENCE_SECONDS, Server, picture

MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def server(trained: Trained) -> Iterator[Server]:
    running = Server(trained.model_dir, MAX_REQUEST_MEGABYTES="1", MAX_IMAGE_MEGAPIXELS="0.25").wait_until_ready()
    yield running
    running.process.terminate()
    assert running.end()[0] == 0


def test_ping_is_empty(server: Server) -> None:
    assert server.request("GET", "/ping") == (200, "", b"")


def test_answer_is_the_list_of_class_probabilities(server: Server, trained: Trained, prepared: Prepared) -> None:
    body = prepared.test_files[PreparedImages(prepared.test, "test").labels.tolist().index(CLASSES.index("grass"))]
    status, answer = server.invoke(body)
    expected = Predictor(trained.model_dir).predict([body])[0].tolist()
    assert status == 200
    assert answer == pytest.approx(expected, abs=1e-5)
    assert sum(answer) == pytest.approx(1)
    assert answer.index(max(answer)) == CLASSES.index("grass")


def test_the_whole_test_split_is_answered_as_evaluation_scores_it(
    server: Server, trained: Trained, prepared: Prepared
) -> None:
    images = PreparedImages(prepared.test, "test")
    scored, _ = evaluate.predict(Predictor(trained.model_dir), images)
    answers = np.array([server.invoke(images.read(row))[1] for row in range(len(images))])
    assert len(images) == sum(IMAGES_PER_CLASS["test"] for _ in CLASSES)
    np.testing.assert_array_equal(answers.argmax(axis=1), scored.argmax(axis=1))
    np.testing.assert_allclose(answers, scored, atol=1e-5)


def test_verbose_answer_names_label_score_and_the_top_five(server: Server) -> None:
    status, answer = server.invoke(picture("PNG"), Accept="application/json;verbose=1")
    probabilities = server.invoke(picture("PNG"), Accept="application/json")[1]
    ranked = sorted(zip(CLASSES, probabilities, strict=True), key=lambda pair: -pair[1])
    assert status == 200
    assert answer["top"] == [{"label": label, "score": score} for label, score in ranked]
    assert (answer["label"], answer["score"]) == ranked[0]


@pytest.mark.parametrize(
    ("content_type", "format_name"),
    [
        ("image/jpeg", "JPEG"),
        ("image/png", "PNG"),
        ("application/x-image", "JPEG"),
        ("IMAGE/WEBP; q=1", "WEBP"),
        ("image/bmp", "BMP"),
        ("image/tiff", "TIFF"),
        ("image/gif", "GIF"),
    ],
)
def test_every_accepted_content_type_is_answered(server: Server, content_type: str, format_name: str) -> None:
    status, answer = server.invoke(picture(format_name), content_type)
    assert (status, len(answer)) == (200, 3)


TYPES = (
    "send images as image/jpeg, image/png, image/webp, application/x-image, application/x-npy, application/json or "
    "multipart/form-data."
)
REFUSALS = {
    "content type": (
        {"body": b"1,2", "content_type": "text/csv"},
        415,
        f"Content type text/csv is not accepted: {TYPES}",
    ),
    "no content type": (
        {"body": b"1,2", "content_type": ""},
        415,
        f"Content type (none) is not accepted: {TYPES}",
    ),
    "no image": ({"body": b"no image"}, 400, "The file is not a JPEG, PNG, WebP, BMP, TIFF or GIF image."),
    "no body": ({"body": b""}, 400, "The request has no body: send the bytes of one image."),
    "accept": (
        {"body": b"x", "Accept": "text/html"},
        406,
        "Accept text/html cannot be answered: ask for application/json, text/csv, application/jsonlines or "
        "application/x-npy; application/json;verbose=1 names the labels.",
    ),
    "too many bytes": ({"body": bytes(MEGABYTE + 1)}, 413, "The request is larger than 1 MB: send a smaller image."),
    "too many pixels": (
        {"body": picture("PNG", (1000, 500))},
        413,
        "The image has 0.5 megapixels (1000 x 500), but at most 0.25 are accepted.",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal_is_a_status_and_a_json_sentence(server: Server, case: str) -> None:
    request, status, sentence = REFUSALS[case]
    assert server.invoke(**request) == (status, {"error": sentence})  # type: ignore[arg-type]


def test_truncated_image_is_refused(server: Server) -> None:
    status, answer = server.invoke(picture("PNG", (300, 300), "blue sky")[:-30])
    assert status == 400
    assert answer["error"].startswith("The image is damaged")


def test_client_that_does_not_stop_sending_is_answered_and_cut_off(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS) as client:
        head = "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.sendall(head.encode())
        chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
        for _ in range(17):
            client.sendall(chunk)
        assert client.recv(65536).startswith(b"HTTP/1.1 413 "), "the answer comes while the client is still sending"
        with pytest.raises(OSError, match=r"Connection reset by peer|Broken pipe"):
            for _ in range(1000):
                client.sendall(chunk)


def test_client_that_asks_before_it_sends_is_answered_at_once(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS) as client:
        head = "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        client.sendall(f"{head}Content-Length: {2 * MEGABYTE}\r\nExpect: 100-continue\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_chunked_body_that_is_a_little_too_large_is_answered_413(server: Server) -> None:
    chunks = (bytes(65536) for _ in range(40))
    status, _, body = server.request("POST", "/invocations", chunks, chunked=True, Content_Type="image/png")
    assert (status, json.loads(body)) == (413, {"error": "The request is larger than 1 MB: send a smaller image."})


def test_chunked_image_is_answered(server: Server) -> None:
    image = picture("PNG", (200, 200))
    chunks = (image[start : start + 100] for start in range(0, len(image), 100))
    status, _, body = server.request("POST", "/invocations", chunks, chunked=True, Content_Type="image/png")
    assert (status, len(json.loads(body))) == (200, 3)


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/", 404, "There is no /: POST an image to /invocations, or GET /ping."),
        (
            "GET",
            "/invocations",
            405,
            "/invocations does not accept GET: POST an image to /invocations, or GET /ping.",
        ),
        ("POST", "/ping", 405, "/ping does not accept POST: POST an image to /invocations, or GET /ping."),
    ],
)
def test_other_paths_and_methods_are_refused_in_json(
    server: Server, method: str, path: str, status: int, sentence: str
) -> None:
    answer = server.request(method, path)
    assert (answer[0], json.loads(answer[2])) == (status, {"error": sentence})


@pytest.mark.parametrize(
    ("accept", "answer"),
    [
        ("*/*", Format("application/json")),
        ("", Format("application/json")),
        ("application/json", Format("application/json")),
        ("APPLICATION/JSON; charset=utf-8", Format("application/json")),
        ("application/json;verbose=1", Format("application/json", verbose=True)),
        ('application/json; verbose="1"', Format("application/json", verbose=True)),
        ("application/json;verbose=0", Format("application/json")),
        ("text/html, application/*;q=0.5", Format("application/json")),
        ("application/json;verbose=1;q=0.1, text/csv", Format("text/csv")),
        ("application/x-jsonlines", Format("application/jsonlines")),
        ("text/*", Format("text/csv")),
        ("application/x-npy", Format("application/x-npy")),
    ],
)
def test_accept_header_chooses_the_format(accept: str, answer: Format) -> None:
    assert accepted_format(accept) == answer


@pytest.mark.parametrize("accept", ["text/html", "image/*", "application/json;q=0", "application/json;q=much"])
def test_accept_header_without_an_offered_format_is_refused(accept: str) -> None:
    with pytest.raises(Refusal) as caught:
        accepted_format(accept)
    assert caught.value.status == 406


def test_sigterm_finishes_the_request_that_is_running_and_exits_0(trained: Trained) -> None:
    server = Server(trained.model_dir).wait_until_ready()
    image = picture("JPEG")
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS) as client:
        head = (
            f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
        )
        client.sendall(head.encode() + image[:100])
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert server.process.poll() is None, "it waits for the request"
        client.sendall(image[100:])
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
    code, stdout, stderr = server.end()
    assert (code, stderr) == (0, "")
    first, second = stdout.splitlines()
    assert first == (
        f"Serving 3 classes on http://127.0.0.1:{server.port}/invocations with 2 worker(s), runtime onnxruntime"
    )
    assert json.loads(second)["status"] == 200


def test_server_ends_after_its_idle_time_although_it_is_pinged(trained: Trained) -> None:
    server = Server(trained.model_dir, ENDPOINT_IDLE_SECONDS="1").wait_until_ready()
    assert server.invoke(picture("PNG"))[0] == 200
    started = time.monotonic()
    while server.process.poll() is None and time.monotonic() < started + PATIENCE_SECONDS:
        try:
            server.request("GET", "/ping")
        except OSError:
            break
        time.sleep(0.05)
    code, stdout, _ = server.end()
    assert code == 0
    assert 0.9 < time.monotonic() - started < PATIENCE_SECONDS
    assert stdout.splitlines()[-1] == "No invocation for 1 s: the endpoint ends"


def test_socket_is_of_the_kind_on_which_asyncio_sends_without_delay() -> None:
    with listen(ServerSettings.from_environment({"BIND_HOST": "127.0.0.1", "SAGEMAKER_BIND_TO_PORT": "0"})) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_port_in_use_is_one_sentence(trained: Trained) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, stderr = Server(trained.model_dir, SAGEMAKER_BIND_TO_PORT=str(port)).end()
    assert code == 1
    assert stderr.startswith(f"The endpoint cannot listen on 127.0.0.1:{port} (")
    assert stderr.endswith("). Set SAGEMAKER_BIND_TO_PORT to a free port.\n")


@pytest.mark.parametrize("text", ["six", "-1", "inf", "nan"])
def test_wrong_setting_is_one_sentence(text: str) -> None:
    with pytest.raises(StepError) as caught:
        ServerSettings.from_environment({"MAX_REQUEST_MEGABYTES": text})
    assert str(caught.value) == (
        f"Environment variable MAX_REQUEST_MEGABYTES must be a number of at least 0, but got {text}."
    )


def test_settings_are_those_of_a_sagemaker_container_unless_told_otherwise() -> None:
    settings = ServerSettings.from_environment({"SAGEMAKER_BIND_TO_PORT": "", "ENDPOINT_IDLE_SECONDS": "1.5"})
    assert (settings.model_dir, settings.host, settings.port) == (Path("/opt/ml/model"), "0.0.0.0", 8080)
    assert (settings.max_request_megabytes, settings.idle_seconds) == (6, 1.5)


def test_directory_without_a_model_is_one_sentence(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "code").symlink_to(trained.model_dir / "code")
    code, _, stderr = Server(tmp_path).end()
    assert (code, stderr) == (1, f"{tmp_path} holds no model.json. A model of the final training has one.\n")
