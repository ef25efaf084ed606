"""Endpoints: configurations, and a real HTTP server process for each endpoint.

An endpoint's status is brought up to date whenever somebody looks: nobody has to run in the background. A server is
healthy when `/ping` answers 200. An update starts the new server beside the old one and switches when it is healthy; if
it never is, the old one stays, as after a rollback. A server that has ended (idle, or killed) is started again by the
next request.
"""

import time
from typing import Any

from pipeline.local import servers
from pipeline.local.answers import RequestError, chosen, found, invalid, listed, unused
from pipeline.local.registry import containers
from pipeline.local.runtime import arn, now
from pipeline.local.state import Document, State

STARTUP_SECONDS = 240  # the service's limit for the first good /ping
SUMMARY = ("EndpointName", "EndpointArn", "CreationTime", "LastModifiedTime", "EndpointStatus")


def create_endpoint_config(state: State, request: Document) -> Document:
    """CreateEndpointConfig."""
    name = request["EndpointConfigName"]
    unused(state, "EndpointConfig", name, "endpoint configuration")
    for variant in request["ProductionVariants"]:
        found(state, "Model", variant["ModelName"], "model")
    document = {**request, "EndpointConfigArn": arn("endpoint-config", name), "CreationTime": now()}
    state.put("EndpointConfig", name, document)
    return chosen(document, "EndpointConfigArn")


def describe_endpoint_config(state: State, request: Document) -> Document:
    """DescribeEndpointConfig."""
    return found(state, "EndpointConfig", request["EndpointConfigName"], "endpoint configuration")


def list_endpoint_configs(state: State, request: Document) -> Document:
    """ListEndpointConfigs."""
    wanted = request.get("NameContains", "")
    configs = listed(state.all("EndpointConfig"), request, lambda d: wanted in d["EndpointConfigName"])
    members = ("EndpointConfigName", "EndpointConfigArn", "CreationTime")
    return {"EndpointConfigs": [chosen(document, *members) for document in configs]}


def delete_endpoint_config(state: State, request: Document) -> Document:
    """DeleteEndpointConfig."""
    found(state, "EndpointConfig", request["EndpointConfigName"], "endpoint configuration")
    state.delete("EndpointConfig", request["EndpointConfigName"])
    return {}


def create_endpoint(state: State, request: Document) -> Document:
    """CreateEndpoint: starts the server and returns; the status is Creating until it is healthy."""
    name = request["EndpointName"]
    config = found(state, "EndpointConfig", request["EndpointConfigName"], "endpoint configuration")
    with state.transaction():
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
    current = refreshed(state, name)
    if current["EndpointStatus"] != "InService":
        raise invalid(f"Cannot update endpoint {name!r} while its status is {current['EndpointStatus']}.")
    config = found(state, "EndpointConfig", request["EndpointConfigName"], "endpoint configuration")

    def edit(document: Document) -> None:
        document.update(EndpointStatus="Updating", LastModifiedTime=now(), Pending=start(state, name, config))
        document.pop("FailureReason", None)

    return chosen(state.change("Endpoint", name, edit), "EndpointArn")


def delete_endpoint(state: State, request: Document) -> Document:
    """DeleteEndpoint: ends its servers."""
    name = request["EndpointName"]
    document = found(state, "Endpoint", name, "endpoint")
    for server in (document["Server"], document["Pending"]):
        servers.stop(server)
    state.delete("Endpoint", name)
    return {}


def describe_endpoint(state: State, request: Document) -> Document:
    """DescribeEndpoint."""
    document = refreshed(state, request["EndpointName"])
    config = state.get("EndpointConfig", document["EndpointConfigName"]) or {"ProductionVariants": []}
    variants = [
        {
            "VariantName": variant["VariantName"],
            "CurrentWeight": variant.get("InitialVariantWeight", 1.0),
            "DesiredWeight": variant.get("InitialVariantWeight", 1.0),
            "CurrentInstanceCount": 1,
            "DesiredInstanceCount": 1,
        }
        for variant in config["ProductionVariants"]
    ]
    return {**document, "ProductionVariants": variants}


