"""Endpoints: a real HTTP server process for each.

An endpoint's status is brought up to date whenever somebody looks: nobody has to run in the background. A server is
healthy when `/ping` answers 200. An update starts the new server beside the old one and switches when it is healthy; if
it never is, the old one stays, as after a rollback. A server that has ended (idle, or killed) is started again by the
next request. Whoever starts or ends a server holds the endpoint's lock meanwhile.
"""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.local.jobs import servers
from pipeline.local.jobs.model_data import resolved_containers
from pipeline.local.jobs.runtime import ACCOUNT, arn, now
from pipeline.local.sagemaker.capture import capture
from pipeline.local.store.answers import RequestError, checked_name, chosen, found, invalid, listed, paged, unused
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage

ATTEMPTS = 3  # at a start that failed through nobody's fault
POLL_SECONDS = 0.05
SUMMARY = ("EndpointName", "EndpointArn", "CreationTime", "LastModifiedTime", "EndpointStatus")


def create_endpoint(state: State, request: Document) -> Document:
    """CreateEndpoint: starts the server and returns; the status is Creating until it is healthy."""
    name = checked_name(request, "EndpointName")
    config = found(state, "EndpointConfig", request["EndpointConfigName"], "endpoint configuration")
    with changing(state, name):
        unused(state, "Endpoint", name, "endpoint")
        document = {
            **chosen(request, "EndpointName", "EndpointConfigName"),
            "EndpointArn": arn("endpoint", name),
            "EndpointStatus": "Creating",
            "CreationTime": now(),
            "LastModifiedTime": now(),
            "Server": None,
            "Pending": start(state, name, config),
        }
        state.put("Endpoint", name, document)
    return chosen(document, "EndpointArn")


def update_endpoint(state: State, request: Document) -> Document:
    """UpdateEndpoint: starts a server for the new configuration beside the old one."""
    name = request["EndpointName"]
    refreshed(state, name)
    config = found(state, "EndpointConfig", request["EndpointConfigName"], "endpoint configuration")
    with changing(state, name):
        status = found(state, "Endpoint", name, "endpoint")["EndpointStatus"]
        if status != "InService":
            raise invalid(f"Cannot update endpoint {name!r} while its status is {status}.")
        pending = start(state, name, config)

        def edit(document: Document) -> None:
            document.update(EndpointStatus="Updating", LastModifiedTime=now(), Pending=pending)
            document.pop("FailureReason", None)

        return chosen(state.change("Endpoint", name, edit), "EndpointArn")


def delete_endpoint(state: State, request: Document) -> Document:
    """DeleteEndpoint: ends its servers and removes their files."""
    name = request["EndpointName"]
    found(state, "Endpoint", name, "endpoint")
    with changing(state, name):
        document = found(state, "Endpoint", name, "endpoint")
        state.delete("Endpoint", name)
        for server in (document["Server"], document["Pending"]):
            servers.stop(server)
        servers.end_strays(state, name)
        shutil.rmtree(servers.folder_of(state, name), ignore_errors=True)
    return {}


def describe_endpoint(state: State, request: Document) -> Document:
    """DescribeEndpoint."""
    document = refreshed(state, request["EndpointName"])
    config = state.get("EndpointConfig", document["EndpointConfigName"]) or {"ProductionVariants": []}
    answer = {**document, "ProductionVariants": [variant_summary(variant) for variant in config["ProductionVariants"]]}
    pending = document["Pending"]
    if pending and document["EndpointStatus"] == "Updating":
        answer["PendingDeploymentSummary"] = {
            "EndpointConfigName": pending["config"],
            "ProductionVariants": [{"VariantName": pending["variant"]}],
            "StartTime": pending["started"],
        }
    return answer


def variant_summary(variant: Document) -> Document:
    """ProductionVariantSummary: one server, whatever the number of instances."""
    weight = variant.get("InitialVariantWeight", 1.0)
    return {
        "VariantName": variant["VariantName"],
        "CurrentWeight": weight,
        "DesiredWeight": weight,
        "CurrentInstanceCount": 1,
        "DesiredInstanceCount": 1,
    }


def list_endpoints(state: State, request: Document) -> Document:
    """ListEndpoints."""
    names = [document["EndpointName"] for document in state.all("Endpoint")]
    known = [document for document in (looked_up(state, name) for name in names) if document]
    wanted, status = request.get("NameContains", ""), request.get("StatusEquals")
    kept = listed(known, request, lambda d: wanted in d["EndpointName"] and status in (None, d["EndpointStatus"]))
    return paged("Endpoints", [chosen(document, *SUMMARY) for document in kept], request)


def looked_up(state: State, name: str) -> Document | None:
    """The endpoint brought up to date, unless it has been deleted meanwhile."""
    return refreshed(state, name) if state.get("Endpoint", name) else None


