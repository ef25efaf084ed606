"""The server of a model: a process that answers over HTTP on 127.0.0.1, of an endpoint or of a transform job.

Its program is the one that the container's environment names, SAGEMAKER_PROGRAM, in the `code` directory of
model.tar.gz, else the one that its image stands for: it is started as `python <program> serve` and told its port by
SAGEMAKER_BIND_TO_PORT, its model by SM_MODEL_DIR. Handlers without a server get ours. It outlives the process that
started it, and ends by itself after ENDPOINT_IDLE_SECONDS without a request.
"""

import ast
import contextlib
import http.client
import io
import json
import lzma
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pipeline.local.checks.steps import model_problems
from pipeline.local.jobs.runtime import arn, now
from pipeline.local.sandbox.environment import INSTALL, are_met, guest_environment
from pipeline.local.sandbox.launcher import parsed, start_in, supervisor, written
from pipeline.local.sandbox.namespaces import Place, find_mount
from pipeline.local.sandbox.process import last_lines
from pipeline.local.store.answers import found, invalid
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage, StorageError

HOST = "127.0.0.1"
DEFAULT_IDLE_SECONDS = 900
STARTUP_SECONDS = 240  # until the first good /ping, unless a variant's ContainerStartupHealthCheck... says otherwise
ANSWER_TIMEOUT_SECONDS = 60.0  # the service's limit for one invocation
PING_TIMEOUT_SECONDS = 2.0
POLL_SECONDS = 0.05
STOP_SECONDS = 10.0  # between SIGTERM and SIGKILL
BIND_SECONDS = 5  # that a forwarder waits for the port of a server which is about to end
REASON_CHARACTERS = 500
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


# what a model is made of


def containers(request: Document) -> list[Document]:
    """Return the containers of a CreateModel request; RequestError if it asks for what is not served here."""
    if faults := list(model_problems(request)):
        raise invalid(f"Model {request['ModelName']!r} {faults[0]}")
    primary = request.get("PrimaryContainer")
    return [primary] if primary else list(request["Containers"])


def found_package(state: State, name_or_arn: str) -> Document:
    """Return a version by its ARN or as `group/number`; RequestError if there is none."""
    package_arn = name_or_arn if name_or_arn.startswith("arn:") else arn("model-package", name_or_arn)
    document = state.get("ModelPackage", package_arn.lower())
    if document is None:
        raise invalid(f"Could not find model package {name_or_arn!r}.")
    return document


def resolved_containers(state: State, model_name: str, environment: Mapping[str, str]) -> list[Document]:
    """Return image, data and environment of a model's containers, those of its model packages included."""
    resolved: list[Document] = []
    for container in containers(found(state, "Model", model_name, "model")):
        parts = [container]
        if package_arn := container.get("ModelPackageName"):
            parts = found_package(state, package_arn).get("InferenceSpecification", {}).get("Containers", [])
        if not parts:
            raise invalid(f"Model package {package_arn} has no InferenceSpecification, so it cannot be served.")
        for part in parts:
            variables = {**part.get("Environment", {}), **container.get("Environment", {}), **environment}
            resolved.append({**part, **container, "Environment": variables})
    return resolved


def place_model(storage: Storage, container: Document, folder: Path) -> None:
    """Fill a directory with the container's ModelDataUrl or ModelDataSource, and with a script that lies elsewhere."""
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    uri = container.get("ModelDataUrl") or source.get("S3Uri")
    if not uri:
        raise invalid("The model has no data: its container has neither ModelDataUrl nor ModelDataSource.")
    archives = [(uri, folder)]
    code = str(container["Environment"].get("SAGEMAKER_SUBMIT_DIRECTORY", ""))
    if code.startswith("s3://"):
        archives.append((code, folder / "code"))
    try:
        if source.get("CompressionType") == "None":
            storage.download(*archives.pop(0))
        for uri, target in archives:
            with tarfile.open(fileobj=io.BytesIO(storage.read(uri))) as archive:
                archive.extractall(target, filter="data")
    except StorageError as problem:
        raise invalid(f"Could not access model data: {problem}") from problem
    except (tarfile.TarError, zlib.error, lzma.LZMAError, OSError, EOFError) as problem:
        raise invalid(f"{uri} is not a usable .tar.gz: {problem}") from problem


