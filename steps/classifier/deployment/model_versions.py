"""Versions of a model package group, as the registry describes them now; events may be late or stale."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from classifier.deployment.services import client, found


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model package group, by DescribeModelPackage; version 0 is a package without a group."""

    arn: str
    group: str
    version: int
    approval: str
    status: str
    content: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.group} version {self.version}" if self.version else self.group


def model_version(arn: str) -> ModelVersion:
    """DescribeModelPackage."""
    return _version(client("sagemaker").describe_model_package(ModelPackageName=arn))


def newest_approved(asked: ModelVersion) -> ModelVersion | None:
    """The newest version of the group of `asked` that is approved and complete; lists may lag, so it is described."""
    approved = asked if asked.approval == "Approved" else None
    for summary in _approved_summaries(asked.group) if asked.version else ():
        if approved and summary["ModelPackageVersion"] <= approved.version:
            break
        version = model_version(summary["ModelPackageArn"])
        if version.approval == "Approved" and version.status == "Completed":
            return version
    return approved


def served_version(endpoint: dict[str, Any]) -> ModelVersion | None:
    """The version behind an endpoint's configuration in service; None if it is no model package, or a deleted one."""
    sagemaker = client("sagemaker")
    config = sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
    model = sagemaker.describe_model(ModelName=config["ProductionVariants"][0]["ModelName"])
    containers = model.get("Containers") or [model.get("PrimaryContainer", {})]
    arn = containers[0].get("ModelPackageName")
    described = found(sagemaker.describe_model_package, ModelPackageName=arn) if arn else None
    return _version(described) if described else None


def _version(described: dict[str, Any]) -> ModelVersion:
    return ModelVersion(
        arn=described["ModelPackageArn"],
        group=described.get("ModelPackageGroupName") or described["ModelPackageName"],
        version=described.get("ModelPackageVersion", 0),
        approval=described.get("ModelApprovalStatus", ""),
        status=described["ModelPackageStatus"],
        content=described.get("InferenceSpecification", {}),
    )


def _approved_summaries(group: str) -> Iterator[dict[str, Any]]:
    """ListModelPackages, newest first."""
    query = {"ModelApprovalStatus": "Approved", "SortBy": "CreationTime", "SortOrder": "Descending"}
    pages = client("sagemaker").get_paginator("list_model_packages").paginate(ModelPackageGroupName=group, **query)
    return (summary for page in pages for summary in page["ModelPackageSummaryList"])
