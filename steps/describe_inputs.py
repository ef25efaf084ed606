"""The Lambda that an execution begins with: what lies at the data's URI, and which models are registered by now.

The service's cache compares URIs, so the digest of the listing is an argument of PrepareData: new images under the same
prefix are prepared and trained again. The digests of the registered models are what CheckIsNew compares a new one with.
boto3 and the standard library only.
"""

import functools
import hashlib
import json
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

CLIENT_CONFIG = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 5})
NONE = "none"  # where a value of the answer has nothing to say: outputs of a Lambda step must not be empty
MARKER = "_READY"  # which an upload ends with; no image
MISSING = ("does not exist", "not found", "could not find")
Package = dict[str, Any]  # DescribeModelPackage


class InputsError(Exception):
    """The execution cannot begin; the text is one sentence that says why and what to do."""


def handler(event: dict[str, Any], context: object) -> dict[str, str]:
    """The Lambda entry point; returns the Lambda step's OutputParameters, all of them text."""
    try:
        data_version, described = data_listing(event["data_uri"])
        group = event["model_package_group"]
        newest, approved = newest_version(group), newest_version(group, ModelApprovalStatus="Approved")
        answer = {
            "data_version": data_version,
            "registered": newest.get("ModelPackageArn", NONE),
            "registered_sha256": model_sha256(newest, event),
            "approved": approved.get("ModelPackageArn", NONE),
            "champion_sha256": model_sha256(approved, event),
            "champion": champion(event["champion_uri"]),
        }
    except ClientError as error:
        said = " ".join(error.response["Error"].get("Message", "").split()).rstrip(".")
        remedy = "allow the function's role this action" if "AccessDenied" in str(error) else "try it again later"
        raise InputsError(f"AWS refused {error.operation_name} ({event['data_uri']}): {said}; {remedy}.") from error
    except BotoCoreError as error:
        raise InputsError(f"The request to AWS failed: {error}; try it again later.") from error
    return {**answer, "message": f"{described}; the newest registered version is {answer['registered']}."}


def data_listing(uri: str) -> tuple[str, str]:
    """Return a digest of the names, sizes and ETags at or below an S3 URI, and in words how many objects there are."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    inside, total, count, size = f"{key.rstrip('/')}/".removeprefix("/"), hashlib.sha256(), 0, 0
    try:
        for page in client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key):
            for item in page.get("Contents", []):  # in the order of the keys
                name = item["Key"].removeprefix(inside)
                is_data = item["Key"] == key or item["Key"].startswith(inside)
                if is_data and not name.endswith("/") and name.rpartition("/")[2] not in ("", MARKER):
                    line = json.dumps(
                        [name.rpartition("/")[2] if item["Key"] == key else name, item["Size"], item["ETag"]]
                    )
                    total.update(line.encode() + b"\n")
                    count, size = count + 1, size + item["Size"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchBucket":
            raise InputsError(f"The bucket of {uri} does not exist: correct the parameter InputDataUri.") from error
        raise
    if not count:
        raise InputsError(
            f"There is no object at or below {uri}: upload images, or correct the parameter InputDataUri."
        )
    return total.hexdigest()[:32], f"{uri} holds {count:,} object{'' if count == 1 else 's'} of {size / 1e6:,.1f} MB"


def newest_version(group: str, **wanted: str) -> Package:
    """Return the newest complete version of a model package group, described; empty if there is none."""
    sagemaker, order = client("sagemaker"), {"SortBy": "CreationTime", "SortOrder": "Descending"}
    pages = sagemaker.get_paginator("list_model_packages").paginate(ModelPackageGroupName=group, **order, **wanted)
    try:
        for summary in (each for page in pages for each in page["ModelPackageSummaryList"]):
            if summary["ModelPackageStatus"] == "Completed":
                found: Package = sagemaker.describe_model_package(ModelPackageName=summary["ModelPackageArn"])
                return found
    except ClientError as error:
        if not any(words in str(error).lower() for words in MISSING):
            raise
    return {}


def model_sha256(package: Package, event: dict[str, Any]) -> str:
    """Return the digest of a version's model, `none` where the same model would be served otherwise today."""
    container = (package.get("InferenceSpecification", {}).get("Containers") or [{}])[0]
    metadata, environment = package.get("CustomerMetadataProperties", {}), container.get("Environment", {})
    same = container.get("Image") == event["inference_image"]
    same &= all(environment.get(name, "") == value for name, value in event.get("environment", {}).items())
    same &= event.get("replace_classes") != "true" or metadata.get("replace_classes") == "true"
    return str(metadata.get("model_sha256", NONE)) if same else NONE


def champion(uri: str) -> str:
    """Return the ARN of the version in service, which champion.json below a URI names."""
    bucket, _, key = f"{uri.rstrip('/')}/champion.json".removeprefix("s3://").partition("/")
    try:
        return str(json.load(client("s3").get_object(Bucket=bucket, Key=key)["Body"])["model_package_arn"])
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "NoSuchBucket"):
            return NONE
        raise


@functools.cache
def client(service: str) -> Any:
    """Return the client, made by the default session when first needed and kept while the container lives."""
    return boto3.client(service, config=CLIENT_CONFIG)
