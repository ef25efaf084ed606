"""The model registry and models: groups, versions with their approval, and CreateModel.

A group is created by the first version registered in it, so that a definition needs nothing beforehand.
"""

from typing import Any

from pipeline.local.answers import chosen, found, invalid, listed, unused
from pipeline.local.runtime import arn, now
from pipeline.local.state import Document, State

APPROVAL_STATUSES = ("Approved", "Rejected", "PendingManualApproval")
SUMMARY = (
    "ModelPackageName",
    "ModelPackageGroupName",
    "ModelPackageVersion",
    "ModelPackageArn",
    "ModelPackageDescription",
    "CreationTime",
    "ModelPackageStatus",
    "ModelApprovalStatus",
)
COMPARED_OUT = ("ModelApprovalStatus", "ClientToken")


def create_model_package_group(state: State, request: Document) -> Document:
    """CreateModelPackageGroup."""
    name = request["ModelPackageGroupName"]
    unused(state, "ModelPackageGroup", name, "model package group")
    document = {
        **request,
        "ModelPackageGroupArn": arn("model-package-group", name),
        "ModelPackageGroupStatus": "Completed",
        "CreationTime": now(),
        "Versions": 0,
    }
    state.put("ModelPackageGroup", name, document)
    return chosen(document, "ModelPackageGroupArn")


def create_model_package(state: State, request: Document) -> Document:
    """CreateModelPackage; the next version of its group."""
    group = request.get("ModelPackageGroupName")
    if not group:
        raise invalid("CreateModelPackage needs ModelPackageGroupName: the local registry keeps versions only.")
    with state.transaction():
        known = state.get("ModelPackageGroup", group)
        if known is None:
            create_model_package_group(state, {"ModelPackageGroupName": group})
            known = found(state, "ModelPackageGroup", group, "model package group")
        known["Versions"] += 1
        state.put("ModelPackageGroup", group, known)
        version = known["Versions"]
        package_arn = arn("model-package", f"{group}/{version}")
        document = {
            **request,
            "ModelPackageName": f"{group}/{version}",
            "ModelPackageVersion": version,
            "ModelPackageArn": package_arn,
            "ModelPackageStatus": "Completed",
            "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
            "ModelApprovalStatus": request.get("ModelApprovalStatus", "PendingManualApproval"),
            "CreationTime": now(),
            "LastModifiedTime": now(),
        }
        state.put("ModelPackage", package_arn, document)
    return {"ModelPackageArn": package_arn}


def same_model_package(state: State, request: Document) -> Document | None:
    """The newest version of the group, if it was registered by an equal request and still has that approval."""
    versions = [
        d for d in state.all("ModelPackage") if d["ModelPackageGroupName"] == request.get("ModelPackageGroupName")
    ]
    if not versions:
        return None
    newest = versions[-1]
    equal = all(newest.get(key) == value for key, value in request.items() if key not in COMPARED_OUT)
    wanted = request.get("ModelApprovalStatus", "PendingManualApproval")
    return newest if equal and newest["ModelApprovalStatus"] == wanted else None


def describe_model_package(state: State, request: Document) -> Document:
    """DescribeModelPackage, by ARN."""
    return found(state, "ModelPackage", request["ModelPackageName"], "model package")


def list_model_packages(state: State, request: Document) -> Document:
    """ListModelPackages, by group and approval."""
    group, approval = request.get("ModelPackageGroupName"), request.get("ModelApprovalStatus")

    def keep(document: Document) -> bool:
        in_group = group in (None, document["ModelPackageGroupName"], arn("model-package-group", str(group)))
        return in_group and approval in (None, document["ModelApprovalStatus"])

    packages = listed(state.all("ModelPackage"), request, keep)
    return {"ModelPackageSummaryList": [chosen(document, *SUMMARY) for document in packages]}


def update_model_package(state: State, request: Document) -> Document:
    """UpdateModelPackage: approval, its description and the customer's metadata."""
    package_arn = request["ModelPackageArn"]
    found(state, "ModelPackage", package_arn, "model package")

    def edit(document: Document) -> None:
        metadata: dict[str, Any] = {
            **document.get("CustomerMetadataProperties", {}),
            **request.get("CustomerMetadataProperties", {}),
        }
        for name in request.get("CustomerMetadataPropertiesToRemove", []):
            metadata.pop(name, None)
        document.update(chosen(request, "ModelApprovalStatus", "ApprovalDescription"), LastModifiedTime=now())
        if metadata:
            document["CustomerMetadataProperties"] = metadata

    state.change("ModelPackage", package_arn, edit)
    return {"ModelPackageArn": package_arn}


def delete_model_package(state: State, request: Document) -> Document:
    """DeleteModelPackage; its number is not given again."""
    found(state, "ModelPackage", request["ModelPackageName"], "model package")
    state.delete("ModelPackage", request["ModelPackageName"])
    return {}


def list_model_package_groups(state: State, request: Document) -> Document:
    """ListModelPackageGroups."""
    groups = listed(state.all("ModelPackageGroup"), request)
    members = ("ModelPackageGroupName", "ModelPackageGroupArn", "CreationTime", "ModelPackageGroupStatus")
    return {"ModelPackageGroupSummaryList": [chosen(document, *members) for document in groups]}


def describe_model_package_group(state: State, request: Document) -> Document:
    """DescribeModelPackageGroup."""
    return found(state, "ModelPackageGroup", request["ModelPackageGroupName"], "model package group")


def delete_model_package_group(state: State, request: Document) -> Document:
    """DeleteModelPackageGroup; refused while it has versions."""
    name = request["ModelPackageGroupName"]
    found(state, "ModelPackageGroup", name, "model package group")
    if any(document["ModelPackageGroupName"] == name for document in state.all("ModelPackage")):
        raise invalid(f"Model package group {name!r} still has versions.")
    state.delete("ModelPackageGroup", name)
    return {}


def create_model(state: State, request: Document) -> Document:
    """CreateModel, from a container or from an approved model package."""
    name = request["ModelName"]
    unused(state, "Model", name, "model")
    for container in containers(request):
        if package_arn := container.get("ModelPackageName"):
            package = found(state, "ModelPackage", package_arn, "model package")
            if package["ModelApprovalStatus"] != "Approved":
                status = package["ModelApprovalStatus"]
                raise invalid(f"Model package {package_arn} is {status}; only an Approved one can become a model.")
    document = {**request, "ModelArn": arn("model", name), "CreationTime": now()}
    state.put("Model", name, document)
    return chosen(document, "ModelArn")


def containers(request: Document) -> list[Document]:
    """The containers of a CreateModel request."""
    primary = request.get("PrimaryContainer")
    return [primary] if primary else list(request.get("Containers", []))


def describe_model(state: State, request: Document) -> Document:
    """DescribeModel."""
    return found(state, "Model", request["ModelName"], "model")


def list_models(state: State, request: Document) -> Document:
    """ListModels."""
    wanted = request.get("NameContains", "")
    models = listed(state.all("Model"), request, lambda document: wanted in document["ModelName"])
    return {"Models": [chosen(document, "ModelName", "ModelArn", "CreationTime") for document in models]}


def delete_model(state: State, request: Document) -> Document:
    """DeleteModel."""
    found(state, "Model", request["ModelName"], "model")
    state.delete("Model", request["ModelName"])
    return {}
