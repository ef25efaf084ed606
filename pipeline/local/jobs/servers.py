"""The server process of an endpoint: started from model.tar.gz, reached over HTTP on the loopback address.

The program is the one that the container's environment names, SAGEMAKER_PROGRAM, in the `code` directory of
model.tar.gz; it is started as `python <program> serve` and told its port by SAGEMAKER_BIND_TO_PORT, its model by
SM_MODEL_DIR. It outlives the command that started it and ends by itself after ENDPOINT_IDLE_SECONDS without a request.
Its files are in `endpoints/<endpoint>/<token>`, its log beside them.
"""

import ast
import contextlib
import http.client
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.local.jobs.model_data import place_model
from pipeline.local.jobs.runtime import now
from pipeline.local.sandbox.environment import guest_environment
from pipeline.local.sandbox.requirements import INSTALL, are_met
from pipeline.local.store.answers import invalid
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage

HOST = "127.0.0.1"
DEFAULT_IDLE_SECONDS = 900
STARTUP_SECONDS = 240  # until the first good /ping, unless the variant's ContainerStartupHealthCheck... says otherwise
ANSWER_TIMEOUT_SECONDS = 60.0  # the service's limit for one invocation
TIMED_OUT = b"Your invocation timed out while waiting for a response from container primary."
PING_TIMEOUT_SECONDS = 2.0
STOP_SECONDS = 10.0  # between SIGTERM and SIGKILL
REASON_CHARACTERS = 500
DEFAULT_PROGRAM = "inference.py"
HANDLERS = {"model_fn", "input_fn", "predict_fn", "output_fn", "transform_fn"}
PORTS = range(20000, 32768)
BIND_SECONDS = 5.0  # that a forwarder waits for the port of a server which is about to end
FORWARDER = Path(__file__).with_name("port_forwarder.py")
OWN_SERVER = Path(__file__).with_name("inference_server.py")
CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
TARGET_CONTAINER = "X-Amzn-SageMaker-Target-Container-Hostname"


@dataclass(frozen=True)
class Program:
    """What starts a server."""

    words: list[str]
    folder: Path
    environment: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """A server's response. Status 0 stands for none within the time limit."""

    status: int
    content_type: str
    body: bytes
    custom_attributes: str | None = None


