"""A serve.py process for tests, and pictures to send to it."""

import atexit
import http.client
import io
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tests.steps.prepared_data import COLOURS, base_environment

PATIENCE_SECONDS = 30


class Server:
    """A serve.py process and its address."""

    def __init__(self, model_dir: Path, **settings: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        model = {"SM_MODEL_DIR": str(model_dir), "INFERENCE_RUNTIME": "onnxruntime"}
        address = {"BIND_HOST": "127.0.0.1", "SAGEMAKER_BIND_TO_PORT": str(self.port)}
        self._output, self._errors = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115 - pipes fill up
        self.process = subprocess.Popen(
            # As in a container: with the code that travels in the model itself.
            [sys.executable, str(model_dir / "code" / "serve.py"), "serve"],
            env=base_environment() | address | model | {"SAGEMAKER_MODEL_SERVER_WORKERS": "2"} | settings,
            stdout=self._output,
            stderr=self._errors,
        )
        atexit.register(self.process.kill)  # in case the test fails before it ends the server

    def wait_until_ready(self) -> "Server":
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                status, _, _ = self.request("GET", "/ping")
            except ConnectionRefusedError:
                time.sleep(0.05)
                continue
            if status == 200:
                return self
            assert status == 503
            time.sleep(0.01)
        raise AssertionError(f"The server was not ready after {PATIENCE_SECONDS} s.")

    def wait_for_workers(self, count: int) -> "Server":
        """Until so many compute: the first ping is answered once one does."""
        return self.wait_for("ready_workers", lambda ready: ready == count)

    def wait_for(self, gauge: str, condition: Callable[[int], bool]) -> "Server":
        """Until a gauge of /metrics is as it should be."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition(self.gauge(gauge)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self

    def gauge(self, name: str) -> int:
        """Of /metrics, by its name without the prefix."""
        page = self.request("GET", "/metrics")[2].decode()
        found = re.search(rf"^classifier_{name} (\d+)$", page, re.MULTILINE)
        assert found, page
        return int(found[1])

    def request(
        self, method: str, path: str, body: Any = None, *, chunked: bool = False, **headers: str
    ) -> tuple[int, str, bytes]:
        """Status, content type and body of the answer; header names with underscores for dashes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named, encode_chunked=chunked)
        answer = connection.getresponse()
        result = answer.status, answer.headers.get("content-type", ""), answer.read()
        connection.close()
        return result

    def invoke(self, body: Any, content_type: str = "image/png", **headers: str) -> tuple[int, Any]:
        status, kind, content = self.request("POST", "/invocations", body, Content_Type=content_type, **headers)
        assert kind == "application/json"
        return status, json.loads(content)

    def end(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr, once the process has ended by itself."""
        code = self.process.wait(PATIENCE_SECONDS)
        texts = []
        for file in (self._output, self._errors):
            file.seek(0)
            texts.append(file.read())
            file.close()
        return code, texts[0], texts[1]

    def workers(self) -> list[int]:
        """Process ids of its children (on Linux)."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]


def picture(format_name: str, size: tuple[int, int] = (40, 40), colour: str = "grass") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, COLOURS[colour]).save(buffer, format_name)
    return buffer.getvalue()
