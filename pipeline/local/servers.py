"""The server process of an endpoint: started from model.tar.gz, reached over HTTP on the loopback address.

The program is the one that the container's environment names, SAGEMAKER_PROGRAM, in the `code` directory of
model.tar.gz; it is started as `python <program> serve` and told its port by SAGEMAKER_BIND_TO_PORT, its model by
SM_MODEL_DIR. It outlives the command that started it and ends by itself after ENDPOINT_IDLE_SECONDS without a request.
"""

import contextlib
import http.client
import io
import os
import secrets
import signal
import socket
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.local.answers import invalid
from pipeline.local.process import HIDDEN_PREFIXES
from pipeline.local.runtime import now
from pipeline.local.state import Document, State
from pipeline.local.storage import Storage

HOST = "127.0.0.1"
DEFAULT_IDLE_SECONDS = 900
ANSWER_TIMEOUT_SECONDS = 60  # the service's limit for one invocation


@dataclass(frozen=True)
class Answer:
    """A server's response."""

    status: int
    content_type: str
    body: bytes


def start(state: State, endpoint_name: str, config_name: str, container: dict[str, Any]) -> Document:
    """Unpack the model and start its server; what `Endpoint` documents keep of it.

    Raises:
        RequestError: the model names no program that could be started here.
    """
    program = container.get("Environment", {}).get("SAGEMAKER_PROGRAM")
    folder = state.home / "endpoints" / f"{endpoint_name}-{secrets.token_hex(4)}"
    model = folder / "model"
    model.mkdir(parents=True)
    unpack(Storage(state).read(container["ModelDataUrl"]), container["ModelDataUrl"], model)
    script = model / "code" / str(program)
    if not program or not script.is_file():
        raise invalid(f"The model has no server for this machine: model.tar.gz holds no code/{program}.")
    port = free_port()
    log = folder / "log.txt"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, str(script), "serve"],
            cwd=script.parent,
            env=environment(state, container, model, port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return {"pid": process.pid, "port": port, "log": str(log), "config": config_name, "started": now()}


def unpack(content: bytes, uri: str, folder: Path) -> None:
    """model.tar.gz into a directory.

    Raises:
        RequestError: it is no such archive.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(folder, filter="data")
    except (tarfile.TarError, OSError, EOFError) as problem:
        raise invalid(f"{uri} is not a usable model.tar.gz: {problem}") from problem


def environment(state: State, container: dict[str, Any], model: Path, port: int) -> dict[str, str]:
    """The machine's environment, the container's, and where to listen."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN_PREFIXES)}
    settings = state.get("Settings", "endpoints") or {}
    return {
        **inherited,
        "ENDPOINT_IDLE_SECONDS": str(settings.get("idle_seconds", DEFAULT_IDLE_SECONDS)),
        **container.get("Environment", {}),
        "PYTHONUNBUFFERED": "1",
        "SM_MODEL_DIR": str(model),
        "BIND_HOST": HOST,
        "SAGEMAKER_BIND_TO_PORT": str(port),
    }


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_running(server: Document | None) -> bool:
    """Whether the process lives: its number is taken, and by a server on this port."""
    if not server:
        return False
    with contextlib.suppress(ChildProcessError):
        os.waitpid(server["pid"], os.WNOHANG)
    try:
        os.kill(server["pid"], 0)
    except (ProcessLookupError, PermissionError):
        return False
    command = Path(f"/proc/{server['pid']}/environ")
    if not command.exists():
        return True
    try:
        return f"SAGEMAKER_BIND_TO_PORT={server['port']}\0".encode() in command.read_bytes()
    except OSError:
        return False


def is_healthy(server: Document | None) -> bool:
    """Whether /ping answers 200 within two seconds."""
    answer = request(server, "GET", "/ping", timeout_seconds=2) if is_running(server) else None
    return answer is not None and answer.status == 200


def post(server: Document, body: bytes, headers: dict[str, str]) -> Answer | None:
    """POST /invocations; None if nobody answers."""
    return request(server, "POST", "/invocations", body, headers, timeout_seconds=ANSWER_TIMEOUT_SECONDS)


def request(
    server: Document | None,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    *,
    timeout_seconds: float,
) -> Answer | None:
    """One HTTP request; None if nobody answers."""
    if not server:
        return None
    connection = http.client.HTTPConnection(HOST, server["port"], timeout=timeout_seconds)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Answer(response.status, response.getheader("Content-Type") or "", response.read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def stop(server: Document | None) -> None:
    """Ask the process to end; it finishes what it has accepted."""
    if server and is_running(server):
        with contextlib.suppress(ProcessLookupError):
            os.kill(server["pid"], signal.SIGTERM)


def failure(server: Document) -> str:
    """Why a server did not come up: the end of its log."""
    log = Path(server["log"])
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"The server did not pass /ping: {last} (log: {log})"
