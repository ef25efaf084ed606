"""The servers of an endpoint through its life: started, switched by an update, ended when idle, woken.

An endpoint's status is brought up to date whenever somebody looks: nobody has to run in the background. A server is
healthy when `/ping` answers 200. Whoever starts or ends a server holds the endpoint's lock meanwhile. An endpoint keeps
its port: a server that cannot have it, since it was started beside another, gets its connections by a forwarder.
"""

import fcntl
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.local.jobs import servers
from pipeline.local.jobs.runtime import now
from pipeline.local.store.answers import RequestError, found
from pipeline.local.store.state import Document, State

POLL_SECONDS = 0.05


@contextmanager
def changing(state: State, name: str) -> Iterator[None]:
    """Hold the endpoint's lock: one process at a time starts or ends its servers."""
    path: Path = state.home / "locks" / f"endpoint-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def start(state: State, endpoint_name: str, config_name: str, port: int | None = None) -> Document:
    """Start a server for a configuration's model; return what the `Endpoint` document keeps of it.

    Raises:
        RequestError: there is no such configuration, or its model cannot be served.
    """
    variant = found(state, "EndpointConfig", config_name, "endpoint configuration")["ProductionVariants"][0]
    return {
        "config": config_name,
        "variant": variant["VariantName"],
        "startup_seconds": variant.get("ContainerStartupHealthCheckTimeoutInSeconds", servers.STARTUP_SECONDS),
        **servers.start(state, endpoint_name, variant["ModelName"], port=port),
    }


def port_of(document: Document) -> int:
    """Return the endpoint's port; one that an earlier release has made has its server's."""
    return int(document.get("Port") or (document["Server"] or document["Pending"])["port"])


def address_of(document: Document) -> tuple[int, str | None]:
    """Return where an endpoint answers, and a note if that is not its own port."""
    server, port = document["Server"], port_of(document)
    if not servers.is_running(server) or server["port"] == port or servers.is_running(document.get("Forwarder")):
        return port, None
    other = int(server["port"])
    return other, f"Another program has taken port {port}, so the endpoint has port {other} now."


def is_asleep(document: Document) -> bool:
    """Return whether the endpoint's server has ended, idle or killed; the next request starts it."""
    server = document["Server"]
    return document["EndpointStatus"] == "InService" and bool(server) and not servers.is_running(server)


def refreshed(state: State, name: str) -> Document:
    """Return the endpoint, its status brought up to date with its pending server.

    Raises:
        RequestError: there is no such endpoint.
    """
    document = found(state, "Endpoint", name, "endpoint")
    pending = document["Pending"]
    if not pending:
        return document
    healthy, age = servers.is_healthy(pending), now() - float(pending["started"])
    if not healthy and servers.is_running(pending) and age <= float(pending["startup_seconds"]):
        return document
    with changing(state, name):
        current = found(state, "Endpoint", name, "endpoint")
        if current["Pending"] != pending:  # somebody else was quicker
            return current
        return switched(state, current) if healthy else given_up(state, current)


def switched(state: State, document: Document) -> Document:
    """Have the pending server serve; the one before it ends, and with it what forwards to it."""
    pending, port = document["Pending"], port_of(document)
    changes: Document = {
        "EndpointStatus": "InService",
        "Server": pending,
        "Port": port,
        "Forwarder": servers.forward(pending, port) if pending["port"] != port else None,
        "EndpointConfigName": pending["config"],
        "Pending": None,
        "LastModifiedTime": now(),
    }
    changed = state.change("Endpoint", document["EndpointName"], lambda current: current.update(changes))
    servers.stop(document["Server"], document.get("Forwarder"))
    return changed


def given_up(state: State, document: Document) -> Document:
    """Record that the pending server did not become healthy: the one before it stays.

    It is started again if nobody looked until it had been idle long enough to end.
    """
    pending, name = document["Pending"], document["EndpointName"]
    was_idle = not servers.is_running(pending) and now() - pending["started"] > float(pending["idle_seconds"])
    servers.stop(pending)
    if was_idle:
        port = None if document["Server"] else port_of(document)
        changes: Document = {"Pending": start(state, name, pending["config"], port)}
    else:
        status = "InService" if document["Server"] else "Failed"
        changes = {"EndpointStatus": status, "FailureReason": servers.failure(pending), "Pending": None}
    changes["LastModifiedTime"] = now()
    return state.change("Endpoint", name, lambda current: current.update(changes))


def in_service(state: State, name: str) -> Document:
    """Return the endpoint's server once it can answer, waiting for a start in progress.

    Raises:
        RequestError: it failed.
    """
    while not (server := (document := refreshed(state, name))["Server"]):
        if document["EndpointStatus"] == "Failed":
            reason = document.get("FailureReason", "")
            raise RequestError("ValidationError", f"Endpoint {name!r} is Failed. {reason}".strip())
        time.sleep(POLL_SECONDS)
    return dict(server) if servers.is_running(server) else revived(state, name)


def revived(state: State, name: str) -> Document:
    """Return the endpoint's server, started again unless it runs, and healthy.

    Raises:
        RequestError: it does not come up.
    """
    began = now()
    while True:
        server = running_server(state, name)
        while servers.is_running(server) and now() - float(server["started"]) <= float(server["startup_seconds"]):
            if servers.is_healthy(server):
                return server
            time.sleep(POLL_SECONDS)
        if server["started"] >= began:  # else it was about to end when it was looked at
            servers.stop(server)
            reason = servers.failure(server)
            raise RequestError("ServiceUnavailable", f"Endpoint {name!r} did not start again: {reason}", 503)


def running_server(state: State, name: str, listener: socket.socket | None = None) -> Document:
    """Return the endpoint's server; started again if its process has ended.

    Args:
        listener: has the endpoint's port and a connection that waits there; it is handed on to a forwarder.
    """
    with changing(state, name):
        document = found(state, "Endpoint", name, "endpoint")
        server, forwarder, port = document["Server"], document.get("Forwarder"), port_of(document)
        if servers.is_running(server) and listener is None:
            return dict(server)
        if not servers.is_running(server):
            servers.stop(server, forwarder)
            is_free = listener is None and servers.is_free(port)
            server, forwarder = start(state, name, document["EndpointConfigName"], port if is_free else None), None
        if server["port"] != port:
            servers.send(forwarder, signal.SIGKILL)  # it waits for the port, which the listener has
            forwarder = servers.forward(server, port, listener)
        changes: Document = {"Server": server, "Port": port, "Forwarder": forwarder}
        state.change("Endpoint", name, lambda current: current.update(changes))
    return dict(server)
