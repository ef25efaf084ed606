"""The model registry, the endpoints that serve it, and the champion: the copy that retrains are compared with."""

import base64
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from botocore.exceptions import ClientError

from pipeline.aws.requests import describe
from pipeline.errors import ServiceError, UsageError
from pipeline.service.executions import NEWEST_FIRST, parameters_of
from pipeline.service.sources import SHIPPED
from pipeline.service.targets import POLL_SECONDS, Target, ask, ask_all, in_threads, service_errors, split_uri

WAIT_SECONDS = 900
VERSION_TAG = "deploy:version"  # of a model that the deploy function has made: see steps/deploy.py
EVENT_FAILED = "EventDeliveryFailed"  # of the local target: it waits for what the event leads to
ENDPOINT_IN_MOTION = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")


def model_packages(target: Target, group: str) -> list[dict[str, Any]]:
    """Return the versions of a model package group as they are listed, newest first."""
    action, request = f"list the versions of model package group {group!r}", {"ModelPackageGroupName": group}
    return ask_all(target, action, "list_model_packages", **request, **NEWEST_FIRST)


def model_package(target: Target, arn: str) -> dict[str, Any]:
    """DescribeModelPackage: unlike the list, with the version's metadata."""
    return ask(target, f"describe model package {arn}", "describe_model_package", ModelPackageName=arn)


def groups(target: Target) -> list[str]:
    """Return the names of the model package groups, newest first."""
    found = ask_all(target, "list the model package groups", "list_model_package_groups")
    return [group["ModelPackageGroupName"] for group in found]


