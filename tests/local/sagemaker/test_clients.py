"""Clients at once, page by page, and beside the user's own AWS settings."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError

from pipeline.local import session
from tests.local.lab import ROOT


def register(client: Any, **members: Any) -> str:
    return client.create_model_package(ModelPackageGroupName="mugs", **members)["ModelPackageArn"]


def test_versions_registered_at_once_get_numbers_of_their_own(tmp_path: Path) -> None:
    def several(_: int) -> list[str]:
        client = session(tmp_path).client("sagemaker")
        return [register(client) for _ in range(5)]

    with ThreadPoolExecutor() as pool:
        arns = [arn for found in pool.map(several, range(3)) for arn in found]
    assert sorted(int(arn.rpartition("/")[2]) for arn in arns) == list(range(1, 16))


def test_versions_are_listed_by_approval_newest_first_page_by_page(tmp_path: Path) -> None:
    client = session(tmp_path).client("sagemaker")
    for number in range(103):  # more than a page holds
        register(client, ModelApprovalStatus="Approved" if number < 5 else "PendingManualApproval")

    def listed(**request: Any) -> list[int]:
        pages = client.get_paginator("list_model_packages").paginate(ModelPackageGroupName="mugs", **request)
        return [package["ModelPackageVersion"] for page in pages for package in page["ModelPackageSummaryList"]]

    assert listed() == list(range(103, 0, -1))
    assert listed(ModelApprovalStatus="Approved") == [5, 4, 3, 2, 1]
    assert listed(ModelApprovalStatus="PendingManualApproval", SortOrder="Ascending") == list(range(6, 104))
    first = client.list_model_packages(ModelPackageGroupName="mugs", MaxResults=2)
    assert [package["ModelPackageVersion"] for package in first["ModelPackageSummaryList"]] == [103, 102]


@pytest.mark.parametrize(
    "settings",
    [
        {"AWS_PROFILE": "nobody"},
        {"AWS_ENDPOINT_URL": "http://localhost:4566", "AWS_ENDPOINT_URL_S3": "http://localhost:4566"},
        {"AWS_DEFAULT_REGION": "no region!", "AWS_REGION": "eu-west-1"},
        {"AWS_CA_BUNDLE": "/nowhere", "AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"},
        {"AWS_MAX_ATTEMPTS": "many", "AWS_RETRY_MODE": "wild", "AWS_DEFAULTS_MODE": "odd"},
        {"AWS_CONFIG_FILE": str(ROOT / "Makefile"), "AWS_SHARED_CREDENTIALS_FILE": str(ROOT / "Makefile")},
        {"HTTPS_PROXY": "http://localhost:1", "HTTP_PROXY": "http://localhost:1"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_the_users_own_aws_settings_change_nothing(tmp_path: Path, monkeypatch: Any, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    aws = session(tmp_path)
    assert aws.client("logs").describe_log_streams(logGroupName="/aws/sagemaker/TrainingJobs")["logStreams"] == []
    assert aws.client("sts").get_caller_identity()["Account"] == "000000000000"
    aws.client("s3").put_object(Bucket="bucket", Key="k", Body=b"v")
    assert aws.client("s3").get_object(Bucket="bucket", Key="k")["Body"].read() == b"v"


def test_a_session_beside_it_is_not_answered_here() -> None:
    other = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1")
    elsewhere = {"endpoint_url": "http://127.0.0.1:9", "config": Config(retries={"max_attempts": 0})}
    with pytest.raises(EndpointConnectionError):
        other.client("sagemaker", **elsewhere).list_pipelines()
