"""A server for models that bring none: it answers /ping and /invocations as an inference container does.

    python inference_server.py handlers [SCRIPT]   calls a script's model_fn, input_fn, predict_fn and output_fn, or its
                                                   transform_fn, as SageMaker's inference toolkits do
    python inference_server.py pipeline FILE       starts the servers of an inference pipeline's containers, and hands
                                                   the answer of one to the next

It runs in the model's environment, so it imports nothing of this project. Sources: sagemaker-inference-toolkit
(transformer.py, decoder.py, encoder.py), sagemaker-pytorch-inference-toolkit (default_pytorch_inference_handler.py);
AWS guide, "inference-pipelines" and "inference-pipeline-real-time".
"""

import contextlib
import http.client
import importlib.util
import inspect
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

JSON, CSV, NPY = "application/json", "text/csv", "application/x-npy"
TARGET_CONTAINER = "X-Amzn-SageMaker-Target-Container-Hostname"
POLL_SECONDS = 0.05
Reply = tuple[int, str, bytes]  # status, content type, body
Headers = Any  # http.client.HTTPMessage


class UnsupportedFormatError(Exception):
    """A content type that a default handler does not know."""


class Handlers:
    """A script's handler functions around the toolkits' defaults. One request at a time: a model is no thread's own."""

    def __init__(self, script: str | None) -> None:
        self.lock = threading.Lock()
        module = load(Path(script)) if script else SimpleNamespace()
        self.functions = {name: getattr(module, name, default) for name, default in DEFAULTS.items()}
        self.transform: Callable[..., Any] | None = getattr(module, "transform_fn", None)
        mixed = [name for name in ("input_fn", "predict_fn", "output_fn") if hasattr(module, name)]
        if self.transform and mixed:
            raise SystemExit(f"Cannot use transform_fn in conjunction with {', '.join(mixed)}.")
        self.model = call(self.functions["model_fn"], 1, os.environ["SM_MODEL_DIR"])

    def is_ready(self) -> bool:
        """The model is loaded before anything listens."""
        return True

    def invoke(self, headers: Headers, body: bytes) -> Reply:
        """Input, prediction, output; 415 for an unknown content type, 500 for what a handler raises."""
        content_type = headers.get("Content-Type") or JSON
        accept = headers.get("Accept") or "*/*"
        if accept == "*/*":
            accept = os.environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", JSON)
        data = body.decode() if content_type in (JSON, CSV) else body
        try:
            with self.lock:
                result = self.result(data, content_type, accept)
        except UnsupportedFormatError as problem:
            return 415, "text/plain", str(problem).encode()
        except Exception as problem:  # noqa: BLE001  a handler may raise anything; the toolkits answer 500
            traceback.print_exc()
            return 500, "text/plain", f"{type(problem).__name__}: {problem}".encode()
        if isinstance(result, tuple):
            result, accept = result
        return 200, accept, as_bytes(result)

    def end(self) -> None:
        """Nothing is left to end."""

    def result(self, data: str | bytes, content_type: str, accept: str) -> Any:
        """What the handlers make of a request."""
        if self.transform:
            return call(self.transform, 4, self.model, data, content_type, accept)
        given = call(self.functions["input_fn"], 2, data, content_type)
        prediction = call(self.functions["predict_fn"], 2, given, self.model)
        return call(self.functions["output_fn"], 2, prediction, accept)


def load(script: Path) -> ModuleType:
    """The script as a module; its folder is importable."""
    sys.path[0] = str(script.parent)  # in place of this file's folder
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[script.stem] = module
    spec.loader.exec_module(module)
    return module


def call(function: Callable[..., Any], count: int, *arguments: Any) -> Any:
    """Call a handler, with the context as one argument more than `count` if it takes one."""
    parameters = inspect.signature(function).parameters.values()
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    context = SimpleNamespace(system_properties={"model_dir": os.environ["SM_MODEL_DIR"], "gpu_id": None})
    return function(*arguments, *([context] if len(places) > count else []))


def as_bytes(result: Any) -> bytes:
    """A handler's answer as a body."""
    if isinstance(result, bytes | bytearray):
        return bytes(result)
    return (result if isinstance(result, str) else json.dumps(result)).encode()


def default_model_fn(model_dir: str) -> Any:
    """TorchScript: model.pt, or the only .pt or .pth there is."""
    found = [path for path in Path(model_dir).iterdir() if path.suffix in (".pt", ".pth")]
    named = [path for path in found if path.name == "model.pt"] or found
    if len(named) != 1:
        raise SystemExit(f"The model needs a model_fn in its script, or one TorchScript file, but has {len(found)}.")
    import torch

    read: Any = torch.jit.load
    return read(str(named[0]), map_location="cpu").eval()


def default_input_fn(data: str | bytes, content_type: str) -> Any:
    """An array of NumPy."""
    import numpy

    if content_type == JSON:
        return numpy.array(json.loads(data))
    if content_type == CSV:
        return numpy.genfromtxt(io.StringIO(str(data)), dtype=numpy.float32, delimiter=",")
    if content_type == NPY and isinstance(data, bytes):
        read: Any = numpy.lib.format.read_array
        return read(io.BytesIO(data), allow_pickle=False)
    raise UnsupportedFormatError(f"Content type {content_type} is not supported by this framework; write an input_fn.")


def default_predict_fn(data: Any, model: Any) -> Any:
    """The model's own predict, or a call of a PyTorch module."""
    if hasattr(model, "predict"):
        return model.predict(data)
    import torch

    with torch.no_grad():
        return model(torch.as_tensor(data, dtype=torch.float32))


