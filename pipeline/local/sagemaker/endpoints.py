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

HANDED_ON = ("Content-Type", "Accept", servers.CUSTOM_ATTRIBUTES, INFERENCE_ID)
UNSERVED = {  # headers by the name of their member
    "TargetModel": "X-Amzn-SageMaker-Target-Model",
    "TargetContainerHostname": "X-Amzn-SageMaker-Target-Container-Hostname",
}


def create_endpoint(state: State, request: Document) -> Document:
    """CreateEndpoint: starts the server and returns; the status is Creating until it is healthy."""
    name, config = checked_name(request, "EndpointName"), request["EndpointConfigName"]
    with changing(state, name):
        unused(state, "Endpoint", name, "endpoint")
        port = servers.free_port(state)
        document = {
            "EndpointName": name,
            "EndpointConfigName": config,
            "EndpointArn": arn("endpoint", name),
            "EndpointStatus": "Creating",
            "CreationTime": now(),
            "LastModifiedTime": now(),
            "Server": None,
            "Pending": start(state, name, config, port),
            "Port": port,
            "Forwarder": None,
        }
        state.put("Endpoint", name, document)
    return chosen(document, "EndpointArn")


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
        servers.stop(document["Server"], document.get("Forwarder"))
        servers.stop(document["Pending"])
        servers.end_strays(state, name)
        shutil.rmtree(servers.folder_of(state, name), ignore_errors=True)
    return {}


def describe_endpoint(state: State, request: Document) -> Document:
    """DescribeEndpoint: a variant has one server, whatever the number of its instances."""
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


def list_endpoints(state: State, request: Document) -> Document:
    """ListEndpoints."""
    names = [document["EndpointName"] for document in state.all("Endpoint")]
    known = [refreshed(state, name) for name in names if state.get("Endpoint", name)]  # not deleted meanwhile
    wanted, status = request.get("NameContains", ""), request.get("StatusEquals")
    kept = listed(known, request, lambda d: wanted in d["EndpointName"] and status in (None, d["EndpointStatus"]))
    return paged("Endpoints", kept, request)


def answer_runtime(state: State, request: HttpRequest) -> Reply:
    """SageMaker Runtime's InvokeEndpoint; an error of the server becomes ModelError, as on the service.

    Raises:
        RequestError: no such endpoint, or it is not in service.
    """
    match = re.fullmatch(r"/endpoints/([^/]+)/invocations", urlsplit(request.url).path)
    if request.operation != "InvokeEndpoint" or match is None:
        raise RequestError(
            "ValidationError", f"The local target does not answer sagemaker-runtime:{request.operation}."
        )
    for member, header in UNSERVED.items():
        if header.lower() in request.headers:
            raise RequestError("ValidationError", f"{member} is not served here, where an endpoint has one model.")
    headers = {name: request.headers[name.lower()] for name in HANDED_ON if name.lower() in request.headers}
    name = unquote(match[1])
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
    config = state.get("EndpointConfig", server["config"])
    if config:
        capture(Storage(state), config, (name, server["variant"]), (headers, request.body), answer)
    return Reply(200, {**answer.headers, "x-Amzn-Invoked-Production-Variant": server["variant"]}, answer.body)


def model_error(answer: servers.Answer) -> Reply:
    """Return ModelError, which the service makes of any answer that is not 2xx."""
    fault, said = "client" if 400 <= answer.status < 500 else "server", answer.body.decode(errors="replace")
    content = {
        "Message": f'Received {fault} error ({answer.status}) from primary with message "{said}".',
        "OriginalStatusCode": answer.status,
        "OriginalMessage": said,
    }
    return Reply.json(content, 424, {"x-amzn-ErrorType": "ModelError"})