def put_image(state: State, uri: str, program: Path) -> None:
    """Note which server an image stands for: it serves the models that bring none."""
    state.put("Image", uri, {"Program": str(program)})


def server_command(state: State, container: Document, model: Path) -> tuple[list[str], Path]:
    """Return the words that start a model's server, its script or ours around that, and their directory."""
    variables, image = container["Environment"], str(container.get("Image", ""))
    name = variables.get("SAGEMAKER_PROGRAM", "inference.py")
    if not name:
        raise invalid(
            "The model's SAGEMAKER_PROGRAM is empty, which the inference toolkits take for a module without a name; "
            "leave it out, or name a script of the model's code directory."
        )
    script = model / "code" / str(name)
    if script.is_file():
        ours = [str(OWN_SERVER), "handlers", str(script)]
        return [sys.executable, *(ours if has_handlers(script) else [str(script), "serve"])], script.parent
    if known := state.get("Image", image):
        return [sys.executable, known["Program"], "serve"], Path(known["Program"]).parent
    if "SAGEMAKER_PROGRAM" not in variables and "pytorch" in image and any(model.glob("*.pt*")):
        return [sys.executable, str(OWN_SERVER), "handlers"], model
    raise invalid(
        f"The model has no server for this machine: its data holds no code/{name}, and what its image "
        f"{image.rpartition('/')[2] or 'of no name'} would serve it with is not here. Put a script with model_fn and "
        "predict_fn into the model's code directory, and name it by SAGEMAKER_PROGRAM."
    )


def has_handlers(script: Path) -> bool:
    """Return whether a script names handlers for a toolkit's server, and is no server itself."""
    try:
        nodes = list(ast.walk(parsed(script.read_bytes())))
    except (SyntaxError, ValueError) as problem:
        raise invalid(f"The model's code/{script.name} is not Python: {problem}") from problem
    texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
    names = {getattr(node, kind, None) for node in nodes for kind in ("name", "asname", "id")}
    return bool(names & HANDLERS) and texts.isdisjoint(("serve", "SAGEMAKER_BIND_TO_PORT"))


# a server's process


def start(
    state: State, model: str, place: Path, port: int | None = None, variables: Mapping[str, str] = NONE
) -> Document:
    """Unpack a model and start its server, at any free port unless one is given; return what is kept of its process.

    Its files are in `server` of a place, beside its log. Several containers, which answer in turn, have a server each,
    started by a process that stands before them.
    """
    parts = resolved_containers(state, model, variables)
    folder, log = place / "server", place / "log.txt"
    idle_seconds = str((state.get("Settings", "endpoints") or {}).get("idle_seconds", DEFAULT_IDLE_SECONDS))
    port = port or free_port(state)
    try:
        if len(parts) == 1:
            program = program_of(state, parts[0], folder / "model", port, idle_seconds)
        else:
            numbered = [(part, folder / f"model{number}") for number, part in enumerate(parts, 1)]
            inner = [program_of(state, part, data, free_port(state), "inf") for part, data in numbered]
            (folder / "containers.json").write_text(json.dumps(inner))
            words = [sys.executable, str(OWN_SERVER), "pipeline", str(folder / "containers.json")]
            own = {"SAGEMAKER_BIND_TO_PORT": str(port), "ENDPOINT_IDLE_SECONDS": idle_seconds}
            program = {"args": words, "cwd": str(folder), "env": {**inner[0]["env"], **own}}
        seen = Place(program["cwd"], folder / "place", writable=[folder])
        started = start_in(find_mount(state.home), seen, program["args"], program["env"])
        process = spawn(log, **supervisor("server"), stdin=written(started))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    times = {"started": now(), "idle_seconds": idle_seconds, "startup_seconds": STARTUP_SECONDS}
    return {**process, **times, "port": port, "folder": str(folder), "log": str(log)}


