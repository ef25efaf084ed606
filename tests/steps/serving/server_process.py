"""A serve.py process for tests, and pictures to send to it."""

import http.client
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.compile.bundle import SERVER, bundle
from tests.steps.prepared_data import COLOURS, base_environment

PATIENCE_SECONDS = 30
POST_IMAGE = "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


class Server:
    """A serve.py process, its address and what it prints."""

    def __init__(self, model_dir: Path, output: Path, settings: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        own = {"SM_MODEL_DIR": str(model_dir), "INFERENCE_RUNTIME": "onnxruntime"}
        own |= {"BIND_HOST": "127.0.0.1", "SAGEMAKER_BIND_TO_PORT": str(self.port)}
        self.output, self.errors = output / "stdout", output / "stderr"
        with self.output.open("wb") as stdout, self.errors.open("wb") as stderr:
            code = model_dir / "code"  # of a changed server; else what the inference image holds
            command = [sys.executable, str((code if code.is_dir() else program(output / "code")) / "serve.py"), "serve"]
            environment = base_environment() | own | settings
            self.process = subprocess.Popen(command, env=environment, stdout=stdout, stderr=stderr)

    def wait_for(self, gauge: str, condition: Callable[[float], bool]) -> None:
        """Until a gauge of /metrics is as it should be."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if condition(self.metrics()[f"classifier_{gauge}"]):
                    return
            except ConnectionRefusedError:
                assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def metrics(self) -> dict[str, float]:
        """The values of /metrics, by name and labels."""
        page = self.request("GET", "/metrics")[2].decode()
        return {name: float(value) for name, value in re.findall(r"^(classifier_.*) (\S+)$", page, re.MULTILINE)}

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer; header names with underscores for dashes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
        finally:
            connection.close()

    def invoke(self, body: Any, content_type: str = "image/png", **headers: str) -> tuple[int, Any]:
        """Status and document of a prediction."""
        status, found, content = self.request("POST", "/invocations", body, Content_Type=content_type, **headers)
        assert found["content-type"] == "application/json"
        return status, json.loads(content)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS)

    def end(self) -> tuple[int, str, str]:
        """Exit status, stdout and stderr, once the process has ended by itself."""
        return self.process.wait(PATIENCE_SECONDS), self.output.read_text(), self.errors.read_text()

    def log(self) -> list[dict[str, Any]]:
        """The access log."""
        return [json.loads(line) for line in self.output.read_text().splitlines() if line.startswith("{")]

    def workers(self) -> list[int]:
        """Process ids of its children (on Linux)."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]


@contextmanager
def serving(
    model_dir: Path, output: Path, *, workers: int = 2, fails: bool = False, **settings: str
) -> Iterator[Server]:
    """A server whose workers are all ready; it has to end with status 0 on SIGTERM, unless it is meant to fail."""
    output.mkdir(parents=True, exist_ok=True)
    server = Server(model_dir, output, {"SAGEMAKER_MODEL_SERVER_WORKERS": str(workers)} | settings)
    try:
        if not fails:
            server.wait_for("ready_workers", lambda ready: ready == workers)
        yield server
        if not fails:
            server.process.terminate()
            assert server.end()[0] == 0, server.errors.read_text()
    finally:
        server.process.kill()
        server.process.wait()


def program(folder: Path) -> Path:
    """The folder, with the server's code as in the inference image, and no more than that."""
    for name, content in bundle(SERVER).files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def changed(model_dir: Path, copy: Path, module: str, **constants: object) -> Path:
    """A copy of a model with a server whose code has other constants."""
    shutil.copytree(model_dir, copy)
    file = program(copy / "code") / "classifier" / module
    text = file.read_text()
    for name, value in constants.items():
        text, count = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", text, flags=re.MULTILINE)
        assert count == 1
    file.write_text(text)
    return copy


def picture(
    format_name: str = "PNG", size: tuple[int, int] = (40, 40), colour: str | tuple[int, int, int] = "grass"
) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, COLOURS[colour] if isinstance(colour, str) else colour).save(buffer, format_name)
    return buffer.getvalue()


def post(body: bytes, headers: str = "", path: str = "/invocations") -> bytes:
    """A whole request."""
    head = POST_IMAGE.replace("/invocations", path, 1)
    return f"{head}Content-Length: {len(body)}\r\n{headers}\r\n".encode() + body