def invoke_endpoint(state: State, name: str, body: bytes, headers: dict[str, str]) -> servers.Answer:
    """InvokeEndpoint: the server's own answer; starts the server if it is not running.

    Raises:
        RequestError: no such endpoint, or it is not in service.
    """
    if state.get("Endpoint", name) is None:
        raise RequestError("ValidationError", f"Endpoint {name} of account {ACCOUNT} not found.")
    answer = servers.post(in_service(state, name), body, headers)
    if answer is None:
        answer = servers.post(revived(state, name), body, headers)
    if answer is None:
        raise RequestError("ServiceUnavailable", f"The server of endpoint {name!r} does not answer.", 503)
    keep(state, name, (headers, body), answer)
    return answer


def keep(state: State, name: str, request: tuple[dict[str, str], bytes], answer: servers.Answer) -> None:
    """Capture the invocation if the endpoint's configuration asks for it."""
    document = state.get("Endpoint", name)
    config = state.get("EndpointConfig", document["EndpointConfigName"]) if document else None
    if document and config:
        place = (name, (document["Server"] or {}).get("variant", ""))
        capture(Storage(state), config, place, request, answer)


def variant(state: State, name: str) -> str:
    """The variant that answers."""
    return str((found(state, "Endpoint", name, "endpoint")["Server"] or {}).get("variant", ""))


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
        if wait_until_healthy(server):
            return server
        if server["started"] >= began:  # else it was about to end when it was looked at
            servers.stop(server)
            reason = servers.failure(server)
            raise RequestError("ServiceUnavailable", f"Endpoint {name!r} did not start again: {reason}", 503)


def running_server(state: State, name: str) -> Document:
    """The endpoint's server; started again if its process has ended."""
    with changing(state, name):
        document = found(state, "Endpoint", name, "endpoint")
        server: Document = document["Server"]
        if not servers.is_running(server):
            servers.stop(server)
            config = found(state, "EndpointConfig", document["EndpointConfigName"], "endpoint configuration")
            server = start(state, name, config)
            state.change("Endpoint", name, lambda current: current.update(Server=server))
    return server


def wait_until_healthy(server: Document) -> bool:
    """Whether the server becomes healthy in time."""
    while servers.is_running(server) and not is_late(server):
        if servers.is_healthy(server):
            return True
        time.sleep(POLL_SECONDS)
    return False


def refreshed(state: State, name: str) -> Document:
    """The endpoint, its status brought up to date with its pending server."""
    document = found(state, "Endpoint", name, "endpoint")
    pending = document["Pending"]
    if not pending:
        return document
    healthy = servers.is_healthy(pending)
    if not healthy and servers.is_running(pending) and not is_late(pending):
        return document
    with changing(state, name):
        current = found(state, "Endpoint", name, "endpoint")
        if current["Pending"] != pending:  # somebody else was quicker
            return current
        return switched(state, current) if healthy else given_up(state, current)


def switched(state: State, document: Document) -> Document:
    """The pending server serves; the one before it ends."""
    pending, old = document["Pending"], document["Server"]
    changed = state.change(
        "Endpoint",
        document["EndpointName"],
        lambda current: current.update(
            EndpointStatus="InService",
            Server=pending,
            EndpointConfigName=pending["config"],
            Pending=None,
            LastModifiedTime=now(),
        ),
    )
    servers.stop(old)
    return changed


def given_up(state: State, document: Document) -> Document:
    """The pending server did not become healthy: the one before it stays, unless it is worth another attempt."""
    pending, name = document["Pending"], document["EndpointName"]
    servers.stop(pending)
    if pending["attempt"] < ATTEMPTS and is_blameless(pending):
        config = found(state, "EndpointConfig", pending["config"], "endpoint configuration")
        again = start(state, name, config, attempt=pending["attempt"] + 1)
        return state.change("Endpoint", name, lambda current: current.update(Pending=again))
    status = "InService" if document["Server"] else "Failed"
    changes = {"EndpointStatus": status, "FailureReason": servers.failure(pending), "Pending": None}
    return state.change("Endpoint", name, lambda current: current.update(changes, LastModifiedTime=now()))


def is_blameless(server: Document) -> bool:
    """Whether another program took the port meanwhile, or nobody looked until the server had been idle long enough."""
    return servers.port_is_taken(server) or now() - server["started"] > float(server["idle_seconds"])


def is_late(server: Document) -> bool:
    """Whether the server has had its time to become healthy."""
    return now() - float(server["started"]) > float(server["startup_seconds"])


def start(state: State, endpoint_name: str, config: Document, attempt: int = 1) -> Document:
    """A server process for the first variant's model: what the `Endpoint` document keeps of it."""
    variant = config["ProductionVariants"][0]
    containers = resolved_containers(state, variant["ModelName"])
    return {
        "config": config["EndpointConfigName"],
        "variant": variant["VariantName"],
        "startup_seconds": variant.get("ContainerStartupHealthCheckTimeoutInSeconds", servers.STARTUP_SECONDS),
        "attempt": attempt,
        **servers.start(state, endpoint_name, containers),
    }


@contextmanager
def changing(state: State, name: str) -> Iterator[None]:
    """Hold the endpoint's lock: one process at a time starts or ends its servers."""
    path: Path = state.home / "locks" / f"endpoint-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
