"""The servers of an endpoint through its life: started, switched by an update, ended when idle, woken.

An endpoint's status is brought up to date whenever somebody looks: nobody has to run in the background. Whoever starts
or ends a server holds the endpoint's lock meanwhile. An endpoint keeps its port: a server that cannot have it, since it
was started beside another, gets its connections by a forwarder. A server that has ended, idle or killed, is started
again by the next request, and by any connection while a process of ours listens for it (`waking`).
"""

import contextlib
import math
import secrets
import select
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.local.engine.runner_process import taken_lock
from pipeline.local.jobs import servers
from pipeline.local.jobs.runtime import now
from pipeline.local.store.answers import RequestError, found
from pipeline.local.store.state import Document, State

LOOK_SECONDS = 0.5
QUIET = (PipelineError, sqlite3.Error, OSError)  # whoever else reads the state says what is wrong


def changing(state: State, name: str) -> contextlib.AbstractContextManager[int]:
    """Hold the endpoint's lock: one process at a time starts or ends its servers."""
    return taken_lock(state.home / "locks" / f"endpoint-{name}", wait_seconds=math.inf)


def folder_of(state: State, name: str) -> Path:
    """Return where an endpoint's servers have their files and logs."""
    return state.home / "endpoints" / name


def start(state: State, name: str, config_name: str, port: int | None = None) -> Document:
    """Start a server for a configuration's model; return what the `Endpoint` document keeps of it."""
    config = found(state, "EndpointConfig", config_name, "endpoint configuration")
    variant = config["ProductionVariants"][0]
    folder = folder_of(state, name) / secrets.token_hex(4)
    server = servers.start(state, variant["ModelName"], folder, folder.with_suffix(".log"), port=port)
    seconds = variant.get("ContainerStartupHealthCheckTimeoutInSeconds", server["startup_seconds"])
    return {**server, "startup_seconds": seconds, "config": config_name, "variant": variant["VariantName"]}


def address_of(document: Document) -> tuple[int, str | None]:
    """Return where an endpoint answers, and a note if that is not its own port."""
    server, port = document["Server"], document["Port"]
    if not servers.is_running(server) or server["port"] == port or servers.is_running(server.get("forwarder")):
        return port, None
    other = server["port"]
    return other, f"Another program has taken port {port}, so the endpoint has port {other} now."


def is_asleep(document: Document) -> bool:
    """Return whether the endpoint's server has ended, idle or killed; the next request starts it."""
    server = document["Server"]
    return document["EndpointStatus"] == "InService" and bool(server) and not servers.is_running(server)


def refreshed(state: State, name: str) -> Document:
    """Return the endpoint, its status brought up to date with its pending server.

    That serves when it is healthy, or ended idle before anybody looked; else the server before it stays.
    """
    document = found(state, "Endpoint", name, "endpoint")
    pending, port = document["Pending"], document["Port"]
    if not pending:
        return document
    is_up = servers.is_healthy(pending)
    if not is_up and servers.is_starting(pending):
        return document
    with changing(state, name):
        current = found(state, "Endpoint", name, "endpoint")
        if current["Pending"] != pending:  # somebody else was quicker
            return current
        changes: Document = {"Pending": None, "LastModifiedTime": now()}
        was_idle = not servers.is_running(pending) and now() - pending["started"] > float(pending["idle_seconds"])
        if is_up or was_idle:
            server = servers.forwarded(pending, port) if is_up and pending["port"] != port else pending
            changes |= {"EndpointStatus": "InService", "EndpointConfigName": pending["config"], "Server": server}
            replaced = current["Server"]
        else:
            status = "InService" if current["Server"] else "Failed"
            changes |= {"EndpointStatus": status, "FailureReason": servers.failure(pending)}
            replaced = pending
        changed = state.change("Endpoint", name, lambda document: document.update(changes))
        servers.stop(replaced)
        return changed


def in_service(state: State, name: str) -> Document:
    """Return the endpoint's server once it can answer, waiting for a start in progress; RequestError if it failed."""
    while not (server := (document := refreshed(state, name))["Server"]):
        if document["EndpointStatus"] == "Failed":
            reason = document.get("FailureReason", "")
            raise RequestError("ValidationError", f"Endpoint {name!r} is Failed. {reason}".strip())
        time.sleep(servers.POLL_SECONDS)
    return dict(server) if servers.is_running(server) else revived(state, name)


def revived(state: State, name: str) -> Document:
    """Return the endpoint's server, started again unless it runs; RequestError if it does not come up then."""
    began = now()
    while True:
        server = running_server(state, name)
        if servers.comes_up(server):
            return server
        if server["started"] >= began:  # else it was about to end when it was looked at
            servers.stop(server)
            reason = servers.failure(server)
            raise RequestError("ServiceUnavailable", f"Endpoint {name!r} did not start again: {reason}", 503)
        for _ in range(50):  # its supervisor ends a moment after it
            if not servers.is_running(server):
                break
            time.sleep(0.02)
        else:
            return server  # it hangs, as whoever asks it will see


def running_server(state: State, name: str, listener: socket.socket | None = None) -> Document:
    """Return the endpoint's server, started again if it has ended; a listener at its port is handed to a forwarder."""
    with changing(state, name):
        document = found(state, "Endpoint", name, "endpoint")
        server, port = document["Server"], document["Port"]
        if servers.is_running(server) and listener is None:
            return dict(server)
        if not servers.is_running(server):
            servers.stop(server)
            is_free = listener is None and servers.is_free(port)
            server = start(state, name, document["EndpointConfigName"], port if is_free else None)
        if server["port"] != port:
            servers.send(server.get("forwarder"), signal.SIGKILL)  # it waits for the port, which the listener has
            server = servers.forwarded(server, port, listener)
        state.change("Endpoint", name, lambda current: current.update(Server=server))
    return dict(server)


@contextmanager
def waking(home: Path) -> Iterator[None]:
    """During the block, wake the home's endpoints at the first connection to the port of one that is asleep.

    The connection is not accepted here: it waits at the listening socket, which a forwarder to the server takes over.
    """
    asked, ask = socket.socketpair()
    thread = threading.Thread(target=watch, args=(home, asked), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ask.close()
        thread.join()
        asked.close()


def watch(home: Path, asked: socket.socket) -> None:
    """Listen for endpoints that are asleep until `asked` is closed at its other end."""
    listeners: dict[str, socket.socket] = {}
    ready: list[socket.socket] = []
    with contextlib.closing(State(home)) as state:
        while True:
            with contextlib.suppress(*QUIET):
                listen(state, listeners, ready)
            if asked in ready:
                break
            ready, _, _ = select.select([asked, *listeners.values()], [], [], LOOK_SECONDS)
    for listener in listeners.values():
        listener.close()


def listen(state: State, listeners: dict[str, socket.socket], ready: list[socket.socket]) -> None:
    """Listen for each endpoint that is asleep; hand over the sockets of those that are woken, here or by others."""
    asleep = {document["EndpointName"]: document["Port"] for document in state.all("Endpoint") if is_asleep(document)}
    for name, listener in list(listeners.items()):
        if listener in ready or name not in asleep:
            with listeners.pop(name), contextlib.suppress(*QUIET):  # of one that has been deleted
                running_server(state, name, listener)
    for name in asleep.keys() - listeners.keys():
        with contextlib.suppress(OSError):  # another process has the port
            listeners[name] = socket.create_server((servers.HOST, asleep[name]), backlog=128)
