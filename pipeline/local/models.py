"""Models: what CreateModel makes of a container or of an approved model package."""

from typing import Any

from pipeline.local.answers import checked_name, chosen, found, invalid, listed, paged, unused
from pipeline.local.registry import found_package
from pipeline.local.runtime import arn, now
from pipeline.local.state import Document, State


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


def containers(request: Document) -> list[Document]:
    """The containers of a CreateModel request.

    Raises:
        RequestError: there is none.
    """
    primary = request.get("PrimaryContainer")
    found_containers = [primary] if primary else list(request.get("Containers", []))
    if not found_containers:
        raise invalid("CreateModel needs PrimaryContainer or Containers.")
    return found_containers


def resolved_container(state: State, container: Document) -> dict[str, Any]:
    """Image, data and environment of a container, those of its model package included.

    Raises:
        RequestError: the package says nothing about containers.
    """
    package_arn = container.get("ModelPackageName")
    if not package_arn:
        return container
    packaged = found_package(state, package_arn).get("InferenceSpecification", {}).get("Containers", [])
    if not packaged:
        raise invalid(f"Model package {package_arn} has no InferenceSpecification, so it cannot be served.")
    environment = {**packaged[0].get("Environment", {}), **container.get("Environment", {})}
    return {**packaged[0], **container, "Environment": environment}


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
