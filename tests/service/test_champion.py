"""The champion's prefix before a run: never empty, and a version approved earlier is there to be compared with."""

import importlib
import json
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest

from pipeline.config.sections import Config, RegistryConfig
from pipeline.errors import ServiceError
from pipeline.service.aws_target import AwsTarget
from pipeline.service.local_target import LocalTarget, deploy_environment
from pipeline.service.models import ensure_champion as ensure
from pipeline.service.targets import Target

PREFIX = "image-classification/champion"
ROLE = "arn:aws:iam::123456789012:role/pipeline"
REPOSITORY = "123456789012.dkr.ecr.us-east-1.amazonaws.com/any:1"
CONFIG = Config(registry=RegistryConfig(model_package_group="digits", require_improvement=True))


@pytest.fixture(params=["local", "aws"])
def target(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Both targets, empty."""
    if request.param == "local":
        yield LocalTarget(CONFIG, tmp_path)
        return
    for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with moto.mock_aws():
        boto3.client("s3").create_bucket(Bucket="artifacts")
        aws = CONFIG.aws.__class__(
            bucket="artifacts", role_arn=ROLE, training_image=REPOSITORY, inference_image=REPOSITORY
        )
        yield AwsTarget(Config(registry=CONFIG.registry, aws=aws))


def register(target: Target, number: int, status: str = "Approved") -> str:
    """A version whose archive holds its number."""
    uri = target.placement.uri("image-classification", "jobs", str(number), "model.tar.gz")
    target.put(uri, str(number).encode())
    sagemaker = target.client("sagemaker")
    if target.name == "aws" and number == 1:
        sagemaker.create_model_package_group(ModelPackageGroupName="digits")
    answer = sagemaker.create_model_package(
        ModelPackageGroupName="digits",
        ModelApprovalStatus=status,
        InferenceSpecification={
            "Containers": [{"Image": REPOSITORY, "ModelDataUrl": uri}],
            "SupportedContentTypes": ["image/png"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
    )
    return str(answer["ModelPackageArn"])


def objects(target: Target) -> dict[str, bytes]:
    """What lies below the prefix."""
    names = ("README.txt", "champion.json", "model.tar.gz")
    uris = {name: target.placement.uri(PREFIX, name) for name in names}
    return {name: target.read(uri) for name, uri in uris.items() if target.holds(uri)}


def test_prefix_is_never_empty_and_nothing_is_stored_twice(target):
    assert (ensure(target, CONFIG), ensure(target, CONFIG)) == (1, 0)
    assert list(objects(target)) == ["README.txt"]


def test_newest_version_that_was_approved_before_is_copied_once(target):
    register(target, 1)
    arn = register(target, 2)
    register(target, 3, "PendingManualApproval")
    assert (ensure(target, CONFIG), ensure(target, CONFIG)) == (3, 0)
    found = objects(target)
    assert found["model.tar.gz"] == b"2"
    assert json.loads(found["champion.json"])["model_package_arn"] == arn


def test_deploy_function_takes_it_for_its_own(target, monkeypatch):
    """steps/ and pipeline/ share no code: what one writes, the other must know."""
    deploy = importlib.import_module("deploy")
    monkeypatch.setattr(deploy, "client", target.client)
    for name, value in deploy_environment(CONFIG, target.placement).items():
        monkeypatch.setenv(name, value)
    settings, version = deploy.read_settings(""), deploy.ModelVersion(register(target, 1))
    deploy.protect(deploy.Plan(settings, version))
    ensure(target, CONFIG)
    before = objects(target)
    for operation in ("CopyObject", "PutObject", "DeleteObject"):
        target.client("s3").meta.events.register(f"before-call.s3.{operation}", refuse)
    deploy.keep_champion(settings, version)
    assert objects(target) == before


def refuse(**_: Any) -> None:
    raise AssertionError("there is nothing to change")


def test_registry_that_refuses_is_one_sentence(target, monkeypatch):
    register(target, 1)
    uri = target.placement.uri("image-classification", "jobs", "1", "model.tar.gz").removeprefix("s3://")
    bucket, _, key = uri.partition("/")
    target.client("s3").delete_object(Bucket=bucket, Key=key)
    with pytest.raises(ServiceError) as error:
        ensure(target, CONFIG)
    assert str(error.value).startswith(
        "Could not keep the approved version of model package group 'digits' for comparison at "
        f"{target.placement.uri(PREFIX)}: The specified key does not exist"
    )
