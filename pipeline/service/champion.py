"""The champion: where the model in service is kept for retrains to be compared with (registry.require_improvement).

The deploy function keeps it (`steps/classifier/deployment/champion.py` says how). Here is only what it cannot do: the
prefix is never empty, as a Processing job refuses an empty input, and a version that was approved before there was a
champion becomes it.
"""

import json
from typing import Any

from botocore.exceptions import ClientError

from pipeline.aws.errors import is_missing
from pipeline.compile.placement import champion_uri
from pipeline.config.config import Config
from pipeline.service.aws_target import split_uri
from pipeline.service.control import service_errors
from pipeline.service.targets import Target

README = """The model that the endpoint is asked to serve, kept by the deploy function: model.tar.gz, and champion.json,
which says which version it is. EvaluateModel compares a newly trained model with it. Nothing else belongs here.
"""


def ensure(target: Target, config: Config) -> int:
    """Make the prefix ready for EvaluateModel; how many objects were stored.

    Raises:
        ServiceError: the registry or S3 refuses.
    """
    uri = champion_uri(config, target.placement)
    group = config.registry.model_package_group
    with service_errors(f"keep the approved version of model package group {group!r} for comparison at {uri}"):
        stored = int(target.put(f"{uri}/README.txt", README.encode()))
        version = None if target.holds(f"{uri}/model.tar.gz") else newest_approved(target.client("sagemaker"), group)
        return stored + (copy(target, uri, version) if version else 0)


def newest_approved(sagemaker: Any, group: str) -> dict[str, Any] | None:
    """The newest version that is approved and complete, described; None: there is none, or no group yet."""
    query = {"ModelApprovalStatus": "Approved", "SortBy": "CreationTime", "SortOrder": "Descending"}
    try:
        pages = sagemaker.get_paginator("list_model_packages").paginate(ModelPackageGroupName=group, **query)
        found = [item for page in pages for item in page["ModelPackageSummaryList"]]
    except ClientError as problem:
        if is_missing(problem):
            return None
        raise
    arn = next((item["ModelPackageArn"] for item in found if item["ModelPackageStatus"] == "Completed"), None)
    version: dict[str, Any] | None = sagemaker.describe_model_package(ModelPackageName=arn) if arn else None
    return version


def copy(target: Target, uri: str, version: dict[str, Any]) -> int:
    """The archive, then what it is, as the deploy function writes it; 0 if the version has no archive on S3."""
    containers = version.get("InferenceSpecification", {}).get("Containers") or [{}]
    source = str(containers[0].get("ModelDataUrl", ""))
    if not source.startswith("s3://"):
        return 0
    s3 = target.client("s3")
    bucket, key = split_uri(uri)
    source_bucket, source_key = split_uri(source)
    copied = s3.copy_object(
        Bucket=bucket,
        Key=f"{key}/model.tar.gz",
        CopySource={"Bucket": source_bucket, "Key": source_key},
        TaggingDirective="REPLACE",
    )
    description = {
        "model_package_arn": version["ModelPackageArn"],
        "model_data_url": source,
        "etag": copied["CopyObjectResult"]["ETag"],
    }
    s3.put_object(Bucket=bucket, Key=f"{key}/champion.json", Body=json.dumps(description, indent=2).encode())
    return 2
