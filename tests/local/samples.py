"""What tests of the local target run: steps of a line of Python, a model served by the standard library, processes."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
IMAGE = "000000000000.dkr.ecr.us-east-1.amazonaws.com/any:local"

SERVER = r"""
import json, os, signal, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODE = os.environ.get("MODE", "")
NAME = (Path(os.environ["SM_MODEL_DIR"]) / "name.txt").read_text()
last = time.monotonic()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(503 if MODE == "deaf" else 200, b"")

    def do_POST(self):
        global last
        last = time.monotonic()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        word, _, number = body.decode(errors="replace").partition(" ")
        if word == "crash":
            os._exit(3)
        if word == "sleep":
            time.sleep(float(number))
        said = {"model": NAME, "pid": os.getpid(), "headers": dict(self.headers), "bytes": len(body),
                "environment": dict(os.environ)}
        self.answer(int(number) if word == "status" else 200, json.dumps(said).encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if "X-Amzn-SageMaker-Custom-Attributes" in self.headers:
            self.send_header("X-Amzn-SageMaker-Custom-Attributes", "seen")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def end_when_idle(seconds):
    while time.monotonic() - last < seconds:
        time.sleep(0.02)
    os._exit(0)


assert sys.argv[1:] == ["serve"], sys.argv
if MODE == "dies":
    sys.exit("ValueError: no such weights")
if MODE == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(float(os.environ.get("SECONDS_TO_START", "0")))
threading.Thread(target=end_when_idle, args=[float(os.environ["ENDPOINT_IDLE_SECONDS"])], daemon=True).start()
address = os.environ["BIND_HOST"], int(os.environ["SAGEMAKER_BIND_TO_PORT"])
ThreadingHTTPServer(address, Handler).serve_forever()
"""


def model_archive(name: str, **files: str | bytes) -> bytes:
    """A model.tar.gz whose server says its name."""
    buffer = io.BytesIO()
    content = {"name.txt": name, "code/serve.py": SERVER, **files}
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, text in content.items():
            member, body = tarfile.TarInfo(path), text.encode() if isinstance(text, str) else text
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return buffer.getvalue()


def python_step(name: str, code: str, *, depends_on: list[str] | None = None, **members: Any) -> dict[str, Any]:
    """A Processing step that runs a line of Python."""
    return {
        "Name": name,
        "Type": "Processing",
        "DependsOn": depends_on or [],
        "Arguments": {
            "AppSpecification": {"ImageUri": IMAGE, "ContainerEntrypoint": ["python3", "-c", code]},
            "ProcessingResources": {
                "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.t3.medium", "VolumeSizeInGB": 1}
            },
            "RoleArn": "arn:aws:iam::000000000000:role/local-pipeline",
        },
        **members,
    }


def definition(*steps: dict[str, Any], **members: Any) -> dict[str, Any]:
    """A definition of those steps."""
    return {"Version": "2020-12-01", "Metadata": {}, "Parameters": [], "Steps": list(steps), **members}


def command_line(*words: object) -> list[str]:
    """The words that start run_pipeline.py."""
    return [sys.executable, str(ROOT / "run_pipeline.py"), *map(str, words)]


def run_cli(*words: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    """run_pipeline.py, to its end."""
    return subprocess.run(
        command_line(*words), capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, **settings
    )


def status_of(home: Path, name: str) -> dict[str, Any]:
    """`status --json` of a pipeline's newest execution."""
    done = run_cli("status", "--json", "--home", home, "--pipeline", name)
    assert done.stdout, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def statuses(document: dict[str, Any]) -> dict[str, str]:
    """Step name -> status."""
    return {step["name"]: step["status"] for step in document["steps"]}


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Until the condition holds; a failure when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def processes_of(folder: Path) -> list[int]:
    """Processes that were told of a folder, by their arguments or their environment."""
    marker = os.fsencode(folder)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            if marker in told and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def zombies() -> list[int]:
    """Children of this process that have ended and that nobody has waited for."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state == "Z" and int(parent) == os.getpid():
                found.append(int(entry.name))
    return found
