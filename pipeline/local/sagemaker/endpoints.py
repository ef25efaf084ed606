"""Models, endpoint configurations and endpoints: kept, served through their life, woken, invoked and captured.

An endpoint is a real HTTP server. An update starts the new server beside the old one and switches when it is healthy;
if it never is, the old one stays, as after a rollback. The status is brought up to date whenever somebody looks: nobody
has to run in the background. Whoever starts or ends a server holds the endpoint's lock meanwhile.

An endpoint keeps its port: a server that cannot have it, since it was started beside another, gets its connections by a
forwarder. A server that has ended, idle or killed, is started again by the next request, and by any connection while a
process of ours listens for it (`waking`).
"""

import base64
import contextlib
import json
import math
import random
import secrets
import select
import signal
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.local.checks.serving import endpoint_config_problems, media_type
from pipeline.local.engine.runner_process import taken_lock
from pipeline.local.jobs import servers
from pipeline.local.jobs.runtime import ACCOUNT, arn, now
from pipeline.local.sagemaker.http import located
from pipeline.local.store.answers import HttpRequest, Reply, RequestError, chosen, found, invalid, listing, unused
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage

KINDS = {  # words, and how ARNs call it
    "Model": ("model", "model"),
    "EndpointConfig": ("endpoint configuration", "endpoint-config"),
    "Endpoint": ("endpoint", "endpoint"),
}
IN_MOTION = ("Creating", "Updating")
LOOK_SECONDS = 0.5
QUIET = (PipelineError, sqlite3.Error, OSError)  # whoever else reads the state says what is wrong
INFERENCE_ID = "X-Amzn-SageMaker-Inference-Id"
HANDED_ON = ("Content-Type", "Accept", servers.CUSTOM_ATTRIBUTES, INFERENCE_ID)


def create_model(state: State, request: Document) -> Document:
    """CreateModel, from containers or from an approved model package."""
    for container in servers.containers(request):
        if package_arn := container.get("ModelPackageName"):
            status = servers.found_package(state, package_arn)["ModelApprovalStatus"]
            if status != "Approved":
                raise invalid(f"Model package {package_arn} is {status}; only an Approved one can become a model.")
    return created(state, "Model", request)


def create_endpoint_config(state: State, request: Document) -> Document:
    """CreateEndpointConfig."""
    if faults := list(endpoint_config_problems(request)):
        raise invalid(f"EndpointConfig {request['EndpointConfigName']!r} {faults[0]}")
    for variant in request["ProductionVariants"]:
        found(state, "Model", variant["ModelName"], "model")
    return created(state, "EndpointConfig", request)


def create_endpoint(state: State, request: Document) -> Document:
    """CreateEndpoint: starts the server and returns; the status is Creating until it is healthy."""
    name = request["EndpointName"]
    with changing(state, name):
        unused(state, "Endpoint", name, "endpoint")
        port = servers.free_port(state)
        pending = start(state, name, request["EndpointConfigName"], port)
        more = {"EndpointStatus": "Creating", "Server": None, "Pending": pending, "Port": port}
        return created(state, "Endpoint", {**request, **more, "LastModifiedTime": now()})


def created(state: State, kind: str, request: Document) -> Document:
    """Keep a request under its name."""
    name, (words, arn_kind) = request[f"{kind}Name"], KINDS[kind]
    document = {**request, f"{kind}Arn": arn(arn_kind, name), "CreationTime": now()}
    with state.transaction():
        unused(state, kind, name, words)
        state.put(kind, name, document)
    return chosen(document, f"{kind}Arn")


def described(kind: str, state: State, request: Document) -> Document:
    """DescribeModel, DescribeEndpointConfig."""
    return found(state, kind, request[f"{kind}Name"], KINDS[kind][0])


