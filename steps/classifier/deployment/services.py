"""The AWS services that the deploy function asks: clients, errors, and what the model registry says of a version."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

Answer = TypeVar("Answer")
CLIENT_CONFIG = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 3})
MISSING = ("could not find", "does not exist", "not found", "no scalable target")
REMEDIES = {  # by error code; after any other, throttling and faults among them, the same request may succeed
    "AccessDenied": "allow the function's role this action",
    "AccessDeniedException": "allow the function's role this action",
    "LimitExceededException": "ask for a higher quota",
    "ResourceLimitExceeded": "ask for a higher quota or choose another deploy.instance_type",
    "ResourceNotFound": "correct the name or create it",
    "ValidationException": "correct what it names",
}


class DeployError(Exception):
    """What was to be done is not done; the text is one sentence that says why and what to do."""


class OtherClasses(DeployError):
    """The version knows other classes than the one in service, and nobody has said that it may replace it."""


@functools.cache
def client(service: str) -> Any:
    """The client, made by the default session when first needed and kept while the container lives."""
    return boto3.client(service, config=CLIENT_CONFIG)


def found(call: Callable[..., Answer], **arguments: Any) -> Answer | None:
    """The answer, or None if what it is about is not there, which only an error's text tells."""
    try:
        return call(**arguments)
    except ClientError as error:
        if any(words in said(error).lower() for words in MISSING):
            return None
        raise


def said(error: Exception) -> str:
    """An error's own words on one line, without a full stop."""
    text = error.response["Error"].get("Message", "") if isinstance(error, ClientError) else str(error)
    return " ".join(text.split()).rstrip(".")


def explained(error: Exception) -> str:
    """One sentence for an error of AWS, of botocore, which refuses some requests before they are sent, or of ours."""
    if isinstance(error, DeployError):
        return str(error)
    if isinstance(error, ClientError):
        remedy = REMEDIES.get(error.response["Error"]["Code"], "try it again later")
        return f"AWS refused {error.operation_name}: {said(error)}; {remedy}."
    return f"The request to AWS failed: {said(error)}; correct what it names, or try it again later."


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model package group, by DescribeModelPackage; version 0 is a package without a group."""

    arn: str
    group: str
    version: int
    approval: str
    status: str
    content: dict[str, Any]
    metadata: dict[str, str] = field(default_factory=dict)  # with `replace_classes` where that was permitted

    def __str__(self) -> str:
        return f"{self.group} version {self.version}" if self.version else self.group


def model_version(arn: str) -> ModelVersion:
    """DescribeModelPackage: what the registry says now, as events may be late or stale."""
    described = client("sagemaker").describe_model_package(ModelPackageName=arn)
    return ModelVersion(
        arn=described["ModelPackageArn"],
        group=described.get("ModelPackageGroupName") or described["ModelPackageName"],
        version=described.get("ModelPackageVersion", 0),
        approval=described.get("ModelApprovalStatus", ""),
        status=described["ModelPackageStatus"],
        content=described.get("InferenceSpecification", {}),
        metadata=described.get("CustomerMetadataProperties", {}),
    )


def newest_approved(asked: ModelVersion) -> ModelVersion | None:
    """The newest version of the group of `asked` that is approved and complete; lists may lag, so it is described."""
    approved = asked if asked.approval == "Approved" else None
    query = {"ModelApprovalStatus": "Approved", "SortBy": "CreationTime", "SortOrder": "Descending"}
    pages = (
        client("sagemaker").get_paginator("list_model_packages").paginate(ModelPackageGroupName=asked.group, **query)
    )
    for summary in (each for page in pages for each in page["ModelPackageSummaryList"]):
        if approved and summary["ModelPackageVersion"] <= approved.version:
            break
        version = model_version(summary["ModelPackageArn"])
        if version.approval == "Approved" and version.status == "Completed":
            return version
    return approved
