"""serve.py as a process: what it answers to each kind of body, what it refuses, and how it starts and ends."""

import base64
import io
import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

import evaluate
from classifier.data.prepared_images import PreparedImages
from classifier.job.failures import StepError
from classifier.model.predictor import Predictor
from classifier.serving.pool import Settings
from tests.steps.prepared_data import CLASSES, Prepared, Trained
from tests.steps.serving.server_process import PATIENCE_SECONDS, Server, picture, serving

GRASS, RUST = picture(), picture(colour="<rust> & co")
PIXELS = np.asarray(Image.open(io.BytesIO(GRASS)))
FORM = 'multipart/form-data; boundary="xYz"'


@pytest.fixture(scope="module")
def server(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = {"MAX_REQUEST_MEGABYTES": "1", "MAX_IMAGE_MEGAPIXELS": "0.25"}
    with serving(trained.model_dir, tmp_path_factory.mktemp("server"), **limits) as running:
        yield running


def test_the_whole_test_split_is_answered_as_evaluation_scores_it(
    server: Server, trained: Trained, prepared: Prepared
) -> None:
    images = PreparedImages(prepared.test, "test")
    scored, _ = evaluate.predict(Predictor(trained.model_dir), images)
    answers = np.array([server.invoke(images.read(row))[1] for row in range(len(images))])
    assert answers.shape == (len(prepared.test_files), len(CLASSES))
    np.testing.assert_array_equal(answers.argmax(axis=1), scored.argmax(axis=1))
    np.testing.assert_allclose(answers, scored, atol=1e-5)


def npy(array: Any, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asanyarray(array), version=version)
    return buffer.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def document(value: Any) -> bytes:
    return json.dumps(value).encode()


def form(*parts: bytes) -> bytes:
    return b"".join(b"--xYz\r\n" + part + b"\r\n" for part in parts) + b"--xYz--\r\n"


FILE = b'Content-Disposition: form-data; name="f"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
FIELD = b'Content-Disposition: form-data; name="note"\r\n\r\nhello'
JSON = "application/json"
NPY = "application/x-npy"

ONE = {
    "JPEG": ("image/jpeg", picture("JPEG")),
    "another name of JPEG": ("image/jpg", picture("JPEG")),
    "PNG": ("image/png", GRASS),
    "WebP, in capitals and with a parameter": ("IMAGE/WEBP; q=1", picture("WEBP")),
    "BMP": ("image/bmp", picture("BMP")),
    "TIFF": ("image/tiff", picture("TIFF")),
    "GIF": ("image/gif", picture("GIF")),
    "any image": ("application/x-image", picture("JPEG")),
    "base64": (JSON, document(encoded(GRASS))),
    "an image in JSON": ("application/json; charset=utf-8", document({"image": encoded(GRASS)})),
    "a data URL": (JSON, document({"b64": "data:image/png;base64," + encoded(GRASS)})),
    "base64 in lines": (JSON, document({"data": "\n".join([encoded(GRASS)[:40], encoded(GRASS)[40:]])})),
    "an array": (NPY, npy(PIXELS)),
    "an array of version 2": (NPY, npy(PIXELS, (2, 0))),
    "an array in columns": (NPY, npy(np.asfortranarray(PIXELS))),
    "an array with alpha": (NPY, npy(np.dstack([PIXELS, np.full((40, 40, 1), 255, np.uint8)]))),
    "a form": (FORM, form(FIELD, FILE + GRASS)),
}
SEVERAL = {
    "a list": (JSON, document([encoded(GRASS), {"b64": encoded(RUST)}]), 2),
    "images": (JSON, document({"images": [encoded(GRASS), encoded(RUST)]}), 2),
    "instances": (JSON, document({"instances": [{"data": encoded(GRASS)}, {"image": encoded(RUST)}]}), 2),
    "an array of images": (NPY, npy(np.stack([PIXELS, np.asarray(Image.open(io.BytesIO(RUST)))])), 2),
    "a form of two": (FORM, form(FILE + GRASS, FILE + RUST), 2),
    "a list of one": (JSON, document([encoded(GRASS)]), 1),
    "an array of one image": (NPY, npy(PIXELS[None]), 1),
}


@pytest.mark.parametrize("case", ONE)
def test_an_image_of_every_content_type_is_answered_by_its_probabilities(server: Server, case: str) -> None:
    content_type, body = ONE[case]
    status, answer = server.invoke(body, content_type)
    assert status == 200
    assert answer == pytest.approx(server.invoke(GRASS)[1], abs=0.05)  # JPEG changes colours a little
    assert sum(answer) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("case", SEVERAL)
def test_a_list_is_answered_by_a_list_in_its_order(server: Server, case: str) -> None:
    content_type, body, count = SEVERAL[case]
    status, answer = server.invoke(body, content_type)
    assert status == 200
    np.testing.assert_allclose(answer, [server.invoke(image)[1] for image in (GRASS, RUST)[:count]], atol=1e-5)


def test_the_forms_of_requests_are_understood(server: Server) -> None:
    address = f"http://127.0.0.1:{server.port}/invocations"
    one = requests.post(address, files={"image": GRASS}, data={"note": "x" * 5000}, timeout=PATIENCE_SECONDS)
    files = [("f", ("grün.png", io.BytesIO(GRASS), "image/png")), ("f", ("b.png", io.BytesIO(RUST)))]
    two = requests.post(address, files=files, timeout=PATIENCE_SECONDS)
    assert (np.shape(one.json()), np.shape(two.json())) == ((3,), (2, 3))


@pytest.mark.parametrize(
    ("accept", "media_type", "labels"),
    [
        ("*/*", "application/json", False),
        ("", "application/json", False),
        ("APPLICATION/JSON; charset=utf-8", "application/json", False),
        ("application/json;verbose=1", "application/json", True),
        ('application/json; verbose="1"', "application/json", True),
        ("application/json;verbose=0", "application/json", False),
        ("text/html, application/*;q=0.5", "application/json", False),
        ("application/json;verbose=1;q=0.1, text/csv", "text/csv", False),
        ("text/*", "text/csv", False),
        ("application/x-jsonlines", "application/jsonlines", False),
        ("application/jsonlines;verbose=1", "application/jsonlines", True),
        ("application/x-npy", "application/x-npy", False),
    ],
)
def test_the_accept_header_chooses_how_the_answer_is_written(
    server: Server, accept: str, media_type: str, labels: bool
) -> None:
    expected = [server.invoke(GRASS)[1], server.invoke(RUST)[1]]
    content_type, body, _ = SEVERAL["images"]
    status, headers, content = server.request("POST", "/invocations", body, Content_Type=content_type, Accept=accept)
    assert (status, headers["content-type"]) == (200, media_type)
    lines = content.splitlines()
    read: dict[str, Any] = {
        "application/json": lambda: json.loads(content),
        "application/jsonlines": lambda: [json.loads(line) for line in lines],
        "text/csv": lambda: [[float(value) for value in line.split(b",")] for line in lines],
        "application/x-npy": lambda: np.load(io.BytesIO(content)),
    }
    found = read[media_type]()
    if labels:
        ranked = [sorted(zip(CLASSES, row, strict=True), key=lambda pair: -pair[1]) for row in expected]
        assert [[entry["label"] for entry in one["top"]] for one in found] == [[n for n, _ in row] for row in ranked]
        assert [one["label"] for one in found] == ["grass", "<rust> & co"]
        assert [one["score"] for one in found] == pytest.approx([row[0][1] for row in ranked], abs=1e-5)
    else:
        np.testing.assert_allclose(found, expected, atol=1e-5)


HUNDRED, ABC = document(["QUJD"] * 100), document(["QUJD"] * 2)
REFUSALS: dict[str, tuple[str, bytes, int, str]] = {
    "content type": ("text/csv", b"1,2", 415, "Content type text/csv is not accepted: send images as"),
    "no content type": ("", b"1,2", 415, "Content type (none) is not accepted: send images as"),
    "no image": ("image/png", b"no image", 400, "The file is not a JPEG, PNG, WebP, BMP, TIFF or GIF image."),
    "no body": ("image/png", b"", 400, "The file is empty."),
    "half an image": ("image/png", picture(size=(300, 300))[:-30], 400, "The image is damaged"),
    "too many bytes": ("image/png", bytes(2**20 + 1), 413, "The request is larger than 1 MB: send a smaller image."),
    "too many pixels": ("image/png", picture(size=(1000, 500)), 413, "The image has 0.5 megapixels (1000 x 500), but"),
    "no JSON": (JSON, b"{", 400, "The body is no JSON ("),
    "deep JSON": (JSON, b"[" * 100_000, 400, "The body is no JSON ("),
    "another document": (JSON, b'{"a": 1}', 422, "The JSON document holds no image where one is expected"),
    "an empty list": (JSON, b"[]", 422, "The request holds no image: send one"),
    "no images": (JSON, b'{"images": []}', 422, "The request holds no image: send one"),
    "no base64": (JSON, b'"a*b"', 422, "An image is no base64 ("),
    "too many": (JSON, HUNDRED, 413, "The request has 100 images, but at most 64 are accepted"),
    "a bad one": (JSON, ABC, 400, "Image 1 of 2: The file is not a JPEG,"),
    "no array": (NPY, b"\x93NUMPY\x01\x00", 400, "The body is no .npy file, or cut off: send uint8 pixels"),
    "objects": (NPY, npy(np.array([[None]])), 400, "The body is no .npy file"),
    "half an array": (NPY, npy(PIXELS)[:-1], 400, "The body is no .npy file, or cut off"),
    "floats": (NPY, npy(np.zeros((2, 2))), 422, "The array is float64 of shape (2, 2): send"),
    "a row": (NPY, npy(PIXELS[0, 0]), 422, "The array is uint8 of shape (3,): send uint8"),
    "two channels": (NPY, npy(PIXELS[:, :, :2]), 422, "The array is uint8 of shape (40, 40, 2)"),
    "an array of nothing": (NPY, npy(PIXELS[:0]), 422, "The array is uint8 of shape (0, 40, 3)"),
    "no boundary": ("multipart/form-data", b"x", 400, "The form is damaged: "),
    "no file": (FORM, form(FIELD), 422, "The request holds no image: send one, in a form as a field with a file name"),
    "half a form": (FORM, form(FILE + b"a")[:-10], 400, "The form is cut off"),
    "no form": (FORM, b"a=b", 400, "The form is damaged: "),
    "crumbs": (FORM, b"--xYz\r\n" * 300, 400, "The form is damaged: "),
    "a crowd of files": (FORM, form(*[FILE + b"a"] * 65), 413, "The request has 65 images, but"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_a_status_and_one_sentence_of_json(server: Server, case: str) -> None:
    content_type, body, expected, sentence = REFUSALS[case]
    status, answer = server.invoke(body, content_type)
    assert (status, list(answer)) == (expected, ["error"])
    assert answer["error"].startswith(sentence)


@pytest.mark.parametrize(
    "accept", ["text/html", "*/*;q=0", "text/csv;q=much", "application/json;coverage=1.5", "text/csv;coverage=0.9"]
)
def test_what_cannot_be_written_is_refused(server: Server, accept: str) -> None:
    status, answer = server.invoke(GRASS, Accept=accept)
    assert status == 406
    assert answer["error"].startswith(f"Accept {accept} cannot be answered: ask for application/json")


def test_ping_is_empty_and_batch_transform_learns_what_the_server_takes(server: Server) -> None:
    status, headers, body = server.request("GET", "/ping")
    assert (status, headers.get("content-type"), body) == (200, None, b"")
    status, headers, body = server.request("GET", "/execution-parameters")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == {"MaxConcurrentTransforms": 4, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 1}


def test_a_browser_gets_one_page_that_asks_nobody_else(server: Server) -> None:
    status, headers, body = server.request("GET", "/")
    page = body.decode()
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "curl" in page and "verbose=1" in page and "prefers-color-scheme: dark" in page
    assert "http" not in page and "//" not in page, "it loads nothing"


def test_metrics_and_the_access_log_tell_what_was_answered(server: Server) -> None:
    before, seen = server.metrics(), len(server.log())
    server.invoke(GRASS, X_Amzn_SageMaker_Inference_Id="mine")
    server.invoke(b"no image")
    server.request("GET", "/nothing")
    after = server.metrics()
    changed = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
    assert changed['classifier_requests_total{status="200"}'] == 1
    assert changed['classifier_requests_total{status="400"}'] == 1
    assert changed['classifier_predictions_total{class="grass"}'] == 1
    assert changed['classifier_seconds_count{stage="queue"}'] == changed['classifier_seconds_count{stage="infer"}'] == 1
    assert after['classifier_runtime_info{runtime="onnxruntime"}'] == 1
    assert {f'classifier_predictions_total{{class="{name}"}}' for name in CLASSES} <= after.keys()
    assert "classifier_low_confidence_total" in after and "classifier_queue_length" in after
    good, bad, lost = server.log()[seen:]
    assert list(good) == ["id", "method", "path", "status", "bytes", "decode_ms", "infer_ms", "queue_ms", "total_ms"]
    assert (good["id"], good["method"], good["path"], good["bytes"]) == ("mine", "POST", "/invocations", len(GRASS))
    assert good["total_ms"] >= good["decode_ms"] + good["infer_ms"] > 0
    assert (bad["status"], lost["status"], lost["path"]) == (400, 404, "/nothing")


def test_labelled_answers_say_whether_the_model_is_confident_and_give_sets(trained: Trained, tmp_path: Path) -> None:
    model, sets = shutil.copytree(trained.model_dir, tmp_path / "model"), f"{JSON};verbose=1;coverage=0.8"
    described = json.loads((model / "model.json").read_text())
    assert described["abstaining"]["images"] == len(described["abstaining"]["label_scores"]) > 0
    with serving(model, tmp_path / "a", workers=1) as server:
        first, second = (server.invoke(image, Accept=f"{JSON};verbose=1")[1] for image in (GRASS, RUST))
        assert "confident" not in first and "set" not in first, "nobody asked"
    between = (first["score"] + second["score"]) / 2
    point = {"threshold": between, "images": 100, "right": 99, "precision_lower_bound": 0.953}
    scores = [second["top"][1]["score"] / 2] * 100  # a label scored so low belongs to the set
    described["abstaining"] = {"images": 100, "operating_points": [point], "label_scores": scores}
    (model / "model.json").write_text(json.dumps(described))
    with serving(model, tmp_path / "b", workers=1, MIN_PRECISION="0.95") as server:
        found = {image: server.invoke(image, Accept=sets)[1] for image in (GRASS, RUST)}
        assert [one["confident"] for one in found.values()] == [one["score"] >= between for one in (first, second)]
        assert [item["label"] for item in found[RUST]["top"][:2]] == found[RUST]["set"][:2]
        assert len(server.invoke(GRASS)[1]) == len(CLASSES), "a list of probabilities stays one"
        assert server.metrics()["classifier_low_confidence_total"] == 1
    del described["abstaining"]
    (model / "model.json").write_text(json.dumps(described))
    with serving(model, tmp_path / "c", workers=1, MIN_PRECISION="0.95") as server:
        assert server.invoke(GRASS, Accept=f"{JSON};verbose=1")[1]["confident"] is False
        assert server.invoke(GRASS, Accept=sets)[0] == 406
        assert "This model keeps no measured scores, so no answer counts as confident" in server.output.read_text()


def test_the_server_ends_after_its_idle_time_although_it_is_pinged(trained: Trained, tmp_path: Path) -> None:
    with serving(trained.model_dir, tmp_path, workers=1, ENDPOINT_IDLE_SECONDS="1.5") as server:
        assert server.invoke(GRASS)[0] == 200
        began = time.monotonic()
        while server.process.poll() is None and time.monotonic() < began + PATIENCE_SECONDS:
            try:
                server.request("GET", "/ping")
            except OSError:
                time.sleep(0.05)
        assert 1.4 < time.monotonic() - began < PATIENCE_SECONDS
        assert server.end()[1].splitlines()[-1] == "No invocation for 1.5 s: the endpoint ends"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_REQUEST_MEGABYTES", "six"),
        ("MAX_REQUEST_MEGABYTES", "-1"),
        ("MAX_REQUEST_MEGABYTES", "nan"),
        ("SAGEMAKER_BIND_TO_PORT", "70000"),
        ("MIN_PRECISION", "95"),
        ("INFERENCE_RUNTIME", "fast"),
    ],
)
def test_a_wrong_setting_is_one_sentence(name: str, value: str) -> None:
    with pytest.raises(StepError, match=rf"^Environment variable {name} must be .*, but got {value}\.$"):
        Settings({name: value})


@pytest.mark.parametrize("value", ["", "0", "inf"])
def test_an_endpoint_may_never_get_idle(value: str) -> None:
    assert Settings({"ENDPOINT_IDLE_SECONDS": value}).idle_seconds == float("inf")


def test_a_server_that_cannot_start_says_why_in_one_sentence(trained: Trained, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with serving(trained.model_dir, tmp_path / "a", fails=True, SAGEMAKER_BIND_TO_PORT=port) as server:
            code, _, stderr = server.end()
    assert (code, stderr.count("\n")) == (1, 1)
    assert stderr.startswith(f"The endpoint cannot listen on 127.0.0.1:{port} (")
    with serving(tmp_path, tmp_path / "b", fails=True) as server:
        assert server.end() == (1, "", f"{tmp_path} holds no model.json. A model of the final training has one.\n")
