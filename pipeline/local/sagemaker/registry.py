"""The model registry: groups, and their versions with their approval.

A group is created by the first version registered in it, so that a definition needs nothing beforehand. As on the
service, ARNs are in lower case: groups are told apart regardless of case, and keep the case they were created with.
"""

from pipeline.local.jobs.runtime import arn, now
from pipeline.local.jobs.servers import found_package
from pipeline.local.store.answers import chosen, found, invalid, listing, unused
from pipeline.local.store.state import Document, State

REPLACED = """
    ModelApprovalStatus ApprovalDescription InferenceSpecification SourceUri ModelCard ModelLifeCycle
    ModelPackageRegistrationType
"""  # by UpdateModelPackage, where given


def create_model_package_group(state: State, request: Document) -> Document:
    """CreateModelPackageGroup."""
    name = request["ModelPackageGroupName"]
    document = {
        **request,
        "ModelPackageGroupArn": arn("model-package-group", name.lower()),
        "ModelPackageGroupStatus": "Completed",
        "CreationTime": now(),
        "Versions": 0,
    }
    with state.transaction():
        unused(state, "ModelPackageGroup", name.lower(), "model package group")
        state.put("ModelPackageGroup", name.lower(), document)
    return chosen(document, "ModelPackageGroupArn")


def create_model_package(state: State, request: Document) -> Document:
    """CreateModelPackage: here always the next version of a group, which is made if need be."""
    if not request.get("ModelPackageGroupName"):
        raise invalid("CreateModelPackage needs ModelPackageGroupName: the local registry keeps versions only.")
    key = key_of(request["ModelPackageGroupName"])
    with state.transaction():
        if state.get("ModelPackageGroup", key) is None:
            name = request["ModelPackageGroupName"].rpartition("/")[2]
            create_model_package_group(state, {"ModelPackageGroupName": name})
        group = state.change("ModelPackageGroup", key, lambda known: known.update(Versions=known["Versions"] + 1))
        package_arn = arn("model-package", f"{key}/{group['Versions']}")
        document = {
            "ModelApprovalStatus": "PendingManualApproval",
            **request,
            "ModelPackageName": f"{group['ModelPackageGroupName']}/{group['Versions']}",
            "ModelPackageGroupName": group["ModelPackageGroupName"],
            "ModelPackageVersion": group["Versions"],
            "ModelPackageArn": package_arn,
            "ModelPackageStatus": "Completed",
            "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
            "CreationTime": now(),
            "LastModifiedTime": now(),
        }
        state.put("ModelPackage", package_arn, document)
    return {"ModelPackageArn": package_arn}


def key_of(name_or_arn: str) -> str:
    """The key of a group given by its name or its ARN."""
    return name_or_arn.rpartition("/")[2].lower()


def describe_model_package(state: State, request: Document) -> Document:
    """DescribeModelPackage."""
    return found_package(state, request["ModelPackageName"])


def list_model_packages(state: State, request: Document) -> Document:
    """ListModelPackages, by group and approval."""
    conditions: list[tuple[str, list[str]]] = []
    if group := request.get("ModelPackageGroupName"):
        conditions.append(("c.parent = ?", [key_of(group)]))
    if approval := request.get("ModelApprovalStatus"):
        conditions.append(("json_extract(d.document, '$.ModelApprovalStatus') = ?", [approval]))
    return listing(state, "ModelPackage", request, "ModelPackageSummaryList", conditions)


def update_model_package(state: State, request: Document) -> Document:
    """UpdateModelPackage; here a new approval status is answered when the function has ended that hears of it."""
    package = found_package(state, request["ModelPackageArn"])

    def edit(document: Document) -> None:
        metadata = {**document.get("CustomerMetadataProperties", {}), **request.get("CustomerMetadataProperties", {})}
        for name in request.get("CustomerMetadataPropertiesToRemove", []):
            metadata.pop(name, None)
        if added := request.get("AdditionalInferenceSpecificationsToAdd"):
            document.setdefault("AdditionalInferenceSpecifications", []).extend(added)
        given = chosen(request, *REPLACED.split())
        document.update(given, CustomerMetadataProperties=metadata, LastModifiedTime=now())

    changed = state.change("ModelPackage", package["ModelPackageArn"], edit)
    if "ModelApprovalStatus" in request:
        from pipeline.local.sagemaker.account import deliver_approval  # for this only

        deliver_approval(state, changed)
    return chosen(package, "ModelPackageArn")


def delete_model_package(state: State, request: Document) -> Document:
    """DeleteModelPackage; its number is not given again."""
    state.delete("ModelPackage", found_package(state, request["ModelPackageName"])["ModelPackageArn"])
    return {}


def list_model_package_groups(state: State, request: Document) -> Document:
    """ListModelPackageGroups."""
    return listing(state, "ModelPackageGroup", request, "ModelPackageGroupSummaryList")


def describe_model_package_group(state: State, request: Document) -> Document:
    """DescribeModelPackageGroup, by name or ARN."""
    group = found(state, "ModelPackageGroup", key_of(request["ModelPackageGroupName"]), "model package group")
    return {"CreatedBy": state.user_context(), **group}


def delete_model_package_group(state: State, request: Document) -> Document:
    """DeleteModelPackageGroup; refused while it has versions."""
    name = describe_model_package_group(state, request)["ModelPackageGroupName"]
    with state.transaction():
        if state.count("ModelPackage", [("c.parent = ?", [name.lower()])]):
            raise invalid(f"Model package group {name!r} still has versions.")
        state.delete("ModelPackageGroup", name.lower())
    return {}