def start(
    state: State, endpoint_name: str, containers: list[Document], *, direct: bool = False, port: int | None = None
) -> Document:
    """Unpack the model and start its server: what is kept of its process.

    Args:
        containers: one, or those of an inference pipeline, which a process of ours then stands before.
        direct: whether a request names the container, instead of passing through all.
        port: None for any that is free.

    Raises:
        RequestError: a model's data cannot be read, or it brings nothing that could be started here.
    """
    folder = folder_of(state, endpoint_name) / secrets.token_hex(4)
    port, log = port or free_port(state), folder.with_suffix(".log")
    try:
        several = len(containers) > 1
        placed = [
            launched(state, container, folder / f"model{number or ''}", free_port(state) if several else port)
            for number, container in enumerate(containers, int(several))
        ]
        program = pipeline_of(state, placed, containers, folder, direct=direct, port=port) if several else placed[0]
        with log.open("ab") as output:
            process = subprocess.Popen(
                program.words,
                cwd=program.folder,
                env=program.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return {
        "pid": process.pid,
        "birth": birth(process.pid),
        "port": port,
        "folder": str(folder),
        "log": str(log),
        "started": now(),
        "idle_seconds": program.environment["ENDPOINT_IDLE_SECONDS"],
    }


def folder_of(state: State, endpoint_name: str) -> Path:
    """Where the servers of an endpoint have their files."""
    return state.home / "endpoints" / endpoint_name


def launched(state: State, container: Document, model: Path, port: int) -> Program:
    """The program that serves a container's model, which is unpacked.

    Raises:
        RequestError: see `start`.
    """
    model.mkdir(parents=True)
    place_model(Storage(state), container, model)
    words, script = server_command(container, model)
    variables = environment(state, container, model, port)
    requirements = model / "code" / "requirements.txt"
    if not are_met(requirements):
        words = ["/bin/sh", "-c", INSTALL, str(requirements), *words]
    return Program(words, script.parent if script else model, variables)


def server_command(container: Document, model: Path) -> tuple[list[str], Path | None]:
    """The words that start a model's server, and its script: the script itself, or ours around its handlers.

    Raises:
        RequestError: the model holds nothing to start.
    """
    variables, image = container.get("Environment", {}), str(container.get("Image", ""))
    name = variables.get("SAGEMAKER_PROGRAM", DEFAULT_PROGRAM)
    if container.get("Mode") == "MultiModel":
        raise invalid(
            "The model's container has the Mode MultiModel, whose server is its image's; make a model for each."
        )
    if not name:
        raise invalid(
            "The model's SAGEMAKER_PROGRAM is empty, which the inference toolkits take for a module without a name; "
            "leave it out, or name a script of the model's code directory."
        )
    script = model / "code" / str(name)
    if script.is_file():
        ours = [str(OWN_SERVER), "handlers", str(script)]
        return [sys.executable, *(ours if has_handlers(script) else [str(script), "serve"])], script
    if "SAGEMAKER_PROGRAM" not in variables and "pytorch" in image and any(model.glob("*.pt*")):
        return [sys.executable, str(OWN_SERVER), "handlers"], None
    raise invalid(
        f"The model has no server for this machine: its data holds no code/{name}, and what its image "
        f"{image.rpartition('/')[2] or 'of no name'} would serve it with is not here. Put a script with model_fn and "
        "predict_fn into the model's code directory, and name it by SAGEMAKER_PROGRAM."
    )


def has_handlers(script: Path) -> bool:
    """Whether a script defines handlers for a toolkit's server, and is no server itself.

    Raises:
        RequestError: it is no Python.
    """
    try:
        tree = ast.parse(script.read_bytes())
    except (SyntaxError, ValueError) as problem:
        raise invalid(f"The model's code/{script.name} is not Python: {problem}") from problem
    defined = {getattr(node, "name", None) for node in tree.body}
    assigned = (target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets)
    defined |= {target.id for target in assigned if isinstance(target, ast.Name)}
    imports = (alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names)
    defined |= {alias.asname or alias.name for alias in imports}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return bool(defined & HANDLERS) and texts.isdisjoint(("serve", "SAGEMAKER_BIND_TO_PORT"))


def pipeline_of(
    state: State, placed: list[Program], containers: list[Document], folder: Path, *, direct: bool, port: int
) -> Program:
    """The program that starts the servers of an inference pipeline and stands before them."""
    description = folder / "containers.json"
    items = [
        {
            "words": program.words,
            "folder": str(program.folder),
            "environment": {**program.environment, "ENDPOINT_IDLE_SECONDS": "inf"},
            "port": int(program.environment["SAGEMAKER_BIND_TO_PORT"]),
            "hostname": container.get("ContainerHostname", f"container-{number}"),
        }
        for number, (program, container) in enumerate(zip(placed, containers, strict=True), 1)
    ]
    description.write_text(json.dumps({"direct": direct, "containers": items}))
    words = [sys.executable, str(OWN_SERVER), "pipeline", str(description)]
    return Program(words, folder, environment(state, {}, folder / "model", port))


def environment(state: State, container: dict[str, Any], model: Path, port: int) -> dict[str, str]:
    """What a container would have, the container's own, and where to listen."""
    settings = state.get("Settings", "endpoints") or {}
    own = {
        "ENDPOINT_IDLE_SECONDS": str(settings.get("idle_seconds", DEFAULT_IDLE_SECONDS)),
        **container.get("Environment", {}),
        "SM_MODEL_DIR": str(model),
        "BIND_HOST": HOST,
        "SAGEMAKER_BIND_TO_PORT": str(port),
    }
    home = model.with_name(f"{model.name}-home")
    (home / ".packages").mkdir(parents=True, exist_ok=True)
    return guest_environment(own, home, state.home / "packages")


def free_port(state: State) -> int:
    """A port that nobody listens on and no endpoint of the home has, awake or asleep.

    Linux gives none of these to connections: one that is made to a server before it listens could be given the server's
    own port, which would then be taken.
    """
    taken = {document.get("Port") for document in state.all("Endpoint")}
    return next(port for port in random.sample(PORTS, len(PORTS)) if port not in taken and is_free(port))


def is_free(port: int) -> bool:
    """Whether nobody listens on a port."""
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        return True
    return False


def forward(server: Document, port: int, listener: socket.socket | None = None) -> Document:
    """Hand the connections of a port on to a server, by a process that ends with it; what is kept of that process.

    Args:
        listener: listens on the port already; None: the process waits a while for whoever has it.
    """
    numbers = (port, server["port"], server["pid"], BIND_SECONDS, *([listener.fileno()] if listener else []))
    with Path(server["log"]).open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", str(FORWARDER), *map(str, numbers)],
            env={"SM_MODEL_DIR": f"{server['folder']}/"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[listener.fileno()] if listener else [],
        )
    return {"pid": process.pid, "birth": birth(process.pid)}


def is_running(server: Document | None) -> bool:
    """Whether the server's process lives."""
    if not server:
        return False
    with contextlib.suppress(ChildProcessError):
        os.waitpid(server["pid"], os.WNOHANG)
    return bool(birth(server["pid"]) == server["birth"])


def birth(pid: int) -> str | None:
    """What tells a living process from a later one of the same number: when it began; None for one that has ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else birth_without_proc(pid)
    return None if state in ("Z", "X") else rest[18]  # field 22 of proc(5), in clock ticks since the machine's start


def birth_without_proc(pid: int) -> str | None:
    """The same where the system does not tell (macOS): the number has to do."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return None
    return "unknown"


def is_healthy(server: Document | None) -> bool:
    """Whether /ping answers 200 within two seconds."""
    if not server or not is_running(server):
        return False
    try:
        answer = request(server, "GET", "/ping", timeout_seconds=PING_TIMEOUT_SECONDS)
    except TimeoutError:
        return False
    return answer is not None and answer.status == 200


def post(
    server: Document, body: bytes, headers: dict[str, str], *, timeout_seconds: float | None = None
) -> Answer | None:
    """POST /invocations; None if nobody answers."""
    seconds = ANSWER_TIMEOUT_SECONDS if timeout_seconds is None else timeout_seconds
    try:
        return request(server, "POST", "/invocations", body, headers, timeout_seconds=seconds)
    except TimeoutError:
        return Answer(0, "text/plain", TIMED_OUT)


def request(
    server: Document,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    *,
    timeout_seconds: float,
) -> Answer | None:
    """One HTTP request; None if nobody answers.

    Raises:
        TimeoutError: the answer takes too long.
    """
    connection = http.client.HTTPConnection(HOST, server["port"], timeout=timeout_seconds)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Answer(
            response.status,
            response.getheader("Content-Type") or "",
            response.read(),
            response.getheader(CUSTOM_ATTRIBUTES),
        )
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def stop(server: Document | None, forwarder: Document | None = None) -> None:
    """Ask the process to end, which lets it finish what it has accepted; end it if it does not; remove its files."""
    if forwarder:
        send(forwarder, signal.SIGTERM)
    if not server:
        return
    deadline = time.monotonic() + STOP_SECONDS
    send(server, signal.SIGTERM)
    while is_running(server):
        if time.monotonic() > deadline:
            send(server, signal.SIGKILL)
        time.sleep(0.02)
    reap(server["pid"])
    if forwarder:
        reap(forwarder["pid"])
    end_processes(Path(server["folder"]))
    shutil.rmtree(server["folder"], ignore_errors=True)


def end_forwarder(forwarder: Document | None) -> None:
    """Free a port; what is connected is ended too."""
    if forwarder:
        send(forwarder, signal.SIGKILL)
        reap(forwarder["pid"])


def reap(pid: int) -> None:
    """Leave no zombie, in case this process is the parent; the end of a process takes a moment."""
    deadline = time.monotonic() + 1
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.005)


def send(server: Document, number: signal.Signals) -> None:
    """A signal to the process and all that it started, while it runs."""
    if is_running(server):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server["pid"], number)


def end_strays(state: State, endpoint_name: str) -> None:
    """End servers of the endpoint that no record knows, since who started them was killed; their logs stay."""
    end_processes(folder_of(state, endpoint_name))
    for model in folder_of(state, endpoint_name).glob("*/"):
        shutil.rmtree(model, ignore_errors=True)


def end_processes(folder: Path) -> None:
    """End what serves a model of a folder, such as the containers of a pipeline that was killed (on Linux)."""
    marker = f"SM_MODEL_DIR={folder}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(variable.startswith(marker) for variable in (process / "environ").read_bytes().split(b"\0")):
                os.kill(int(process.name), signal.SIGKILL)


def failure(server: Document) -> str:
    """Why a server did not come up: the end of its log."""
    log = Path(server["log"])
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"The server did not pass /ping: {last[:REASON_CHARACTERS]} (log: {log})"