def default_output_fn(prediction: Any, accept: str) -> Any:
    """JSON, CSV or NPY of an array."""
    import numpy

    array = numpy.asarray(prediction.detach().cpu() if hasattr(prediction, "detach") else prediction)
    if accept == JSON:
        return json.dumps(array.tolist())
    if accept == CSV:
        text = io.StringIO()
        numpy.savetxt(text, array, delimiter=",", fmt="%s")
        return text.getvalue()
    if accept == NPY:
        buffer = io.BytesIO()
        numpy.save(buffer, array)
        return buffer.getvalue()
    raise UnsupportedFormatError(f"Accept {accept} is not supported by this framework; write an output_fn.")


DEFAULTS: dict[str, Callable[..., Any]] = {
    "model_fn": default_model_fn,
    "input_fn": default_input_fn,
    "predict_fn": default_predict_fn,
    "output_fn": default_output_fn,
}


class Pipeline:
    """The servers of several containers, called in turn; in Direct mode one of them, whose hostname a request names."""

    def __init__(self, file: str) -> None:
        description = json.loads(Path(file).read_text())
        self.direct: bool = description["direct"]
        self.containers: list[dict[str, Any]] = description["containers"]
        self.processes = [
            subprocess.Popen(item["words"], cwd=item["folder"], env=item["environment"]) for item in self.containers
        ]
        threading.Thread(target=self.end_with_a_container, daemon=True).start()

    def end_with_a_container(self) -> None:
        """Containers live and die together."""
        while all(process.poll() is None for process in self.processes):
            time.sleep(POLL_SECONDS)
        os.killpg(0, signal.SIGTERM)

    def is_ready(self) -> bool:
        """Whether every container is."""
        return all(self.ask(container, "GET", "/ping", b"", {})[0] == 200 for container in self.containers)

    def invoke(self, headers: Headers, body: bytes) -> Reply:
        """The last container's answer, or the first that is not 2xx. Who asks for it gets its Accept, the last one."""
        wanted = headers.get(TARGET_CONTAINER)
        called = [item for item in self.containers if not self.direct or item["hostname"] == wanted]
        if not called or (wanted and not self.direct):
            names = ", ".join(str(item["hostname"]) for item in self.containers)
            known = f"one of {names}" if self.direct else "none, since the containers run in turn"
            return 400, "text/plain", f"TargetContainerHostname must be {known}, but is {wanted!r}.".encode()
        content_type = headers.get("Content-Type") or "application/octet-stream"
        for container in called:
            sent = {"Content-Type": content_type}
            if container is called[-1] and headers.get("Accept"):
                sent["Accept"] = headers["Accept"]
            status, content_type, body = self.ask(container, "POST", "/invocations", body, sent)
            if not 200 <= status < 300:
                return status, content_type, body
        return status, content_type, body

    def end(self) -> None:
        """End the containers and wait for them; who is stubborn is ended by whoever ends this process."""
        os.killpg(0, signal.SIGTERM)
        for process in self.processes:
            process.wait()

    def ask(self, container: dict[str, Any], method: str, path: str, body: bytes, headers: dict[str, str]) -> Reply:
        """A container's answer; 502 if there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", container["port"], timeout=3600)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.getheader("Content-Type") or JSON, response.read()
        except (OSError, http.client.HTTPException) as problem:
            return 502, "text/plain", f"Container {container['hostname']} does not answer: {problem}".encode()
        finally:
            connection.close()


class Server(ThreadingHTTPServer):
    """Serves an application until SIGTERM, or until nobody has asked for `ENDPOINT_IDLE_SECONDS`."""

    request_queue_size = 128

    def __init__(self, application: "Handlers | Pipeline") -> None:
        self.application = application
        self.active = 0
        self.lock = threading.Lock()
        self.last = time.monotonic()
        host, port = os.environ.get("BIND_HOST", "0.0.0.0"), int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080"))
        super().__init__((host, port), RequestHandler)

    def count(self, change: int) -> None:
        """A request has begun or ended."""
        with self.lock:
            self.active += change
            self.last = time.monotonic()

    def run(self, idle_seconds: float) -> None:
        """Serve; what has been accepted is answered before the process ends."""
        ended = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        threading.Thread(target=self.serve_forever, daemon=True).start()
        while not ended.wait(min(1.0, idle_seconds / 4)) and (
            self.active or time.monotonic() - self.last < idle_seconds
        ):
            pass
        self.shutdown()
        while self.active:
            time.sleep(0.01)
        self.application.end()


class RequestHandler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """/ping."""
        known = self.path == "/ping"
        self.reply(404 if not known else 200 if self.server.application.is_ready() else 503, "text/plain", b"")

    def do_POST(self) -> None:
        """/invocations."""
        self.server.count(1)
        try:
            body = self.body()
            found = self.path == "/invocations"
            self.reply(*(self.server.application.invoke(self.headers, body) if found else (404, "text/plain", b"")))
        finally:
            self.server.count(-1)

    def body(self) -> bytes:
        """The request's body, chunked or not."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reply(self, status: int, content_type: str, body: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are not logged."""


def main(kind: str, file: str | None = None) -> None:
    """Start what the command line names."""
    application = Pipeline(str(file)) if kind == "pipeline" else Handlers(file)
    with contextlib.suppress(KeyboardInterrupt):
        Server(application).run(float(os.environ.get("ENDPOINT_IDLE_SECONDS", "inf")))


if __name__ == "__main__":
    main(*sys.argv[1:])