def version_rows(target: Target, group: str, count: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield what is known of the newest versions of a group; figures are text as they were registered."""
    target.client("sagemaker")  # made once, then shared
    arns = [package["ModelPackageArn"] for package in model_packages(target, group)[:count]]
    yield from in_threads(lambda arn: version_row(target, model_package(target, arn)), arns)


def served_version(target: Target, endpoint_name: str) -> str | None:
    """Return the ARN of the version that an endpoint serves, if that is known: its model's own, or as it is tagged."""
    with suppress(ServiceError):
        found = ask(target, "describe it", "describe_endpoint", EndpointName=endpoint_name)["EndpointConfigName"]
        config = ask(target, "describe it", "describe_endpoint_config", EndpointConfigName=found)
        name = config["ProductionVariants"][0]["ModelName"]
        model = ask(target, "describe it", "describe_model", ModelName=name)
        if package := model.get("PrimaryContainer", {}).get("ModelPackageName"):
            return str(model_package(target, package)["ModelPackageArn"])
        tags = ask_all(target, "list its tags", "list_tags", ResourceArn=model["ModelArn"])
        return next((tag["Value"] for tag in tags if tag["Key"] == VERSION_TAG), None)
    return None


def version_row(target: Target, package: Mapping[str, Any]) -> dict[str, Any]:
    """Return a version with what it was trained with and where it came from."""
    origin, metadata = package.get("MetadataProperties", {}), package.get("CustomerMetadataProperties", {})
    return {
        "version": version(package),
        "status": package["ModelApprovalStatus"],
        "accuracy": metadata.get("accuracy"),
        "images": metadata.get("test_images"),
        "interval_95": metadata.get("accuracy_interval"),
        "data": data_name(target, origin.get("GeneratedBy")),
        "data_images": metadata.get("dataset_images"),
        "classes": metadata.get("classes"),
        "created": package["CreationTime"].isoformat(timespec="seconds"),
        "model_package_arn": package["ModelPackageArn"],
        "execution_arn": origin.get("GeneratedBy"),
        "commit": origin.get("CommitId"),
        "metadata": metadata,
    }


def data_name(target: Target, execution_arn: str | None) -> str | None:
    """Return the name of the data that an execution used, if it is still known."""
    uri = ""
    with suppress(ServiceError):
        uri = parameters_of(target, execution_arn).get("InputDataUri", "") if execution_arn else ""
    key = uri.rstrip("/").rpartition("/")[2]
    return {key: name for name, key in SHIPPED.items()}.get(key) or re.sub(r"-[0-9a-f]{16}$", "", key) or None


def model_package_arn(target: Target, group: str, wanted: str | None) -> str:
    """Return the ARN of a version by its ARN or number, else of the newest that waits for approval."""
    if wanted and wanted.startswith("arn:"):
        return str(model_package(target, wanted)["ModelPackageArn"])
    found = model_packages(target, group)
    for package in found:
        waits = package["ModelApprovalStatus"] == "PendingManualApproval"
        if waits if wanted is None else str(version(package)) == wanted:
            return str(package["ModelPackageArn"])
    if not found:
        raise UsageError(f"Model package group {group!r} has no version yet.")
    known = ", ".join(f"{version(package)} ({package['ModelApprovalStatus']})" for package in found)
    if wanted is None:
        raise UsageError(f"No version of model package group {group!r} waits for approval; name one: {known}.")
    raise UsageError(f"Model package group {group!r} has no version {wanted!r}; its versions: {known}.")


def copied_container(target: Target, package: Mapping[str, Any], uri: str) -> dict[str, Any]:
    """Copy a version's archive to a URI; return the container of CreateModel that serves it from there.

    A ServiceError if it is not what was evaluated, or if the version has not one container with an archive.
    """
    containers, expected = package.get("InferenceSpecification", {}).get("Containers", []), archive_sha256(package)
    archive, number = str(containers[0].get("ModelDataUrl", "")) if len(containers) == 1 else "", version(package)
    if not archive.startswith("s3://"):
        raise ServiceError(f"Model version {number} has not one container with an archive on S3, so it is not served.")
    (bucket, key), (from_bucket, from_key) = split_uri(uri), split_uri(archive)
    request = {"CopySource": {"Bucket": from_bucket, "Key": from_key}, "TaggingDirective": "REPLACE"}
    with service_errors(f"copy {archive} to {uri}"):
        s3 = target.client("s3")
        copied = s3.copy_object(Bucket=bucket, Key=key, ChecksumAlgorithm="SHA256", **request)["CopyObjectResult"]
    found = base64.b64decode(copied.get("ChecksumSHA256", "")).hex()
    if expected not in ("", found):
        raise ServiceError(
            f"{archive} of model version {number} was changed after it was evaluated (its SHA-256 is {found}, not "
            f"{expected}): use run_pipeline.py reject {number}, and train again."
        )
    return {key: containers[0][key] for key in ("Image", "Environment") if key in containers[0]} | {"ModelDataUrl": uri}


def archive_sha256(package: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the archive that was evaluated; empty if the version was registered without it."""
    return str(package.get("CustomerMetadataProperties", {}).get("archive_sha256", ""))


def approved_version(target: Target, group: str, wanted: str | None) -> str:
    """Return the ARN of an approved version by number or ARN, or of the newest; no others are served."""
    if wanted is None:
        for package in model_packages(target, group):
            if package["ModelApprovalStatus"] == "Approved":
                return str(package["ModelPackageArn"])
        raise UsageError(f"Model package group {group!r} has no approved version; see: run_pipeline.py models")
    arn = model_package_arn(target, group, wanted)
    status = model_package(target, arn)["ModelApprovalStatus"]
    if status != "Approved":
        raise UsageError(f"Version {wanted} is {status}; approve it with: run_pipeline.py approve {wanted}")
    return arn


def version(package: Mapping[str, Any]) -> int:
    return int(package.get("ModelPackageVersion") or str(package["ModelPackageArn"]).rpartition("/")[2])


def set_approval(target: Target, arn: str, status: str, *, why: str, replace_classes: bool = False) -> None:
    """UpdateModelPackage; on both targets the deploy function hears of it by an event."""
    request = {"ModelPackageArn": arn, "ModelApprovalStatus": status, "ApprovalDescription": why}
    permitted = {"CustomerMetadataProperties": {"replace_classes": "true"}} if replace_classes else {}
    try:
        ask(target, f"set {arn} to {status}", "update_model_package", **request, **permitted)
    except ServiceError as problem:
        cause = problem.__cause__
        if isinstance(cause, ClientError) and cause.response["Error"]["Code"] == EVENT_FAILED:
            raise ServiceError(cause.response["Error"]["Message"]) from problem
        raise


def endpoint(target: Target, name: str) -> dict[str, Any] | None:
    """Return DescribeEndpoint, or None if there is none."""
    with service_errors(f"describe endpoint {name!r}"):
        return describe(target.client("sagemaker").describe_endpoint, EndpointName=name)


def wait_for_endpoint(target: Target, name: str) -> dict[str, Any] | None:
    """Return the endpoint once it is neither being created nor updated."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (found := endpoint(target, name)) and found["EndpointStatus"] in ENDPOINT_IN_MOTION:
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS[target.name])
    return found


def endpoints(target: Target) -> list[dict[str, Any]]:
    """Return every endpoint, newest first."""
    return ask_all(target, "list endpoints", "list_endpoints")
