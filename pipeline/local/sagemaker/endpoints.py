"""Models, endpoint configurations, endpoints, and their invocations, some of which are captured.

An endpoint is a real HTTP server. An update starts the new server beside the old one and switches when it is healthy;
if it never is, the old one stays, as after a rollback.
"""

import base64
import json
import random
import re
import uuid
from datetime import UTC, datetime
from functools import partial
from urllib.parse import unquote, urlsplit

from pipeline.definition.serving_requests import endpoint_config_faults, media_type
from pipeline.local.jobs import servers
from pipeline.local.jobs.runtime import ACCOUNT, arn, now
from pipeline.local.sagemaker.endpoint_servers import changing, folder_of, in_service, refreshed, revived, start
from pipeline.local.store.answers import (
    HttpRequest,
    Reply,
    RequestError,
    checked_name,
    chosen,
    found,
    invalid,
    listing,
    unused,
)
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage

KINDS = {  # words, and how ARNs call it
    "Model": ("model", "model"),
    "EndpointConfig": ("endpoint configuration", "endpoint-config"),
    "Endpoint": ("endpoint", "endpoint"),
}
INFERENCE_ID = "X-Amzn-SageMaker-Inference-Id"
HANDED_ON = ("Content-Type", "Accept", servers.CUSTOM_ATTRIBUTES, INFERENCE_ID)
UNSERVED = {  # headers by the name of their member
    "TargetModel": "X-Amzn-SageMaker-Target-Model",
    "TargetContainerHostname": "X-Amzn-SageMaker-Target-Container-Hostname",
}


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
    if faults := list(endpoint_config_faults(request)):
        raise invalid(f"EndpointConfig {request['EndpointConfigName']!r} {faults[0]}")
    for variant in request["ProductionVariants"]:
        found(state, "Model", variant["ModelName"], "model")
    return created(state, "EndpointConfig", request)


def create_endpoint(state: State, request: Document) -> Document:
    """CreateEndpoint: starts the server and returns; the status is Creating until it is healthy."""
    name = checked_name(request, "EndpointName")
    with changing(state, name):
        unused(state, "Endpoint", name, "endpoint")
        port = servers.free_port(state)
        pending = start(state, name, request["EndpointConfigName"], port)
        more = {"EndpointStatus": "Creating", "Server": None, "Pending": pending, "Port": port}
        return created(state, "Endpoint", {**request, **more, "LastModifiedTime": now()})


def created(state: State, kind: str, request: Document) -> Document:
    """Keep a request under its name."""
    name, (words, arn_kind) = checked_name(request, f"{kind}Name"), KINDS[kind]
    document = {**request, f"{kind}Arn": arn(arn_kind, name), "CreationTime": now()}
    with state.transaction():
        unused(state, kind, name, words)
        state.put(kind, name, document)
    return chosen(document, f"{kind}Arn")


def described(kind: str, state: State, request: Document) -> Document:
    """DescribeModel, DescribeEndpointConfig."""
    return found(state, kind, request[f"{kind}Name"], KINDS[kind][0])


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


def listed(kind: str, state: State, request: Document) -> Document:
    """ListModels, ListEndpointConfigs and ListEndpoints."""
    documents = state.all(kind)
    if kind == "Endpoint":
        names = [document["EndpointName"] for document in documents]
        documents = [refreshed(state, name) for name in names if state.get(kind, name)]  # not deleted meanwhile
    return listing(kind, documents, request, f"{kind}s")


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
        servers.end_all(folder_of(state, name))
    return {}


def answer_runtime(state: State, request: HttpRequest) -> Reply:
    """SageMaker Runtime's InvokeEndpoint; an error of the server becomes ModelError, as on the service."""
    match = re.fullmatch(r"/endpoints/([^/]+)/invocations", urlsplit(request.url).path)
    if request.operation != "InvokeEndpoint" or match is None:
        said = f"The local target does not answer sagemaker-runtime:{request.operation}."
        raise RequestError("ValidationError", said)
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


def capture(
    storage: Storage,
    config: Document,
    place: tuple[str, str],
    request: tuple[dict[str, str], bytes],
    answer: servers.Answer,
) -> None:
    """Keep one invocation in SageMaker's layout, if the endpoint configuration says so and chance picks it.

    `<DestinationS3Uri>/<endpoint>/<variant>/yyyy/mm/dd/hh/<minute>-<second>-<ms>-<id>.jsonl`, UTC, one event a file
    (AWS guide, "model-monitor-data-capture"; the service gathers events for some minutes, here each is there at once).

    Args:
        place: the endpoint's and the variant's name.
        request: headers and body.
    """
    settings, headers = config.get("DataCaptureConfig", {}), request[0]
    if not settings.get("EnableCapture") or random.random() * 100 >= settings["InitialSamplingPercentage"]:
        return
    moment, event_id = datetime.now(UTC), str(uuid.uuid4())
    modes = {option["CaptureMode"] for option in settings["CaptureOptions"]}
    types = settings.get("CaptureContentTypeHeader", {})
    data = {
        f"endpoint{side}": payload(types, side.upper(), sent.get("Content-Type", ""), body)
        for side, sent, body in (("Input", *request), ("Output", answer.headers, answer.body))
        if modes & {side, "InputAndOutput"}
    }
    metadata = {"eventId": event_id, "inferenceTime": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}
    if INFERENCE_ID in headers:
        metadata["inferenceId"] = headers[INFERENCE_ID]
    folder = "/".join((settings["DestinationS3Uri"].rstrip("/"), *place, f"{moment:%Y/%m/%d/%H}"))
    name = f"{moment:%M-%S}-{moment.microsecond // 1000:03}-{event_id}.jsonl"
    line = json.dumps({"captureData": data, "eventMetadata": metadata, "eventVersion": "0"}, ensure_ascii=False)
    storage.write(f"{folder}/{name}", f"{line}\n".encode())


def payload(types: Document, mode: str, content_type: str, body: bytes) -> dict[str, str]:
    """Return a body as text if CaptureContentTypeHeader lists its content type, else in base64."""
    kinds = {"JSON": types.get("JsonContentTypes", []), "CSV": types.get("CsvContentTypes", [])}
    encoding = next((kind for kind, listed in kinds.items() if media_type(content_type) in listed), "BASE64")
    text = base64.b64encode(body).decode() if encoding == "BASE64" else body.decode(errors="replace")
    return {"observedContentType": content_type, "mode": mode, "data": text, "encoding": encoding}