def describe_endpoint(state: State, request: Document) -> Document:
    """DescribeEndpoint: here a variant has one server, whatever the number of its instances."""
    document = refreshed(state, request["EndpointName"])
    config, pending = state.get("EndpointConfig", document["EndpointConfigName"]), document["Pending"]
    variants = [
        {
            "VariantName": variant["VariantName"],
            **dict.fromkeys(("CurrentWeight", "DesiredWeight"), variant.get("InitialVariantWeight", 1.0)),
            **dict.fromkeys(("CurrentInstanceCount", "DesiredInstanceCount"), 1),
        }
        for variant in (config or {}).get("ProductionVariants", [])
    ]
    answer = {**document, "ProductionVariants": variants}
    if pending and document["EndpointStatus"] == "Updating":
        answer["PendingDeploymentSummary"] = {
            "EndpointConfigName": pending["config"],
            "ProductionVariants": [{"VariantName": pending["variant"]}],
            "StartTime": pending["started"],
        }
    return answer


def listed(kind: str, state: State, request: Document) -> Document:
    """ListModels, ListEndpointConfigs and ListEndpoints."""
    if kind == "Endpoint":
        refresh_pending(state)
    return listing(state, kind, request, f"{kind}s")


def deleted(kind: str, state: State, request: Document) -> Document:
    """DeleteModel, DeleteEndpointConfig."""
    described(kind, state, request)
    state.delete(kind, request[f"{kind}Name"])
    return {}


describe_model, describe_endpoint_config = (partial(described, kind) for kind in ("Model", "EndpointConfig"))
list_models, list_endpoint_configs, list_endpoints = (partial(listed, kind) for kind in KINDS)
delete_model, delete_endpoint_config = (partial(deleted, kind) for kind in ("Model", "EndpointConfig"))


def update_endpoint(state: State, request: Document) -> Document:
    """UpdateEndpoint: starts a server for the new configuration beside the old one."""
    name = request["EndpointName"]
    refreshed(state, name)
    with changing(state, name):
        status = found(state, "Endpoint", name, "endpoint")["EndpointStatus"]
        if status != "InService":
            raise invalid(f"Cannot update endpoint {name!r} while its status is {status}.")
        pending = start(state, name, request["EndpointConfigName"])

        def edit(document: Document) -> None:
            document.update(EndpointStatus="Updating", LastModifiedTime=now(), Pending=pending)
            document.pop("FailureReason", None)

        return chosen(state.change("Endpoint", name, edit), "EndpointArn")


def delete_endpoint(state: State, request: Document) -> Document:
    """DeleteEndpoint: ends its servers and removes their files."""
    name = request["EndpointName"]
    with changing(state, name):
        document = found(state, "Endpoint", name, "endpoint")
        state.delete("Endpoint", name)
        servers.stop(document["Server"])
        servers.stop(document["Pending"])
        servers.end_all(state.home / "endpoints" / name)
    return {}


# an endpoint's servers


def changing(state: State, name: str) -> contextlib.AbstractContextManager[int]:
    """Hold the endpoint's lock: one process at a time starts or ends its servers."""
    return taken_lock(state.home / "locks" / f"endpoint-{name}", wait_seconds=math.inf)


def start(state: State, name: str, config_name: str, port: int | None = None) -> Document:
    """Start a server for a configuration's model; return what the `Endpoint` document keeps of it."""
    config = found(state, "EndpointConfig", config_name, "endpoint configuration")
    variant = config["ProductionVariants"][0]
    place = state.home / "endpoints" / name / secrets.token_hex(4)
    server = servers.start(state, variant["ModelName"], place, port)
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


def refresh_pending(state: State) -> None:
    """Bring the status of all endpoints up to date."""
    for document in state.with_status("Endpoint", *IN_MOTION):
        with contextlib.suppress(RequestError):  # it was deleted meanwhile
            refreshed(state, document["EndpointName"])


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


# connections to endpoints that are asleep


@contextlib.contextmanager
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


def watch(home: Path, asked: socket.socket) -> None:
    """Listen for endpoints that are asleep until `asked` is closed at its other end."""
    listeners: dict[str, socket.socket] = {}
    ready: list[socket.socket] = []
    with asked, contextlib.closing(State(home)) as state:
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


# invocations


