"""The server process of an endpoint or a transform job: started from a model's data, reached over HTTP on 127.0.0.1.

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
import symtable
import sys
import time
from collections.abc import Mapping
from importlib.util import decode_source
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pipeline.local.jobs.model_data import place_model, resolved_containers
from pipeline.local.jobs.runtime import now
from pipeline.local.sandbox.environment import INSTALL, are_met, guest_environment
from pipeline.local.sandbox.launcher import words_in
from pipeline.local.sandbox.namespaces import Place, find_mount
from pipeline.local.store.answers import invalid
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage

HOST = "127.0.0.1"
DEFAULT_IDLE_SECONDS = 900
STARTUP_SECONDS = 240  # until the first good /ping, unless the variant's ContainerStartupHealthCheck... says otherwise
ANSWER_TIMEOUT_SECONDS = 60.0  # the service's limit for one invocation
PING_TIMEOUT_SECONDS = 2.0
STOP_SECONDS = 10.0  # between SIGTERM and SIGKILL
BIND_SECONDS = 5.0  # that a forwarder waits for the port of a server which is about to end
REASON_CHARACTERS = 500
DEFAULT_PROGRAM = "inference.py"
HANDLERS = {"model_fn", "input_fn", "predict_fn", "output_fn", "transform_fn"}
PORTS = range(20000, 32768)  # Linux gives none of these to outgoing connections
FORWARDER = Path(__file__).with_name("port_forwarder.py")
OWN_SERVER = Path(__file__).with_name("inference_server.py")
CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
NONE: Mapping[str, str] = MappingProxyType({})


class Answer(NamedTuple):
    """A server's response; status 0 stands for none in time."""

    status: int
    headers: dict[str, str]
    body: bytes


TIMED_OUT = Answer(0, {}, b"Your invocation timed out while waiting for a response from container primary.")


def start(
    state: State, endpoint_name: str, model_name: str, *, environment: Mapping[str, str] = NONE, port: int | None = None
) -> Document:
    """Unpack a model and start its server, at any free port unless one is given; return what is kept of its process.

    Several containers, which answer in turn, have a server each, started by a process that stands before them.

    Raises:
        RequestError: a model's data cannot be read, or it brings nothing that could be started here.
    """
    containers = resolved_containers(state, model_name, environment)
    folder = folder_of(state, endpoint_name) / secrets.token_hex(4)
    port, log = port or free_port(state), folder.with_suffix(".log")
    try:
        if len(containers) == 1:
            program = program_of(state, containers[0], folder / "model", port)
        else:
            inner = [
                program_of(state, container, folder / f"model{number}", free_port(state), ENDPOINT_IDLE_SECONDS="inf")
                for number, container in enumerate(containers, 1)
            ]
            (folder / "containers.json").write_text(json.dumps(inner))
            words = [sys.executable, str(OWN_SERVER), "pipeline", str(folder / "containers.json")]
            program = {"args": words, "cwd": str(folder), "env": variables_of(state, {}, folder / "model", port)}
        if found := find_mount(state.home):
            place = Place(program["cwd"], folder / "place", writable=[folder])
            program = {**program, "args": words_in(found, place, program["args"])}
        process = spawn(log, **program)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    idle_seconds = program["env"]["ENDPOINT_IDLE_SECONDS"]
    files = {"folder": str(folder), "log": str(log)}
    return {**process, "port": port, **files, "started": now(), "idle_seconds": idle_seconds}


def folder_of(state: State, endpoint_name: str) -> Path:
    """Return where the servers of an endpoint have their files."""
    return state.home / "endpoints" / endpoint_name


def spawn(log: Path, **options: Any) -> Document:
    """Start a process that outlives this one and writes to a log; return what tells it from others."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            **options, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    return {"pid": process.pid, "birth": birth(process.pid)}


def program_of(state: State, container: Document, model: Path, port: int, **variables: str) -> Document:
    """Unpack a container's model; return the arguments of Popen that start its server.

    Raises:
        RequestError: see `start`.
    """
    model.mkdir(parents=True)
    place_model(Storage(state), container, model)
    words, folder = server_command(container, model)
    requirements = model / "code" / "requirements.txt"
    if not are_met(requirements):
        words = ["/bin/sh", "-c", INSTALL, str(requirements), *words]
    own = {**container["Environment"], **variables}
    return {"args": words, "cwd": str(folder), "env": variables_of(state, own, model, port)}


def server_command(container: Document, model: Path) -> tuple[list[str], Path]:
    """Return the words that start a model's server, the script itself or ours around its handlers, and their directory.

    Raises:
        RequestError: the model holds nothing to start.
    """
    variables, image = container["Environment"], str(container.get("Image", ""))
    name = variables.get("SAGEMAKER_PROGRAM", DEFAULT_PROGRAM)
    if not name:
        raise invalid(
            "The model's SAGEMAKER_PROGRAM is empty, which the inference toolkits take for a module without a name; "
            "leave it out, or name a script of the model's code directory."
        )
    script = model / "code" / str(name)
    if script.is_file():
        ours = [str(OWN_SERVER), "handlers", str(script)]
        return [sys.executable, *(ours if has_handlers(script) else [str(script), "serve"])], script.parent
    if "SAGEMAKER_PROGRAM" not in variables and "pytorch" in image and any(model.glob("*.pt*")):
        return [sys.executable, str(OWN_SERVER), "handlers"], model
    raise invalid(
        f"The model has no server for this machine: its data holds no code/{name}, and what its image "
        f"{image.rpartition('/')[2] or 'of no name'} would serve it with is not here. Put a script with model_fn and "
        "predict_fn into the model's code directory, and name it by SAGEMAKER_PROGRAM."
    )


def has_handlers(script: Path) -> bool:
    """Return whether a script defines handlers for a toolkit's server, and is no server itself.

    Raises:
        RequestError: it is no Python.
    """
    try:
        code = decode_source(script.read_bytes())
        names = symtable.symtable(code, script.name, "exec").get_symbols()
        texts = {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
    except (SyntaxError, ValueError) as problem:
        raise invalid(f"The model's code/{script.name} is not Python: {problem}") from problem
    defined = {name.get_name() for name in names if name.is_assigned() or name.is_imported()}
    return bool(defined & HANDLERS) and texts.isdisjoint(("serve", "SAGEMAKER_BIND_TO_PORT"))


def variables_of(state: State, own: Mapping[str, str], model: Path, port: int) -> dict[str, str]:
    """Return what a container's environment would have, its own variables, and where to listen."""
    settings = state.get("Settings", "endpoints") or {}
    told = {
        "ENDPOINT_IDLE_SECONDS": str(settings.get("idle_seconds", DEFAULT_IDLE_SECONDS)),
        **own,
        "SM_MODEL_DIR": str(model),
        "BIND_HOST": HOST,
        "SAGEMAKER_BIND_TO_PORT": str(port),
    }
    home, store = model.with_name(f"{model.name}-home"), state.home / "packages"
    for folder in (home / ".packages", store):
        folder.mkdir(parents=True, exist_ok=True)
    return guest_environment(told, home, store)


