"""The registry through boto3: versions and their numbers, approval, lists, updates that keep what they leave out."""

import threading
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.state import State

CONTAINER = {"Image": "image", "ModelDataUrl": "s3://bucket/model.tar.gz", "Environment": {"A": "1"}}
SPECIFICATION = {"Containers": [CONTAINER], "SupportedContentTypes": ["image/png"]}


@pytest.fixture
def state(tmp_path) -> State:
    return State(tmp_path)


@pytest.fixture
def client(state) -> Any:
    return local_session(state).client("sagemaker")


def register(client: Any, group: str = "Mugs", **members: Any) -> str:
    request = {"ModelPackageGroupName": group, "InferenceSpecification": SPECIFICATION, **members}
    return str(client.create_model_package(**request)["ModelPackageArn"])


def refusal(call: Any, **request: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**request)
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    return str(caught.value.response["Error"]["Message"])


def listed(client: Any, **request: Any) -> list[int]:
    pages = client.get_paginator("list_model_packages").paginate(**request)
    return [package["ModelPackageVersion"] for page in pages for package in page["ModelPackageSummaryList"]]


def test_the_first_version_creates_its_group(client):
    assert register(client) == "arn:aws:sagemaker:us-east-1:000000000000:model-package/mugs/1"
    group = client.describe_model_package_group(ModelPackageGroupName="Mugs")
    assert (group["ModelPackageGroupName"], group["ModelPackageGroupStatus"]) == ("Mugs", "Completed")
    assert group["ModelPackageGroupArn"] == "arn:aws:sagemaker:us-east-1:000000000000:model-package-group/mugs"


def test_versions_count_on_and_no_number_is_given_twice(client):
    arns = [register(client) for _ in range(3)]
    client.delete_model_package(ModelPackageName=arns[2])
    assert register(client).endswith("/4")
    assert listed(client, ModelPackageGroupName="Mugs") == [4, 2, 1]


def test_versions_registered_at_once_get_numbers_of_their_own(tmp_path):
    arns: list[str] = []

    def several() -> None:
        mine = local_session(State(tmp_path)).client("sagemaker")
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
    register(client, "arn:aws:sagemaker:us-east-1:000000000000:model-package-group/MUGS")
    register(client, "Cups")
    group_arn = client.describe_model_package_group(ModelPackageGroupName="MUGS")["ModelPackageGroupArn"]
    for name in ("Mugs", "mugs", group_arn):
        assert listed(client, ModelPackageGroupName=name) == [3, 2, 1]
    for name in (arn, arn.replace("mugs", "Mugs"), "mugs/1", "Mugs/1"):
        package = client.describe_model_package(ModelPackageName=name)
        assert (package["ModelPackageArn"], package["ModelPackageGroupName"]) == (arn, "Mugs")


def test_a_group_can_be_created_by_its_arn(client):
    assert register(client, "arn:aws:sagemaker:us-east-1:000000000000:model-package-group/New").endswith("/new/1")
    assert client.describe_model_package(ModelPackageName="new/1")["ModelPackageGroupName"] == "New"


def test_a_version_waits_for_approval_unless_it_says_otherwise(client):
    assert client.describe_model_package(ModelPackageName=register(client))["ModelApprovalStatus"] == (
        "PendingManualApproval"
    )
    approved = register(client, ModelApprovalStatus="Approved")
    assert client.describe_model_package(ModelPackageName=approved)["ModelApprovalStatus"] == "Approved"


def test_versions_are_listed_by_approval_newest_first_page_by_page(client):
    for number in range(5):
        register(client, ModelApprovalStatus="Rejected" if number == 2 else "Approved")
    assert listed(client, ModelPackageGroupName="Mugs", ModelApprovalStatus="Approved") == [5, 4, 2, 1]
    assert listed(client, ModelPackageGroupName="Mugs", SortOrder="Ascending") == [1, 2, 3, 4, 5]
    first = client.list_model_packages(ModelPackageGroupName="Mugs", MaxResults=2)
    assert [package["ModelPackageVersion"] for package in first["ModelPackageSummaryList"]] == [5, 4]
    pages = list(client.get_paginator("list_model_packages").paginate(PaginationConfig={"PageSize": 2}))
    assert [len(page["ModelPackageSummaryList"]) for page in pages] == [2, 2, 1]
    assert listed(client, ModelPackageGroupName="Nobody") == []


