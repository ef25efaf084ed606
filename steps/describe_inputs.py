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
NO_DATA = ("/", "_READY")  # ends of keys: of a folder, and of the marker that an upload may end with
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
    except (ClientError, BotoCoreError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        remedy = "allow the function's role this action" if "AccessDenied" in said else "try it again later"
        raise InputsError(f"{event['data_uri']} and its models cannot be described: {said}; {remedy}.") from error
    message = f"{described}; the newest registered version is {answer['registered']}."
    print(message, flush=True)
    return {**answer, "message": message}


def data_listing(uri: str) -> tuple[str, str]:
    """Return a digest of the names, sizes and ETags at or below an S3 URI, and in words how many objects there are."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    inside, total, count, size = f"{key.rstrip('/')}/".removeprefix("/"), hashlib.sha256(), 0, 0
    try:
        for page in client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key):
            for item in page.get("Contents", []):  # in the order of the keys
                name = item["Key"].removeprefix(inside)
                if (item["Key"] != key and not item["Key"].startswith(inside)) or f"/{name}".endswith(NO_DATA):
                    continue
                total.update(json.dumps([name, item["Size"], item["ETag"]]).encode())
                count, size = count + 1, size + item["Size"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchBucket":
            raise
        raise InputsError(f"The bucket of {uri} does not exist: correct the parameter InputDataUri.") from error
    if not count:
        raise InputsError(f"There is no object at or below {uri}: upload images, or correct InputDataUri.")
    return total.hexdigest()[:32], f"{uri} holds {count:,} object{'' if count == 1 else 's'} of {size / 1e6:,.1f} MB"


def newest_version(group: str, **wanted: str) -> Package:
    """Return the newest complete version of a model package group, described; empty if there is none."""
    sagemaker, query = client("sagemaker"), {"ModelPackageGroupName": group, "SortBy": "CreationTime", **wanted}
    pages = sagemaker.get_paginator("list_model_packages").paginate(SortOrder="Descending", **query)
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
    bucket, _, key = f"{uri}/champion.json".removeprefix("s3://").partition("/")
    try:
        return str(json.load(client("s3").get_object(Bucket=bucket, Key=key)["Body"])["model_package_arn"])
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("NoSuchKey", "NoSuchBucket"):
            raise
    except (ValueError, KeyError, TypeError):  # it is not as the deploy function writes it, which writes it anew
        pass
    return NONE


@functools.cache
def client(service: str) -> Any:
    """Return the client, made by the default session when first needed and kept while the container lives."""
    return boto3.client(service, config=CLIENT_CONFIG)
