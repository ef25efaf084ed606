"""A server for models that bring none: it answers /ping and /invocations as an inference container does.

    python inference_server.py handlers [SCRIPT]   calls a script's model_fn, input_fn, predict_fn and output_fn, or its
                                                   transform_fn, as SageMaker's inference toolkits do
    python inference_server.py pipeline FILE       starts the servers of an inference pipeline's containers, and hands
                                                   the answer of one to the next

It runs in the model's environment, so it imports nothing of this project. Sources: sagemaker-inference-toolkit
(transformer.py, decoder.py, encoder.py), sagemaker-pytorch-inference-toolkit (default_pytorch_inference_handler.py);
AWS guide, "inference-pipelines" and "inference-pipeline-real-time".
"""

import http.client
import importlib
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
from types import SimpleNamespace
from typing import Any

JSON, CSV, NPY, TEXT = "application/json", "text/csv", "application/x-npy", "text/plain"
HOST, PORT = os.environ["BIND_HOST"], int(os.environ["SAGEMAKER_BIND_TO_PORT"])
IDLE_SECONDS = float(os.environ["ENDPOINT_IDLE_SECONDS"])
POLL_SECONDS = 0.1
Reply = tuple[int, str, bytes]  # status, content type, body


class UnsupportedFormatError(Exception):
    """A content type that a default handler does not know."""


def model_fn(model_dir: str) -> Any:
    """Load TorchScript: model.pt, or the only .pt or .pth there is."""
    found = [path for path in Path(model_dir).iterdir() if path.suffix in (".pt", ".pth")]
    named = [path for path in found if path.name == "model.pt"] or found
    if len(named) != 1:
        raise SystemExit(f"The model needs a model_fn in its script, or one TorchScript file, but has {len(found)}.")
    import torch

    read: Any = torch.jit.load
    return read(str(named[0]), map_location="cpu").eval()


def input_fn(data: str | bytes, content_type: str) -> Any:
    """Return an array of NumPy."""
    import numpy

    if content_type == JSON:
        return numpy.array(json.loads(data))
    if content_type == CSV:
        return numpy.genfromtxt(io.StringIO(str(data)), dtype=numpy.float32, delimiter=",")
    if content_type == NPY and isinstance(data, bytes):
        return numpy.load(io.BytesIO(data), allow_pickle=False)
    raise UnsupportedFormatError(f"Content type {content_type} is not supported by this framework; write an input_fn.")


def predict_fn(data: Any, model: Any) -> Any:
    """Return what the model's own predict, or a call of a PyTorch module gives."""
    if hasattr(model, "predict"):
        return model.predict(data)
    import torch

    with torch.no_grad():
        return model(torch.as_tensor(data, dtype=torch.float32))


def output_fn(prediction: Any, accept: str) -> Any:
    """Return JSON, CSV or NPY of an array."""
    import numpy

    array = numpy.asarray(prediction.detach().cpu() if hasattr(prediction, "detach") else prediction)
    if accept == JSON:
        return json.dumps(array.tolist())
    buffer = io.BytesIO()
    if accept == CSV:
        numpy.savetxt(buffer, array, delimiter=",", fmt="%s")
    elif accept == NPY:
        numpy.save(buffer, array)
    else:
        raise UnsupportedFormatError(f"Accept {accept} is not supported by this framework; write an output_fn.")
    return buffer.getvalue()


class Handlers:
    """A script's handler functions, around the defaults above. One request at a time: a model is no thread's own."""

    def __init__(self, script: str | None = None) -> None:
        self.lock = threading.Lock()
        self.script: Any = None
        if script:
            sys.path[0] = str(Path(script).parent)  # in place of this file's folder
            self.script = importlib.import_module(Path(script).stem)
        mixed = [name for name in ("input_fn", "predict_fn", "output_fn") if hasattr(self.script, name)]
        if hasattr(self.script, "transform_fn") and mixed:
            raise SystemExit(f"Cannot use transform_fn in conjunction with {', '.join(mixed)}.")
        self.model = self.call(model_fn, os.environ["SM_MODEL_DIR"])

    def is_ready(self) -> bool:
        """Return True: the model is loaded before anything listens."""
        return True

    def invoke(self, body: bytes, content_type: str | None, accept: str | None) -> Reply:
        """Return the prediction; 415 for an unknown content type, 500 for what a handler raises."""
        content_type = content_type or JSON
        if accept in (None, "*/*"):
            accept = os.environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", JSON)
        try:
            data = body.decode() if content_type in (JSON, CSV) else body
            with self.lock:
                if hasattr(self.script, "transform_fn"):
                    result = self.call(self.script.transform_fn, self.model, data, content_type, accept)
                else:
                    prediction = self.call(predict_fn, self.call(input_fn, data, content_type), self.model)
                    result = self.call(output_fn, prediction, accept)
        except UnsupportedFormatError as problem:
            return 415, TEXT, str(problem).encode()
        except Exception as problem:  # noqa: BLE001  a handler may raise anything; the toolkits answer 500
            traceback.print_exc()
            return 500, TEXT, f"{type(problem).__name__}: {problem}".encode()
        result, answered = result if isinstance(result, tuple) else (result, str(accept))
        if not isinstance(result, bytes | bytearray):
            result = (result if isinstance(result, str) else json.dumps(result)).encode()
        return 200, answered, bytes(result)

    def call(self, default: Callable[..., Any], *arguments: Any) -> Any:
        """Call the script's handler, or the default for it; one that takes one argument more gets the context."""
        function = getattr(self.script, default.__name__, default)
        parameters = inspect.signature(function).parameters.values()
        places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        context = SimpleNamespace(system_properties={"model_dir": os.environ["SM_MODEL_DIR"], "gpu_id": None})
        return function(*arguments, *([context] if len(places) > len(arguments) else []))


