"""The pages of endpoints, whose servers are of the standard library: status, images that are asked about, deletion."""

import io
import re
import socket
import subprocess
import time

import pytest
from PIL import Image

from tests.local.samples import SERVER, wait_until
from tests.local.serving.serving_home import Home
from tests.studio.conftest import Studio

HOSTILE = "<script>alert(1)</script>"
METRICS = "\n".join([
    "# TYPE classifier_requests counter", 'classifier_requests_total{status="200"} 8',
    'classifier_requests_total{status="400"} 2', "# TYPE classifier_predictions counter",
    f'classifier_predictions_total{{class="{HOSTILE}"}} 8', "# TYPE classifier_seconds histogram",
    *(f'classifier_seconds_bucket{{le="{limit}",stage="total"}} {count}' for limit, count in
      (("0.1", 0), ("0.2", 8), ("+Inf", 8))), ""])  # fmt: skip
ANSWER = {"label": "cat", "score": 0.75, "top": [{"label": "cat", "score": 0.75}, {"label": HOSTILE, "score": 0.25}]}
LABELLED = SERVER.replace("        said = {", f"        said = {ANSWER} | {{").replace(
    'self.answer(503 if MODE == "deaf" else 200, b"")',
    f'self.answer(200, {METRICS!r}.encode() if self.path == "/metrics" else b"")',
)


@pytest.fixture(scope="module")
def home(studio: Studio) -> Home:
    """Endpoint `ep`, whose answers are labelled, and `other`, whose are not."""
    home = Home(studio.home)
    home.served("labelled", home.container("labelled", {"code/serve.py": LABELLED}))
    home.state.put("Settings", "endpoints", {"idle_seconds": 1})
    home.model("plain")
    capture = {"InitialSamplingPercentage": 100, "CaptureOptions": [{"CaptureMode": "InputAndOutput"}]}
    place = {"EnableCapture": True, "DestinationS3Uri": "s3://bucket/captured"}
    home.config("captured", model="plain", DataCaptureConfig=capture | place)
    home.create("captured", "other")
    home.settled("other")
    return home


def picture(color: str = "red", size: int = 64) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), color).save(stream, "PNG")
    return stream.getvalue()


def ask(studio: Studio, *images: tuple[str, bytes], endpoint: str = "ep") -> str:
    """Drop images; the page that comes."""
    files = [("images", image) for image in images]
    return studio.post(f"/endpoints/{endpoint}", files=files).text


def test_without_an_endpoint_the_page_says_how_one_is_made(studio: Studio) -> None:
    assert "run_pipeline.py run" in studio.get("/endpoints").text
    assert studio.get("/endpoints/none").status_code == 404
    assert studio.post("/endpoints/none/delete").status_code == 404


def test_traffic_and_latency_are_those_of_the_server(studio: Studio, home: Home) -> None:
    assert "InService" in studio.get("/endpoints").text
    found = studio.get("/endpoints/ep").text
    for said in ("10 requests, 2 with status 400", "p50 about 0.150 s", "p99 about 0.199 s", "none are kept"):
        assert said in found
    assert HOSTILE not in found
    assert "Drift" in studio.get("/endpoints/ep/status").text


def test_requests_that_an_endpoint_keeps_waiting_hold_up_nothing_else(studio: Studio, home: Home) -> None:
    began, port, held = time.monotonic(), int(studio.url.rpartition(":")[2]), []
    scope = "Authorization: AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/sagemaker/aws4_request"
    lines = [
        "POST /endpoints/ep/invocations HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        scope,
        "Content-Length: 7",
        "",
        "sleep 9",
    ]
    for number in range(200):  # of which the later ones do not send all
        held.append(socket.create_connection(("127.0.0.1", port)))
        held[-1].sendall("\r\n".join(lines).encode()[: None if number < 66 else 90])
    assert studio.client("sagemaker").list_endpoints()["Endpoints"]
    assert studio.get("/executions").ok
    assert time.monotonic() - began < 8
    for connection in held:
        connection.close()


def test_dropped_images_are_answered_each(studio: Studio, home: Home) -> None:
    found = ask(studio, ("a.png", picture()), (f"{HOSTILE}.png", b"status 400"), ("c.png", b"no image"))
    assert found.count("75.0 %") == 2
    assert "The endpoint refused the image" in found
    assert HOSTILE not in found
    sent = dict(re.findall(r'name="(name|picture)" value="(.*?)"', found))
    explained = studio.post("/endpoints/ep", sent).text
    assert "What the answer depends on in c.png" not in explained
    assert "What the answer depends on in a.png" in explained
    assert "Choose from 1 to 20" in studio.post("/endpoints/ep", {"picture": ""}).text


def test_an_answer_without_labels_is_shown_as_it_is(studio: Studio, home: Home) -> None:
    found = ask(studio, ("a.png", picture()), ("b.png", picture()), endpoint="other")
    assert found.count("&#34;model&#34;: &#34;plain&#34;") == 2
    assert "Captured requests: 2" in found


def test_too_many_images_and_none_are_refused_by_a_sentence(studio: Studio, home: Home) -> None:
    assert "Choose from 1 to 20 images at once; there were 21" in ask(studio, *[("a.png", b"x")] * 21)
    assert "there were 0" in ask(studio, ("", b""))


def test_the_line_to_copy_works_as_it_stands(studio: Studio, home: Home, tmp_path) -> None:
    found = studio.get("/endpoints/ep").text
    curl = re.search(r'<pre id="curl">(.*?)</pre>', found, re.DOTALL)
    assert curl
    (tmp_path / "photo.jpg").write_bytes(picture())
    command = curl[1].replace("&#39;", "'")
    said = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=True)
    assert '"label": "cat"' in said.stdout


def test_one_that_is_asleep_is_woken(studio: Studio, home: Home) -> None:
    wait_until(lambda: "Asleep" in studio.get("/endpoints/other").text)
    assert "Endpoint other is awake" in studio.post("/endpoints/other/wake").text


def test_a_drift_check_that_cannot_be_made_says_why(studio: Studio, home: Home) -> None:
    assert studio.post("/endpoints/ep/other").status_code == 404
    studio.post("/endpoints/ep/check")
    deadline = time.monotonic() + 30
    while "Comparing" in (found := studio.get("/endpoints/ep/status").text):
        assert time.monotonic() < deadline
    assert "holds no captured request" in found


def test_an_endpoint_is_deleted(studio: Studio, home: Home) -> None:
    for name in ("ep", "other"):
        assert f"Endpoint {name} is deleted" in studio.post(f"/endpoints/{name}/delete").text
        assert studio.get(f"/endpoints/{name}").status_code == 404
