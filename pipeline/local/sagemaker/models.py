"""Models and endpoint configurations: what endpoints and transform jobs are made from."""

from functools import partial

from pipeline.definition.serving_requests import endpoint_config_faults
from pipeline.local.jobs.model_data import containers, found_package
from pipeline.local.jobs.runtime import arn, now
from pipeline.local.store.answers import checked_name, chosen, found, invalid, listed, paged, unused
from pipeline.local.store.state import Document, State

KINDS = {"Model": ("model", "model"), "EndpointConfig": ("endpoint configuration", "endpoint-config")}  # words, ARN


def create_model(state: State, request: Document) -> Document:
    """CreateModel, from containers or from an approved model package."""
    for container in containers(request):
        if package_arn := container.get("ModelPackageName"):
            status = found_package(state, package_arn)["ModelApprovalStatus"]
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


def listing(kind: str, state: State, request: Document) -> Document:
    """ListModels, ListEndpointConfigs."""
    wanted = request.get("NameContains", "")
    documents = listed(state.all(kind), request, lambda document: wanted in document[f"{kind}Name"])
    return paged(f"{kind}s", documents, request)


def deleted(kind: str, state: State, request: Document) -> Document:
    """DeleteModel, DeleteEndpointConfig."""
    described(kind, state, request)
    state.delete(kind, request[f"{kind}Name"])
    return {}


describe_model, describe_endpoint_config = (partial(described, kind) for kind in KINDS)
list_models, list_endpoint_configs = (partial(listing, kind) for kind in KINDS)
delete_model, delete_endpoint_config = (partial(deleted, kind) for kind in KINDS)