def program_of(state: State, container: Document, model: Path, port: int, idle_seconds: str) -> Document:
    """Unpack a container's model; return the arguments of Popen that start its server."""
    home, store = model.with_name(f"{model.name}-home"), state.home / "packages"
    for folder in (model, home / ".packages", store):
        folder.mkdir(parents=True, exist_ok=True)
    place_model(Storage(state), container, model)
    words, folder = server_command(state, container, model)
    requirements = model / "code" / "requirements.txt"
    if not are_met(requirements):
        words = ["/bin/sh", "-c", INSTALL, str(requirements), *words]
    own = {
        **container["Environment"],
        "SM_MODEL_DIR": str(model),
        "BIND_HOST": HOST,
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "ENDPOINT_IDLE_SECONDS": idle_seconds,
    }
    return {"args": words, "cwd": str(folder), "env": guest_environment(own, home, store)}


def spawn(log: Path, **options: Any) -> Document:
    """Start a process that outlives this one and writes to a log; return what tells it from others."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            **{"stdin": subprocess.DEVNULL, "start_new_session": True, **options},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return {"pid": process.pid, "birth": birth(process.pid)}


def forwarded(server: Document, port: int, listener: socket.socket | None = None) -> Document:
    """Have a process, which ends with the server, hand it the connections of a port; return the server with that.

    Without a listener at the port the process waits a while for whoever has it.
    """
    inherited = [listener.fileno()] if listener else []
    numbers = (port, server["port"], server["pid"], BIND_SECONDS, *inherited)
    words = [sys.executable, "-I", str(FORWARDER), *map(str, numbers)]
    marked = {"SM_MODEL_DIR": f"{server['folder']}/"}
    return {**server, "forwarder": spawn(Path(server["log"]), args=words, env=marked, pass_fds=inherited)}


def free_port(state: State) -> int:
    """Return a port that nobody listens on and no endpoint of the home has, awake or asleep."""
    taken = {document["Port"] for document in state.all("Endpoint")}
    return next(port for port in random.sample(PORTS, len(PORTS)) if port not in taken and is_free(port))


def is_free(port: int) -> bool:
    """Return whether nobody listens on a port."""
    with contextlib.suppress(OSError), socket.create_server((HOST, port)):
        return True
    return False


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


def is_starting(server: Document) -> bool:
    """Return whether the server runs and still has time to become healthy."""
    return is_running(server) and now() - float(server["started"]) <= float(server["startup_seconds"])


def comes_up(server: Document, is_stopped: Callable[[], bool] = lambda: False) -> bool:
    """Wait until the server is healthy, or cannot become that; return which."""
    while not (is_up := is_healthy(server)) and is_starting(server) and not is_stopped():
        time.sleep(POLL_SECONDS)
    return is_up


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


def stop(server: Document | None) -> None:
    """Ask a server to end, which lets it finish what it has accepted; end it if it does not; remove its files."""
    if server is None:
        return
    deadline = time.monotonic() + STOP_SECONDS
    send(server.get("forwarder"), signal.SIGTERM)
    send(server, signal.SIGTERM)
    while is_running(server):
        if time.monotonic() > deadline:
            send(server, signal.SIGKILL)
        time.sleep(0.02)
    end_all(Path(server["folder"]))


def send(process: Document | None, number: signal.Signals) -> None:
    """Send a signal to a process and all that it started, while it runs."""
    if process and is_running(process):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process["pid"], number)


def end_all(folder: Path) -> None:
    """End what serves a model of a folder, also what was started by a process that was killed; remove the folder."""
    marker = f"SM_MODEL_DIR={folder}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(variable.startswith(marker) for variable in (process / "environ").read_bytes().split(b"\0")):
                os.kill(int(process.name), signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def failure(server: Document) -> str:
    """Return why a server did not come up: the end of its log."""
    lines = reversed(last_lines(Path(server["log"]), 20))
    last = next((line.strip() for line in lines if line.strip()), "it printed nothing")
    return f"The server did not pass /ping: {last[-REASON_CHARACTERS:]} (log: {server['log']})"