def free_port(state: State) -> int:
    """Return a port that nobody listens on and no endpoint of the home has, awake or asleep."""
    taken = {document.get("Port") for document in state.all("Endpoint")}
    return next(port for port in random.sample(PORTS, len(PORTS)) if port not in taken and is_free(port))


def is_free(port: int) -> bool:
    """Return whether nobody listens on a port."""
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        return True
    return False


def forward(server: Document, port: int, listener: socket.socket | None = None) -> Document:
    """Hand the connections of a port on to a server, by a process that ends with it; return what is kept of it.

    Args:
        listener: listens on the port already; None: the process waits a while for whoever has it.
    """
    inherited = [listener.fileno()] if listener else []
    numbers = (port, server["port"], server["pid"], BIND_SECONDS, *inherited)
    words = [sys.executable, "-I", str(FORWARDER), *map(str, numbers)]
    return spawn(Path(server["log"]), args=words, env={"SM_MODEL_DIR": f"{server['folder']}/"}, pass_fds=inherited)


def is_running(process: Document | None) -> bool:
    """Return whether a process of a server or a forwarder lives; a child of ours that has ended is waited for."""
    if process is None or birth(process["pid"]) == process["birth"]:
        return process is not None
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process["pid"], os.WNOHANG)
    return False


def birth(pid: int) -> str | None:
    """Return when a living process began, which tells it from a later one of its number; None if it has ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in ("Z", "X") else rest[18]  # field 22 of proc(5), in clock ticks since the machine's start


def is_healthy(server: Document) -> bool:
    """Return whether the server runs and its /ping answers 200 within two seconds."""
    reply = ask(server, "/ping", timeout_seconds=PING_TIMEOUT_SECONDS) if is_running(server) else None
    return reply is not None and reply.status == 200


def ask(
    server: Document,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] = NONE,
    *,
    timeout_seconds: float | None = None,
) -> Answer | None:
    """Return the reply to a GET, or a POST of a body; TIMED_OUT if that takes too long, None if nobody replies."""
    seconds = ANSWER_TIMEOUT_SECONDS if timeout_seconds is None else timeout_seconds
    connection = http.client.HTTPConnection(HOST, server["port"], timeout=seconds)
    try:
        connection.request("GET" if body is None else "POST", path, body, dict(headers))
        response = connection.getresponse()
        names = [name for name in ("Content-Type", CUSTOM_ATTRIBUTES) if name in response.headers]
        return Answer(response.status, {name: response.headers[name] for name in names}, response.read())
    except TimeoutError:
        return TIMED_OUT
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def stop(server: Document | None, forwarder: Document | None = None) -> None:
    """Ask a server to end, which lets it finish what it has accepted; end it if it does not; remove its files."""
    deadline = time.monotonic() + STOP_SECONDS
    send(forwarder, signal.SIGTERM)
    send(server, signal.SIGTERM)
    while is_running(server):
        if time.monotonic() > deadline:
            send(server, signal.SIGKILL)
        time.sleep(0.02)
    if server:
        end_processes(Path(server["folder"]))
        shutil.rmtree(server["folder"], ignore_errors=True)


def send(process: Document | None, number: signal.Signals) -> None:
    """Send a signal to a process and all that it started, while it runs."""
    if process and is_running(process):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process["pid"], number)


def end_strays(state: State, endpoint_name: str) -> None:
    """End servers of the endpoint that no record knows, since who started them was killed; their logs stay."""
    end_processes(folder_of(state, endpoint_name))
    for model in folder_of(state, endpoint_name).glob("*/"):
        shutil.rmtree(model, ignore_errors=True)


def end_processes(folder: Path) -> None:
    """End what serves a model of a folder, such as the containers of a pipeline that was killed."""
    marker = f"SM_MODEL_DIR={folder}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(variable.startswith(marker) for variable in (process / "environ").read_bytes().split(b"\0")):
                os.kill(int(process.name), signal.SIGKILL)


def failure(server: Document) -> str:
    """Return why a server did not come up: the end of its log."""
    log = Path(server["log"])
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"The server did not pass /ping: {last[:REASON_CHARACTERS]} (log: {log})"