def test_more_versions_than_a_page_holds_are_all_listed(client):
    for _ in range(103):
        register(client)
    assert listed(client, ModelPackageGroupName="Mugs") == list(range(103, 0, -1))


def test_an_update_keeps_what_it_leaves_out(client):
    arn = register(client, CustomerMetadataProperties={"a": "1", "b": "2"}, ModelPackageDescription="text")
    client.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved", ApprovalDescription="good")
    client.update_model_package(
        ModelPackageArn=arn, CustomerMetadataProperties={"c": "3"}, CustomerMetadataPropertiesToRemove=["a"]
    )
    client.update_model_package(ModelPackageArn=arn, SourceUri="s3://bucket/source")
    package = client.describe_model_package(ModelPackageName=arn)
    assert package["ModelApprovalStatus"] == "Approved"
    assert package["ApprovalDescription"] == "good"
    assert package["CustomerMetadataProperties"] == {"b": "2", "c": "3"}
    assert package["SourceUri"] == "s3://bucket/source"
    assert package["ModelPackageDescription"] == "text"
    assert package["InferenceSpecification"]["Containers"] == [CONTAINER]
    assert package["LastModifiedTime"] >= package["CreationTime"]


def test_the_last_metadata_can_be_removed(client):
    arn = register(client, CustomerMetadataProperties={"a": "1"})
    client.update_model_package(ModelPackageArn=arn, CustomerMetadataPropertiesToRemove=["a"])
    assert client.describe_model_package(ModelPackageName=arn)["CustomerMetadataProperties"] == {}


def test_what_cannot_be_is_refused_in_a_sentence(client):
    arn = register(client)
    assert refusal(client.describe_model_package, ModelPackageName="mugs/7") == "Could not find model package 'mugs/7'."
    assert "Did you mean 'Approved'?" in refusal(
        client.update_model_package, ModelPackageArn=arn, ModelApprovalStatus="approved"
    )
    assert refusal(client.create_model_package, ModelPackageName="alone") == (
        "CreateModelPackage needs ModelPackageGroupName: the local registry keeps versions only."
    )
    assert refusal(client.create_model_package_group, ModelPackageGroupName="MUGS") == (
        "Cannot create already existing model package group 'mugs'."
    )
    assert "ModelPackageGroupName must be letters, digits and dashes" in refusal(
        client.create_model_package_group, ModelPackageGroupName="my mugs"
    )
    assert refusal(client.delete_model_package_group, ModelPackageGroupName="Mugs") == (
        "Model package group 'Mugs' still has versions."
    )
    assert refusal(client.list_model_packages, NextToken="soon") == (
        "NextToken 'soon' is not one that an earlier answer gave."
    )
    client.delete_model_package(ModelPackageName=arn)
    client.delete_model_package_group(ModelPackageGroupName="Mugs")
    assert client.list_model_package_groups()["ModelPackageGroupSummaryList"] == []


def test_only_an_approved_version_becomes_a_model(client):
    arn = register(client)
    request = {"ModelName": "m", "ExecutionRoleArn": "arn:aws:iam::000000000000:role/x"}
    assert refusal(client.create_model, **request, Containers=[{"ModelPackageName": arn}]) == (
        f"Model package {arn} is PendingManualApproval; only an Approved one can become a model."
    )
    assert refusal(client.create_model, **request) == "CreateModel needs PrimaryContainer or Containers."
    client.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")
    client.create_model(**request, Containers=[{"ModelPackageName": arn}])
    assert client.describe_model(ModelName="m")["Containers"] == [{"ModelPackageName": arn}]
    assert refusal(client.create_model, **request, PrimaryContainer=CONTAINER) == (
        "Cannot create already existing model 'm'."
    )
    assert [model["ModelName"] for model in client.list_models()["Models"]] == ["m"]
    client.delete_model(ModelName="m")
    assert refusal(client.describe_model, ModelName="m") == "Could not find model 'm'."
