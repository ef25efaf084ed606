"""The function that an execution begins with, on moto's S3 and model registry."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.stub import Stubber

import describe_inputs

BUCKET, IMAGE = "a-bucket-of-ours", "123456789012.dkr.ecr.us-east-1.amazonaws.com/inference:1"
SERVED = {"INFERENCE_RUNTIME": "auto", "MIN_PRECISION": ""}
EVENT = {
    "data_uri": f"s3://{BUCKET}/photos",
    "model_package_group": "image-classification",
    "champion_uri": f"s3://{BUCKET}/image-classification/champion",
    "inference_image": IMAGE,
    "environment": SERVED,
    "replace_classes": "false",
}
NONE = "none"


@pytest.fixture
def s3(client) -> Iterator[Any]:
    """S3 with a bucket that holds two images below `photos`."""
    describe_inputs.client.cache_clear()
    client("s3").create_bucket(Bucket=BUCKET)
    for name in ("photos/cat/1.png", "photos/dog/1.png"):
        client("s3").put_object(Bucket=BUCKET, Key=name, Body=name.encode())
    yield client("s3")
    describe_inputs.client.cache_clear()


@pytest.fixture
def describe(s3) -> Callable[..., dict[str, str]]:
    """A function from what differs in the event to the handler's answer; all of it is text."""

    def call(**changes: Any) -> dict[str, str]:
        answer = describe_inputs.handler({**EVENT, **changes}, None)
        assert all(isinstance(value, str) and value for value in answer.values())
        return answer

    return call


@pytest.fixture
def register(client, s3) -> Callable[..., str]:
    """A function that registers a version of a model's digest; its ARN."""
    client("sagemaker").create_model_package_group(ModelPackageGroupName=EVENT["model_package_group"])

    def make_version(model: str, status: str = "Approved", image: str = IMAGE, **metadata: str) -> str:
        container = {"Image": image, "ModelDataUrl": "s3://b/m.tar.gz", "Environment": {"INFERENCE_RUNTIME": "auto"}}
        answer = client("sagemaker").create_model_package(
            ModelPackageGroupName=EVENT["model_package_group"],
            ModelApprovalStatus=status,
            CustomerMetadataProperties={"model_sha256": model, **metadata},
            InferenceSpecification={
                "Containers": [container],
                "SupportedContentTypes": ["image/png"],
                "SupportedResponseMIMETypes": ["application/json"],
            },
        )
        return str(answer["ModelPackageArn"])

    return make_version


def put(s3: Any, key: str, content: bytes) -> None:
    s3.put_object(Bucket=BUCKET, Key=key, Body=content)


CHANGES: dict[str, tuple[bool, Callable[[Any], object]]] = {  # whether the data's version is another one then
    "nothing": (False, lambda s3: None),
    "an image more": (True, lambda s3: put(s3, "photos/dog/2.png", b"2")),
    "an image less": (True, lambda s3: s3.delete_object(Bucket=BUCKET, Key="photos/dog/1.png")),
    "other bytes, as many": (True, lambda s3: put(s3, "photos/dog/1.png", b"photos/DOG/1.png")),
    "the same bytes again": (False, lambda s3: put(s3, "photos/dog/1.png", b"photos/dog/1.png")),
    "another prefix": (False, lambda s3: put(s3, "photos2/dog/1.png", b"1")),
    "a folder": (False, lambda s3: put(s3, "photos/dog/", b"")),
    "the marker": (False, lambda s3: put(s3, "photos/_READY", b"now")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_data_has_another_version_when_what_lies_at_its_uri_has_changed(s3, describe, change):
    is_other, make = CHANGES[change]
    before = describe()["data_version"]
    make(s3)
    assert (describe()["data_version"] != before) is is_other


def test_the_same_data_has_the_same_version_wherever_it_lies(s3, describe):
    for key in ("copies/photos/cat/1.png", "copies/photos/dog/1.png"):
        s3.copy_object(Bucket=BUCKET, Key=key, CopySource={"Bucket": BUCKET, "Key": key.removeprefix("copies/")})
    places = ("photos", "photos/", "copies/photos")
    assert len({describe(data_uri=f"s3://{BUCKET}/{place}")["data_version"] for place in places}) == 1


def test_an_archive_is_data_too_and_a_whole_bucket(s3, describe, capsys):
    archive = f"s3://{BUCKET}/photos.zip"
    put(s3, "photos.zip", b"1")
    put(s3, "photos.zip.old", b"0")
    first = describe(data_uri=archive)
    assert "holds 1 object of" in first["message"] and first["message"] in capsys.readouterr().out
    put(s3, "photos.zip", b"2")
    assert describe(data_uri=archive)["data_version"] != first["data_version"]
    assert "holds 4 objects of" in describe(data_uri=f"s3://{BUCKET}")["message"]


def test_all_of_a_prefix_counts_whatever_its_size(s3, describe):
    for number in range(1001):
        put(s3, f"many/{number:04}", b"1")
    before = describe(data_uri=f"s3://{BUCKET}/many")
    assert "holds 1,001 objects of" in before["message"]
    put(s3, "many/1000", b"2")
    assert describe(data_uri=f"s3://{BUCKET}/many")["data_version"] != before["data_version"]


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        (f"s3://{BUCKET}/phot", "There is no object at or below s3://a-bucket-of-ours/phot: upload images"),
        (f"s3://{BUCKET}/folders", "There is no object at or below s3://a-bucket-of-ours/folders: upload images"),
        ("s3://nobodys-bucket/photos", "The bucket of s3://nobodys-bucket/photos does not exist: correct the param"),
    ],
)
def test_data_that_is_not_there_is_one_sentence(s3, describe, uri, sentence):
    put(s3, "folders/cat/", b"")
    with pytest.raises(describe_inputs.InputsError, match=f"^{sentence}"):
        describe(data_uri=uri)


