"""Endpoints: a real HTTP server process for each.

An update starts the new server beside the old one and switches when it is healthy; if it never is, the old one stays,
as after a rollback. A server that has ended (idle, or killed) is started again by the next request.
"""

import re
import shutil
from urllib.parse import unquote, urlsplit

from pipeline.local.jobs import servers
from pipeline.local.jobs.runtime import ACCOUNT, arn, now
from pipeline.local.sagemaker.capture import INFERENCE_ID, capture
from pipeline.local.sagemaker.endpoint_servers import changing, in_service, refreshed, revived, start
from pipeline.local.store.answers import (
    HttpRequest,
    Reply,
    RequestError,
    checked_name,
    chosen,
    found,
    invalid,
    listed,
    paged,
    unused,
)
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage

SUMMARY = ("EndpointName", "EndpointArn", "CreationTime", "LastModifiedTime", "EndpointStatus")


def create_endpoint(state: State, request: Document) -> Document:
    """CreateEndpoint: starts the server and returns; the status is Creating until it is healthy."""
    name = checked_name(request, "EndpointName")
    config = found(state, "EndpointConfig", request["EndpointConfigName"], "endpoint configuration")
    with changing(state, name):
        unused(state, "Endpoint", name, "endpoint")
        port = servers.free_port(state)
        document = {
            **chosen(request, "EndpointName", "EndpointConfigName"),
            "EndpointArn": arn("endpoint", name),
            "EndpointStatus": "Creating",
            "CreationTime": now(),
            "LastModifiedTime": now(),
            "Server": None,
            "Pending": start(state, name, config, port=port),
            "Port": port,
            "Forwarder": None,
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
        servers.stop(document["Server"], document.get("Forwarder"))
        servers.stop(document["Pending"])
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


def answer_runtime(state: State, request: HttpRequest) -> Reply:
    """SageMaker Runtime's InvokeEndpoint; an error of the server becomes ModelError, as on the service."""
    match = re.fullmatch(r"/endpoints/([^/]+)/invocations", urlsplit(request.url).path)
    if request.operation != "InvokeEndpoint" or match is None:
        said = f"The local target does not answer sagemaker-runtime:{request.operation}."
        raise RequestError("ValidationError", said)
    names = ("Content-Type", "Accept", servers.CUSTOM_ATTRIBUTES, INFERENCE_ID, servers.TARGET_CONTAINER)
    headers = {name: request.headers[name.lower()] for name in names if name.lower() in request.headers}
    endpoint = unquote(match[1])
    answer = invoke_endpoint(state, endpoint, request.body, headers)
    if not 200 <= answer.status < 300:
        fault, said = "client" if 400 <= answer.status < 500 else "server", answer.body.decode(errors="replace")
        message = f'Received {fault} error ({answer.status}) from primary with message "{said}".'
        content = {"Message": message, "OriginalStatusCode": answer.status, "OriginalMessage": said}
        return Reply.json(content, 424, {"x-amzn-ErrorType": "ModelError"})
    variant = (found(state, "Endpoint", endpoint, "endpoint")["Server"] or {}).get("variant", "")
    shown = {"Content-Type": answer.content_type, "x-Amzn-Invoked-Production-Variant": variant}
    if answer.custom_attributes is not None:
        shown[servers.CUSTOM_ATTRIBUTES] = answer.custom_attributes
    return Reply(200, shown, answer.body)
