"""Endpoint configurations."""

from pipeline.definition.serving_requests import endpoint_config_faults
from pipeline.local.jobs.runtime import arn, now
from pipeline.local.store.answers import checked_name, chosen, found, invalid, listed, paged, unused
from pipeline.local.store.state import Document, State


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