def list_endpoints(state: State, request: Document) -> Document:
    """ListEndpoints."""
    names = [document["EndpointName"] for document in state.all("Endpoint")]
    endpoints = listed([refreshed(state, name) for name in names], request)
    return {"Endpoints": [chosen(document, *SUMMARY) for document in endpoints]}


def invoke_endpoint(state: State, name: str, body: bytes, headers: dict[str, str]) -> servers.Answer:
    """InvokeEndpoint: the server's own answer; starts the server if it is not running.

    Raises:
        RequestError: no such endpoint, or it is not in service.
    """
    if state.get("Endpoint", name) is None:
        raise RequestError("ValidationError", f"Endpoint {name} of account 000000000000 not found.")
    document = in_service(state, name)
    answer = servers.post(document["Server"], body, headers)
    if answer is None:
        answer = servers.post(revived(state, name)["Server"], body, headers)
    if answer is None:
        raise RequestError("ServiceUnavailable", f"The server of endpoint {name!r} does not answer.", 503)
    return answer


def in_service(state: State, name: str) -> Document:
    """The endpoint once it can answer, waiting for a start in progress.

    Raises:
        RequestError: it failed.
    """
    deadline = time.monotonic() + STARTUP_SECONDS
    while True:
        document = refreshed(state, name)
        if document["Server"] and document["EndpointStatus"] in ("InService", "Updating"):
            return document if servers.is_running(document["Server"]) else revived(state, name)
        if document["EndpointStatus"] == "Failed" or time.monotonic() > deadline:
            reason = document.get("FailureReason", "")
            raise RequestError(
                "ValidationError", f"Endpoint {name!r} is {document['EndpointStatus']}. {reason}".strip()
            )
        time.sleep(0.05)


def revived(state: State, name: str) -> Document:
    """The endpoint with its server started again and healthy.

    Raises:
        RequestError: it does not come up.
    """

    def edit(document: Document) -> None:
        if not servers.is_running(document["Server"]):
            config = found(state, "EndpointConfig", document["EndpointConfigName"], "endpoint configuration")
            document["Server"] = start(state, name, config)

    document = state.change("Endpoint", name, edit)
    deadline = time.monotonic() + STARTUP_SECONDS
    while not servers.is_healthy(document["Server"]):
        if not servers.is_running(document["Server"]) or time.monotonic() > deadline:
            reason = servers.failure(document["Server"])
            raise RequestError("ServiceUnavailable", f"Endpoint {name!r} did not start again: {reason}", 503)
        time.sleep(0.05)
    return document


def refreshed(state: State, name: str) -> Document:
    """The endpoint, its status brought up to date with its pending server."""
    document = found(state, "Endpoint", name, "endpoint")
    if not document["Pending"]:
        return document
    pending = document["Pending"]
    healthy, alive = servers.is_healthy(pending), servers.is_running(pending)
    late = now() - pending["started"] > STARTUP_SECONDS
    if not healthy and alive and not late:
        return document

    def edit(current: Document) -> None:
        if current["Pending"] != pending:
            return
        if healthy:
            servers.stop(current["Server"])
            current.update(EndpointStatus="InService", Server=pending, EndpointConfigName=pending["config"])
        else:
            servers.stop(pending)
            status = "InService" if current["Server"] else "Failed"
            current.update(EndpointStatus=status, FailureReason=servers.failure(pending))
        current.update(Pending=None, LastModifiedTime=now())

    return state.change("Endpoint", name, edit)


def start(state: State, endpoint_name: str, config: Document) -> Document:
    """A server process for the first variant's model."""
    model = found(state, "Model", config["ProductionVariants"][0]["ModelName"], "model")
    container = resolved_container(state, containers(model)[0])
    return servers.start(state, endpoint_name, config["EndpointConfigName"], container)


def resolved_container(state: State, container: Document) -> dict[str, Any]:
    """Image, data and environment of a container, those of its model package included."""
    if package_arn := container.get("ModelPackageName"):
        package = found(state, "ModelPackage", package_arn, "model package")
        packaged = package["InferenceSpecification"]["Containers"][0]
        environment = {**packaged.get("Environment", {}), **container.get("Environment", {})}
        return {**packaged, **container, "Environment": environment}
    return container
