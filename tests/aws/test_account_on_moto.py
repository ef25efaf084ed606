"""From an empty account and back, as a user would: the command line and nothing but environment variables.

What AWS itself does and moto does not (run the steps, deliver an approval's event) is done here by hand.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from account_server import Account, served_account, small_photos

ROOT = Path(__file__).parents[2]
NAME = "image-classification"
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with served_account() as account:
        yield account


@pytest.fixture
def cli(account: Account, tmp_path: Path) -> Cli:
    """A function that runs a command with `--target aws` on a small folder of images."""
    small_photos(tmp_path / "photos")
    (tmp_path / "pipeline.yaml").write_text("data: {source: photos}\n")

    def run(*words: str, answer: str = "") -> "subprocess.CompletedProcess[str]":
        options = ["--target", "aws", "--config", "pipeline.yaml", "--home", "home"]
        return subprocess.run(
            [sys.executable, str(ROOT / "run_pipeline.py"), *words, *options],
            capture_output=True, text=True, input=answer, cwd=tmp_path, env=account.environment, timeout=120,
        )  # fmt: skip

    return run


def document(done: "subprocess.CompletedProcess[str]") -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def register(account: Account) -> str:
    """What the steps up to RegisterModel would do: an archive in the stack's bucket, and a version that names it."""
    s3 = account.client("s3")
    [bucket] = [found["Name"] for found in s3.list_buckets()["Buckets"]]
    s3.put_object(Bucket=bucket, Key=f"{NAME}/jobs/TrainWithDebugger/1/output/model.tar.gz", Body=b"a model")
    archive = f"s3://{bucket}/{NAME}/jobs/TrainWithDebugger/1/output/model.tar.gz"
    container = {"Image": "image", "ModelDataUrl": archive}
    answer = account.client("sagemaker").create_model_package(
        ModelPackageGroupName=NAME,
        ModelApprovalStatus="PendingManualApproval",
        InferenceSpecification={
            "Containers": [container], "SupportedContentTypes": ["x/y"], "SupportedResponseMIMETypes": ["x/y"],
        },
    )  # fmt: skip
    return str(answer["ModelPackageArn"])


def deliver(account: Account, version: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What EventBridge and Lambda would do after an approval: call the handler in the function's environment."""
    function = account.client("lambda").get_function(FunctionName=f"{NAME}-deploy")["Configuration"]
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    own = {**account.environment, **function["Environment"]["Variables"], "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in own.items():
        monkeypatch.setenv(name, str(value))
    services = importlib.import_module("classifier.deployment.services")
    services.client.cache_clear()
    event = {"detail-type": "SageMaker Model Package State Change", "detail": {"ModelPackageArn": version}}
    answer: dict[str, Any] = importlib.import_module("deploy").handler(event, None)
    services.client.cache_clear()
    return answer


def test_from_an_empty_account_to_an_endpoint_and_back(account, cli, tmp_path, monkeypatch):
    early = cli("upsert")
    assert (early.returncode, early.stdout) == (2, ""), early.stderr
    assert early.stderr == (
        "pipeline.yaml: aws.role_arn, aws.training_image, aws.inference_image are null and stack "
        "'image-classification' has not been made in us-east-1; make it with: run_pipeline.py infra --target aws\n"
    )

    refused = cli("infra", answer="no\n")
    assert refused.stdout.endswith(
        "Change stack image-classification in us-east-1? Type yes to go on: Nothing was changed.\n"
    )
    made = cli("infra", answer="yes\n")
    assert (made.returncode, made.stderr) == (0, "")
    assert "DeployFunction made" in made.stdout
    assert cli("infra").stdout == "Stack image-classification: nothing to change.\n"

    assert cli("validate").stdout == "pipeline.yaml: no problem found.\n"
    first = cli("upsert")
    assert (first.returncode, first.stdout) == (0, "")
    assert "Pipeline image-classification created; " in first.stderr
    stored = objects(account)
    sagemaker = account.client("sagemaker")
    deployed = sagemaker.describe_pipeline(PipelineName=NAME)
    second = cli("upsert", "--json")
    assert second.stderr.endswith("Pipeline image-classification unchanged; no new uploads.\n")
    assert document(second) == {"pipeline_arn": deployed["PipelineArn"]}
    assert objects(account) == stored
    assert sagemaker.describe_pipeline(PipelineName=NAME)["LastModifiedTime"] == deployed["LastModifiedTime"]

    (tmp_path / "pipeline.yaml").write_text("data: {source: photos}\nevaluation: {accuracy_threshold: 0.9}\n")
    started = cli("start", "--json", "--param", "MaxTuningJobs=2")
    assert started.stderr.endswith(
        "Changes of pipeline image-classification:\n"
        "  parameter AccuracyThreshold: DefaultValue: 0.8 -> 0.9\n"
        "Pipeline image-classification updated; no new uploads.\n"
    )
    execution = document(started)["execution_arn"]
    status = document(cli("status", "--json"))
    assert (status["execution_arn"], status["status"]) == (execution, "Succeeded")
    assert status["parameters"]["MaxTuningJobs"] == 2

    version = register(account)
    [model] = document(cli("models", "--json"))
    assert (model["version"], model["status"], model["model_package_arn"]) == (1, "PendingManualApproval", version)
    assert document(cli("approve", "--json", "--why", "good"))["model_approval_status"] == "Approved"
    described = sagemaker.describe_model_package(ModelPackageName=version)
    assert (described["ModelApprovalStatus"], described["ApprovalDescription"]) == ("Approved", "good")
    assert deliver(account, version, monkeypatch)["endpoint_name"] == NAME
    [endpoint] = document(cli("endpoints", "--json"))
    assert (endpoint["name"], endpoint["status"]) == (NAME, "InService")
    size = (tmp_path / "photos/cat/0.png").stat().st_size
    assert document(cli("invoke", "photos/cat/0.png", "--json")) == [{"image": "photos/cat/0.png", "bytes": size}]

    shown = document(cli("schedule", "show", "--json"))
    assert (shown["state"], shown["next_times"]) == ("DISABLED", [])
    assert cli("schedule", "set", "cron(0 3 * * ? 2098)").stdout == (
        "image-classification-retrain: cron(0 3 * * ? 2098) UTC, on\n"
        "  next: 2098-01-01 03:00 UTC, 2098-01-02 03:00 UTC, 2098-01-03 03:00 UTC\n"
    )
    assert document(cli("schedule", "off", "--json"))["state"] == "DISABLED"

    kept = cli("teardown", answer="yes\n")
    assert (kept.returncode, kept.stderr) == (0, "")
    assert (
        "  endpoint               image-classification  83.95 USD a month  InService, 1 x ml.m5.large\n" in kept.stdout
    )
    assert "endpoint image-classification removed\n" in kept.stdout
    assert {key for _, key, _ in objects(account) - stored} == {
        f"{NAME}/jobs/TrainWithDebugger/1/output/model.tar.gz",
        f"{NAME}/champion/model.tar.gz",
        f"{NAME}/champion/champion.json",
    }
    assert stored <= objects(account)
    gone = cli("teardown", "--yes", "--delete-data", "--json")
    assert document(gone) == {"removed": True}
    assert account.client("s3").list_buckets()["Buckets"] == []


def objects(account: Account) -> set[tuple[str, str, str]]:
    """Bucket, key and version of every object: a repeated upload would be a version more."""
    s3 = account.client("s3")
    return {
        (bucket["Name"], item["Key"], item["VersionId"])
        for bucket in s3.list_buckets()["Buckets"]
        for item in s3.list_object_versions(Bucket=bucket["Name"]).get("Versions", [])
    }
