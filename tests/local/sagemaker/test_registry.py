"""The registry through boto3: versions and their numbers, approval, lists, updates that keep what they leave out."""

import threading
from typing import Any

import pytest

from pipeline.local import session
from tests.local.sagemaker.home import ROLE, refusal

CONTAINER = {"Image": "image", "ModelDataUrl": "s3://bucket/model.tar.gz", "Environment": {"A": "1"}}
SPECIFICATION = {"Containers": [CONTAINER], "SupportedContentTypes": ["image/png"]}
GROUP_ARN = "arn:aws:sagemaker:us-east-1:000000000000:model-package-group/"


@pytest.fixture
def client(tmp_path) -> Any:
    return session(tmp_path).client("sagemaker")


def register(client: Any, group: str = "Mugs", **members: Any) -> str:
    request = {"ModelPackageGroupName": group, "InferenceSpecification": SPECIFICATION, **members}
    return str(client.create_model_package(**request)["ModelPackageArn"])


def listed(client: Any, group: str = "Mugs", **request: Any) -> list[int]:
    pages = client.get_paginator("list_model_packages").paginate(ModelPackageGroupName=group, **request)
    return [package["ModelPackageVersion"] for page in pages for package in page["ModelPackageSummaryList"]]


def test_the_first_version_creates_its_group_and_no_number_is_given_twice(client):
    assert register(client) == "arn:aws:sagemaker:us-east-1:000000000000:model-package/mugs/1"
    group = client.describe_model_package_group(ModelPackageGroupName="Mugs")
    assert (group["ModelPackageGroupName"], group["ModelPackageGroupStatus"]) == ("Mugs", "Completed")
    assert group["ModelPackageGroupArn"] == f"{GROUP_ARN}mugs"
    last = [register(client) for _ in range(2)][-1]
    client.delete_model_package(ModelPackageName=last)
    assert register(client).endswith("/4")
    assert listed(client) == [4, 2, 1]


def test_versions_registered_at_once_get_numbers_of_their_own(tmp_path):
    arns: list[str] = []

    def several() -> None:
        mine = session(tmp_path).client("sagemaker")
        arns.extend(register(mine) for _ in range(5))

    threads = [threading.Thread(target=several) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(arn.rpartition("/")[2]) for arn in arns) == list(range(1, 16))


def test_a_group_is_found_by_name_in_any_case_and_by_its_arn(client):
    arn = register(client)
    register(client, "mugs")
    register(client, f"{GROUP_ARN}MUGS")
    register(client, "Cups")
    for name in (
        "Mugs",
        "mugs",
        client.describe_model_package_group(ModelPackageGroupName="MUGS")["ModelPackageGroupArn"],
    ):
        assert listed(client, name) == [3, 2, 1]
    for name in (arn, arn.replace("mugs", "Mugs"), "mugs/1", "Mugs/1"):
        package = client.describe_model_package(ModelPackageName=name)
        assert (package["ModelPackageArn"], package["ModelPackageGroupName"]) == (arn, "Mugs")
    assert register(client, f"{GROUP_ARN}New").endswith("/new/1")
    assert client.describe_model_package(ModelPackageName="new/1")["ModelPackageGroupName"] == "New"


def test_versions_are_listed_by_approval_newest_first_page_by_page(client):
    for number in range(103):  # more than a page holds
        register(client, **({"ModelApprovalStatus": "Approved"} if number < 5 else {}))
    assert listed(client) == list(range(103, 0, -1))
    assert listed(client, ModelApprovalStatus="Approved") == [5, 4, 3, 2, 1]
    assert listed(client, ModelApprovalStatus="PendingManualApproval", SortOrder="Ascending") == list(range(6, 104))
    first = client.list_model_packages(ModelPackageGroupName="Mugs", MaxResults=2)
    assert [package["ModelPackageVersion"] for package in first["ModelPackageSummaryList"]] == [103, 102]
    assert listed(client, "Nobody") == []


def test_an_update_keeps_what_it_leaves_out(client):
    arn = register(client, CustomerMetadataProperties={"a": "1", "b": "2"}, ModelPackageDescription="text")
    for change in (
        {"ModelApprovalStatus": "Approved", "ApprovalDescription": "good"},
        {"CustomerMetadataProperties": {"c": "3"}, "CustomerMetadataPropertiesToRemove": ["a"]},
        {"SourceUri": "s3://bucket/source"},
    ):
        client.update_model_package(ModelPackageArn=arn, **change)
    package = client.describe_model_package(ModelPackageName=arn)
    expected = {
        "ModelApprovalStatus": "Approved",
        "ApprovalDescription": "good",
        "CustomerMetadataProperties": {"b": "2", "c": "3"},
        "SourceUri": "s3://bucket/source",
        "ModelPackageDescription": "text",
        "InferenceSpecification": SPECIFICATION,
    }
    assert {name: package[name] for name in expected} == expected
    assert package["LastModifiedTime"] >= package["CreationTime"]
    client.update_model_package(ModelPackageArn=arn, CustomerMetadataPropertiesToRemove=["b", "c"])
    assert client.describe_model_package(ModelPackageName=arn)["CustomerMetadataProperties"] == {}


def test_what_cannot_be_is_refused_in_a_sentence(client):
    arn = register(client)
    for call, request, sentence in (
        (client.describe_model_package, {"ModelPackageName": "mugs/7"}, "Could not find model package 'mugs/7'."),
        (
            client.update_model_package,
            {"ModelPackageArn": arn, "ModelApprovalStatus": "approved"},
            "Did you mean 'Approved'?",
        ),
        (client.create_model_package, {"ModelPackageName": "alone"}, "CreateModelPackage needs ModelPackageGroupName"),
        (client.create_model_package_group, {"ModelPackageGroupName": "MUGS"}, "already existing model package group"),
        (client.create_model_package_group, {"ModelPackageGroupName": "my mugs"}, "must be letters, digits and dashes"),
        (client.delete_model_package_group, {"ModelPackageGroupName": "Mugs"}, "'Mugs' still has versions."),
        (client.list_model_packages, {"NextToken": "soon"}, "NextToken 'soon' is not one that an earlier answer gave."),
    ):
        code, message = refusal(call, **request)
        assert (code, sentence in message) == ("ValidationException", True), message
    client.delete_model_package(ModelPackageName=arn)
    client.delete_model_package_group(ModelPackageGroupName="Mugs")
    assert client.list_model_package_groups()["ModelPackageGroupSummaryList"] == []


def test_only_an_approved_version_becomes_a_model(client):
    arn = register(client)
    request = {"ModelName": "m", "ExecutionRoleArn": ROLE}
    pending = refusal(client.create_model, **request, Containers=[{"ModelPackageName": arn}])[1]
    assert pending == f"Model package {arn} is PendingManualApproval; only an Approved one can become a model."
    assert "PrimaryContainer" in refusal(client.create_model, **request)[1]
    client.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")
    client.create_model(**request, Containers=[{"ModelPackageName": arn}])
    assert client.describe_model(ModelName="m")["Containers"] == [{"ModelPackageName": arn}]
    assert "already existing model 'm'" in refusal(client.create_model, **request, PrimaryContainer=CONTAINER)[1]
    assert [model["ModelName"] for model in client.list_models()["Models"]] == ["m"]
    client.delete_model(ModelName="m")
    assert refusal(client.describe_model, ModelName="m")[1] == "Could not find model 'm'."