def test_what_aws_refuses_is_one_sentence_with_the_place_and_the_remedy(describe):
    with Stubber(describe_inputs.client("s3")) as stubbed:
        stubbed.add_client_error("list_objects_v2", "AccessDenied", "Access Denied", 403)
        with pytest.raises(describe_inputs.InputsError) as caught:
            describe()
    assert str(caught.value) == (
        f"s3://{BUCKET}/photos and its models cannot be described: An error occurred (AccessDenied) when calling the "
        "ListObjectsV2 operation: Access Denied; allow the function's role this action."
    )


def test_without_versions_no_model_is_known(describe):
    answer = describe()
    names = ("registered", "registered_sha256", "approved", "champion_sha256", "champion")
    assert [answer[name] for name in names] == [NONE] * 5


def test_the_newest_version_and_the_newest_approved_one_are_known_by_their_models(describe, register):
    first = register("aaa")
    found = describe()
    assert (found["registered"], found["registered_sha256"]) == (first, "aaa")
    assert (found["approved"], found["champion_sha256"]) == (first, "aaa")
    for status in ("PendingManualApproval", "Rejected"):
        newest = register("bbb", status)
        found = describe()
        assert (found["registered"], found["registered_sha256"]) == (newest, "bbb")
        assert (found["approved"], found["champion_sha256"]) == (first, "aaa")


@pytest.mark.parametrize(
    ("version", "event", "known"),
    [
        ({}, {}, "aaa"),
        ({"image": "another"}, {}, NONE),  # the server has changed
        ({}, {"environment": {**SERVED, "INFERENCE_RUNTIME": "openvino"}}, NONE),
        ({}, {"environment": {**SERVED, "MIN_PRECISION": "0.95"}}, NONE),
        ({}, {"replace_classes": "true"}, NONE),
        ({"replace_classes": "true"}, {"replace_classes": "true"}, "aaa"),
        ({"replace_classes": "true"}, {}, "aaa"),
    ],
)
def test_a_model_that_would_be_served_otherwise_is_not_known(describe, register, version, event, known):
    register("aaa", **version)
    assert describe(**event)["registered_sha256"] == known


def test_a_version_of_an_earlier_release_has_no_digest(client, describe, register):
    arn = register("aaa")
    client("sagemaker").update_model_package(
        ModelPackageArn=arn,
        ModelApprovalStatus="Approved",
        ApprovalDescription="",
        CustomerMetadataProperties={"accuracy": "0.9"},
    )
    assert describe()["registered_sha256"] == NONE


def test_the_champion_is_the_version_that_the_deploy_function_has_noted(s3, describe):
    arn = "arn:aws:sagemaker:us-east-1:123456789012:model-package/g/3"
    put(s3, "image-classification/champion/champion.json", json.dumps({"model_package_arn": arn}).encode())
    assert describe()["champion"] == arn
    for damaged in (b"", b"[]", b"{}", b"\xff"):
        put(s3, "image-classification/champion/champion.json", damaged)
        assert describe()["champion"] == "none"
