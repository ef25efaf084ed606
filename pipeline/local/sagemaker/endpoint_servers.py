"""The servers of an endpoint through its life: started, switched by an update, ended when idle, woken.

An endpoint's status is brought up to date whenever somebody looks: nobody has to run in the background. A server is
healthy when `/ping` answers 200. Whoever starts or ends a server holds the endpoint's lock meanwhile. An endpoint keeps
its port: a server that cannot have it, since it was started beside another, gets its connections by a forwarder.
"""

import fcntl
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.local.jobs import servers
from pipeline.local.jobs.model_data import is_direct, resolved_containers
from pipeline.local.jobs.runtime import now
from pipeline.local.store.answers import RequestError, found
from pipeline.local.store.state import Document, State

ATTEMPTS = 3  # at a start that failed through nobody's fault
POLL_SECONDS = 0.05


@contextmanager
def changing(state: State, name: str) -> Iterator[None]:
    """Hold the endpoint's lock: one process at a time starts or ends its servers."""
    path: Path = state.home / "locks" / f"endpoint-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def start(state: State, endpoint_name: str, config: Document, *, attempt: int = 1, port: int | None = None) -> Document:
    """A server process for the variant's model: what the `Endpoint` document keeps of it."""
    variant = config["ProductionVariants"][0]
    model = variant["ModelName"]
    containers = resolved_containers(state, model)
    return {
        "config": config["EndpointConfigName"],
        "variant": variant["VariantName"],
        "startup_seconds": variant.get("ContainerStartupHealthCheckTimeoutInSeconds", servers.STARTUP_SECONDS),
        "attempt": attempt,
        **servers.start(state, endpoint_name, containers, direct=is_direct(state, model), port=port),
    }


def port_of(document: Document) -> int:
    """The endpoint's port; one that an earlier release has made has its server's."""
    return int(document.get("Port") or (document["Server"] or document["Pending"])["port"])


def is_asleep(document: Document) -> bool:
    """Whether the endpoint's server has ended, idle or killed; the next request starts it."""
    server = document["Server"]
    return document["EndpointStatus"] == "InService" and bool(server) and not servers.is_running(server)


def refreshed(state: State, name: str) -> Document:
    """The endpoint, its status brought up to date with its pending server."""
    document = found(state, "Endpoint", name, "endpoint")
    pending = document["Pending"]
    if not pending:
        return with_reachable_port(state, document)
    healthy = servers.is_healthy(pending)
    if not healthy and servers.is_running(pending) and not is_late(pending):
        return document
    with changing(state, name):
        current = found(state, "Endpoint", name, "endpoint")
        if current["Pending"] != pending:  # somebody else was quicker
            return current
        return switched(state, current) if healthy else given_up(state, current)


def with_reachable_port(state: State, document: Document) -> Document:
    """The endpoint; at its server's own port if another program has kept its forwarder from the port that it had."""
    server, forwarder, port = document["Server"], document.get("Forwarder"), port_of(document)
    if not servers.is_running(server) or server["port"] == port or servers.is_running(forwarder):
        return document
    note = f"Another program has taken port {port}, so the endpoint has port {server['port']} now."
    with changing(state, document["EndpointName"]):
        return state.change(
            "Endpoint",
            document["EndpointName"],
            lambda current: current.update(Port=server["port"], PortNote=note) if current["Server"] == server else None,
        )


def switched(state: State, document: Document) -> Document:
    """The pending server serves; the one before it ends, and with it what forwards to it."""
    pending, old, old_forwarder = document["Pending"], document["Server"], document.get("Forwarder")
    port = port_of(document)
    forwarder = servers.forward(pending, port) if pending["port"] != port else None
    changed = state.change(
        "Endpoint",
        document["EndpointName"],
        lambda current: current.update(
            EndpointStatus="InService",
            Server=pending,
            Port=port,
            Forwarder=forwarder,
            EndpointConfigName=pending["config"],
            Pending=None,
            LastModifiedTime=now(),
        ),
    )
    servers.stop(old, old_forwarder)
    return changed


def given_up(state: State, document: Document) -> Document:
    """The pending server did not become healthy: the one before it stays, unless it is worth another attempt."""
    pending, name = document["Pending"], document["EndpointName"]
    servers.stop(pending)
    if pending["attempt"] < ATTEMPTS and is_blameless(pending):
        config = found(state, "EndpointConfig", pending["config"], "endpoint configuration")
        port = None if document["Server"] else servers.free_port(state)
        again = start(state, name, config, attempt=pending["attempt"] + 1, port=port)
        return state.change(
            "Endpoint", name, lambda current: current.update(Pending=again, Port=port or port_of(current))
        )
    status = "InService" if document["Server"] else "Failed"
    changes = {"EndpointStatus": status, "FailureReason": servers.failure(pending), "Pending": None}
    return state.change("Endpoint", name, lambda current: current.update(changes, LastModifiedTime=now()))


def is_blameless(server: Document) -> bool:
    """Whether another program took the port meanwhile, or nobody looked until the server had been idle long enough."""
    return not servers.is_free(server["port"]) or now() - server["started"] > float(server["idle_seconds"])


def is_late(server: Document) -> bool:
    """Whether the server has had its time to become healthy."""
    return now() - float(server["started"]) > float(server["startup_seconds"])


def in_service(state: State, name: str) -> Document:
    """The endpoint's server once it can answer, waiting for a start in progress.

    Raises:
        RequestError: it failed.
    """
    while True:
        document = refreshed(state, name)
        if server := document["Server"]:
            return server if servers.is_running(server) else revived(state, name)
        if document["EndpointStatus"] == "Failed":
            reason = document.get("FailureReason", "")
            raise RequestError("ValidationError", f"Endpoint {name!r} is Failed. {reason}".strip())
        time.sleep(POLL_SECONDS)


def revived(state: State, name: str) -> Document:
    """The endpoint's server, started again unless it runs, and healthy.

    Raises:
        RequestError: it does not come up.
    """
    began = now()
    while True:
        server = running_server(state, name)
        while servers.is_running(server) and not is_late(server):
            if servers.is_healthy(server):
                return server
            time.sleep(POLL_SECONDS)
        if server["started"] >= began:  # else it was about to end when it was looked at
            servers.stop(server)
            reason = servers.failure(server)
            raise RequestError("ServiceUnavailable", f"Endpoint {name!r} did not start again: {reason}", 503)


def running_server(state: State, name: str, listener: socket.socket | None = None) -> Document:
    """The endpoint's server; started again if its process has ended.

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
            config = found(state, "EndpointConfig", document["EndpointConfigName"], "endpoint configuration")
            free = listener is None and servers.is_free(port)
            server, forwarder = start(state, name, config, port=port if free else None), None
        if server["port"] != port:
            servers.end_forwarder(forwarder)
            forwarder = servers.forward(server, port, listener)
        state.change("Endpoint", name, lambda current: current.update(Server=server, Port=port, Forwarder=forwarder))
    return dict(server)