def invoke_endpoint(state: State, request: HttpRequest) -> Reply:
    """InvokeEndpoint: here TargetModel and TargetContainerHostname are refused, as an endpoint has one model."""
    members = located(request, "sagemaker-runtime")
    for member in members.keys() & {"TargetModel", "TargetContainerHostname"}:
        raise RequestError("ValidationError", f"{member} is not served here, where an endpoint has one model.")
    headers = {name: request.headers[name.lower()] for name in HANDED_ON if name.lower() in request.headers}
    name = members["EndpointName"]
    if state.get("Endpoint", name) is None:
        raise RequestError("ValidationError", f"Endpoint {name} of account {ACCOUNT} not found.")
    server = in_service(state, name)
    answer = servers.ask(server, "/invocations", request.body, headers)
    if answer is None:
        server = revived(state, name)
        answer = servers.ask(server, "/invocations", request.body, headers)
    if answer is None:
        raise RequestError("ServiceUnavailable", f"The server of endpoint {name!r} does not answer.", 503)
    if not 200 <= answer.status < 300:
        return model_error(answer)
    capture(
        state, f"{name}/{server['variant']}", server["config"], {"Input": (headers, request.body), "Output": answer[1:]}
    )
    return Reply(200, {**answer.headers, "x-Amzn-Invoked-Production-Variant": server["variant"]}, answer.body)


def model_error(answer: servers.Answer) -> Reply:
    """Return ModelError, which the service makes of any answer that is not 2xx."""
    fault, said = "client" if answer.status // 100 == 4 else "server", answer.body.decode(errors="replace")
    content = {
        "Message": f'Received {fault} error ({answer.status}) from primary with message "{said}".',
        "OriginalStatusCode": answer.status,
        "OriginalMessage": said,
    }
    return Reply.json(content, 424, {"x-amzn-ErrorType": "ModelError"})


def capture(state: State, place: str, config_name: str, sides: dict[str, tuple[dict[str, str], bytes]]) -> None:
    """Keep headers and bodies of an invocation, if the endpoint's configuration says so and chance picks it.

    `<DestinationS3Uri>/<endpoint>/<variant>/yyyy/mm/dd/hh/<minute>-<second>-<ms>-<id>.jsonl`, UTC, one event a file
    (AWS guide, "model-monitor-data-capture"; the service gathers events for some minutes, here each is there at once).
    """
    settings = (state.get("EndpointConfig", config_name) or {}).get("DataCaptureConfig", {})
    if not settings.get("EnableCapture") or random.random() * 100 >= settings["InitialSamplingPercentage"]:
        return
    moment, event_id = datetime.now(UTC), str(uuid.uuid4())
    modes = {option["CaptureMode"] for option in settings["CaptureOptions"]}
    types = settings.get("CaptureContentTypeHeader", {})
    data = {
        f"endpoint{side}": payload(types, side.upper(), headers.get("Content-Type", ""), body)
        for side, (headers, body) in sides.items()
        if modes & {side, "InputAndOutput"}
    }
    metadata = {"eventId": event_id, "inferenceTime": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}
    if inference_id := sides["Input"][0].get(INFERENCE_ID):
        metadata["inferenceId"] = inference_id
    name = f"{moment:%Y/%m/%d/%H/%M-%S}-{moment.microsecond // 1000:03}-{event_id}.jsonl"
    line = json.dumps({"captureData": data, "eventMetadata": metadata, "eventVersion": "0"}, ensure_ascii=False)
    Storage(state).write(f"{settings['DestinationS3Uri'].rstrip('/')}/{place}/{name}", f"{line}\n".encode())


def payload(types: Document, mode: str, content_type: str, body: bytes) -> dict[str, str]:
    """Return a body as text if CaptureContentTypeHeader lists its content type, else in base64."""
    kinds = {"JSON": types.get("JsonContentTypes", []), "CSV": types.get("CsvContentTypes", [])}
    encoding = next((kind for kind, listed in kinds.items() if media_type(content_type) in listed), "BASE64")
    text = base64.b64encode(body).decode() if encoding == "BASE64" else body.decode(errors="replace")
    return {"observedContentType": content_type, "mode": mode, "data": text, "encoding": encoding}
