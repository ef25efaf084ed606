"""Models and endpoint configurations: what endpoints and transform jobs are made from."""

from pipeline.definition.serving_requests import endpoint_config_faults
from pipeline.local.jobs.model_data import containers, found_package
from pipeline.local.jobs.runtime import arn, now
from pipeline.local.store.answers import checked_name, chosen, found, invalid, listed, paged, unused
from pipeline.local.store.state import Document, State


def create_model(state: State, request: Document) -> Document:
    """CreateModel, from a container or from an approved model package."""
    name = checked_name(request, "ModelName")
    for container in containers(request):
        if package_arn := container.get("ModelPackageName"):
            status = found_package(state, package_arn)["ModelApprovalStatus"]
            if status != "Approved":
                raise invalid(f"Model package {package_arn} is {status}; only an Approved one can become a model.")
    document = {**request, "ModelArn": arn("model", name), "CreationTime": now()}
    with state.transaction():
        unused(state, "Model", name, "model")
        state.put("Model", name, document)
    return chosen(document, "ModelArn")


def describe_model(state: State, request: Document) -> Document:
    """DescribeModel."""
    return found(state, "Model", request["ModelName"], "model")


def list_models(state: State, request: Document) -> Document:
    """ListModels."""
    wanted = request.get("NameContains", "")
    models = listed(state.all("Model"), request, lambda document: wanted in document["ModelName"])
    return paged("Models", [chosen(model, "ModelName", "ModelArn", "CreationTime") for model in models], request)


def delete_model(state: State, request: Document) -> Document:
    """DeleteModel."""
    found(state, "Model", request["ModelName"], "model")
    state.delete("Model", request["ModelName"])
    return {}


def create_endpoint_config(state: State, request: Document) -> Document:
    """CreateEndpointConfig."""
    name = checked_name(request, "EndpointConfigName")
    if faults := list(endpoint_config_faults(request)):
        raise invalid(f"EndpointConfig {name!r} {faults[0]}")
    for variant in request["ProductionVariants"]:
        found(state, "Model", variant.get("ModelName", ""), "model")
    document = {**request, "EndpointConfigArn": arn("endpoint-config", name), "CreationTime": now()}
    with state.transaction():
        unused(state, "EndpointConfig", name, "endpoint configuration")
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
    return paged("EndpointConfigs", [chosen(document, *members) for document in configs], request)


def delete_endpoint_config(state: State, request: Document) -> Document:
    """DeleteEndpointConfig."""
    found(state, "EndpointConfig", request["EndpointConfigName"], "endpoint configuration")
    state.delete("EndpointConfig", request["EndpointConfigName"])
    return {}