class Pipeline:
    """The servers of several containers, called in turn. They live and die together, with this process."""

    def __init__(self, file: str) -> None:
        programs = json.loads(Path(file).read_text())
        self.ports = [int(program["env"]["SAGEMAKER_BIND_TO_PORT"]) for program in programs]
        for program in programs:
            threading.Thread(target=self.run, args=[program], daemon=True).start()

    def run(self, program: dict[str, Any]) -> None:
        """Run a container's server; when it ends, all end."""
        subprocess.run(**program, check=False)
        os.killpg(0, signal.SIGTERM)

    def is_ready(self) -> bool:
        """Return whether every container is."""
        return all(self.ask(port, "GET", "/ping")[0] == 200 for port in self.ports)

    def invoke(self, body: bytes, content_type: str | None, accept: str | None) -> Reply:
        """Return the last container's answer, or the first that is not 2xx; the last one gets the request's Accept."""
        sent = content_type or "application/octet-stream"
        for port in self.ports:
            wanted = {"Accept": accept} if accept and port == self.ports[-1] else {}
            status, sent, body = self.ask(port, "POST", "/invocations", body, {"Content-Type": sent, **wanted})
            if not 200 <= status < 300:
                break
        return status, sent, body

    def ask(self, port: int, method: str, path: str, *content: Any) -> Reply:
        """Return a container's answer; 502 if there is none."""
        connection = http.client.HTTPConnection(HOST, port, timeout=3600)
        try:
            connection.request(method, path, *content)
            response = connection.getresponse()
            return response.status, response.getheader("Content-Type") or JSON, response.read()
        except (OSError, http.client.HTTPException) as problem:
            return 502, TEXT, f"Container {self.ports.index(port) + 1} does not answer: {problem}".encode()
        finally:
            connection.close()


class Server(ThreadingHTTPServer):
    """Serves an application until SIGTERM, or until nobody has asked for `ENDPOINT_IDLE_SECONDS`."""

    request_queue_size = 128

    def __init__(self, application: Handlers | Pipeline) -> None:
        self.application = application
        self.answering: set[RequestHandler] = set()
        self.last, self.is_told_to_end = time.monotonic(), False
        super().__init__((HOST, PORT), RequestHandler)

    def run(self) -> None:
        """Serve; what has been accepted is answered before the process ends, and with it what it has started."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "is_told_to_end", True))
        self.timeout = min(POLL_SECONDS, IDLE_SECONDS / 4)
        while not self.is_told_to_end and (self.answering or time.monotonic() - self.last < IDLE_SECONDS):
            self.handle_request()
        self.socket.close()
        time.sleep(POLL_SECONDS)  # for what has just been accepted
        while self.answering:
            time.sleep(0.01)
        os.killpg(0, signal.SIGTERM)


class RequestHandler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer /ping."""
        status = 404 if self.path != "/ping" else 200 if self.server.application.is_ready() else 503
        self.reply(status, TEXT, b"")

    def do_POST(self) -> None:
        """Answer /invocations."""
        self.server.answering.add(self)
        try:
            body, kinds = self.body(), (self.headers.get("Content-Type"), self.headers.get("Accept"))
            found = self.path == "/invocations"
            self.reply(*(self.server.application.invoke(body, *kinds) if found else (404, TEXT, b"")))
        finally:
            self.server.last = time.monotonic()
            self.server.answering.discard(self)

    def body(self) -> bytes:
        """Return the request's body, chunked or not."""
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
        """Log nothing of requests."""


if __name__ == "__main__":
    applications: dict[str, Callable[..., Handlers | Pipeline]] = {"handlers": Handlers, "pipeline": Pipeline}
    Server(applications[sys.argv[1]](*sys.argv[2:])).run()
