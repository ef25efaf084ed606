"""From an empty account and back, by commands alone: a user's journey; docs/aws.md line by line: test_stock_cli.py.

What AWS itself does and moto does not (run the steps, deliver an approval's event) is done here by hand.
"""

from pathlib import Path
from typing import Any

import pytest

NAME = "image-classification"
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc000000301010018dd8db00000"
    "000049454e44ae426082"
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of a few tiny images, which pipeline.yaml names."""
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "photos" / name / f"{number}.png").write_bytes(PIXEL + bytes([number]))
    return tmp_path / "photos"


def objects(client: Any) -> set[tuple[str, str, str]]:
    """Bucket, key and version of every object: a repeated upload would be a version more."""
    s3 = client("s3")
    return {
        (bucket["Name"], item["Key"], item["VersionId"])
        for bucket in s3.list_buckets()["Buckets"]
        for item in s3.list_object_versions(Bucket=bucket["Name"]).get("Versions", [])
    }


def test_from_an_empty_account_to_an_endpoint_and_back(client, cli, photos, register, deliver, push_images):
    Path("pipeline.yaml").write_text("data: {source: photos}\n")
    early = cli("upsert")
    assert (early.status, early.out) == (2, "")
    assert "aws.role_arn, aws.training_image, aws.inference_image are null and stack" in early.error
    assert "make it with: run_pipeline.py infra --target aws" in early.error

    assert cli("infra", answer="no\n").out.endswith("Nothing was changed.\n")
    made = cli("infra", answer="yes\n")
    assert (made.status, made.error) == (0, "")
    assert f"stack {NAME}-app made" in made.out
    assert "nothing to change" in cli("infra").out

    without = cli("upsert")
    assert (without.status, without.out) == (1, "") and without.error.count("is not in ECR: make it with") == 2
    assert not any("/code/prepare" in key for _, key, _ in objects(client))
    push_images()
    assert cli("upsert").status == 0
    stored, sagemaker = objects(client), client("sagemaker")
    deployed = sagemaker.describe_pipeline(PipelineName=NAME)
    assert cli("upsert", "--json").document == {"pipeline_arn": deployed["PipelineArn"]}
    assert objects(client) == stored
    assert sagemaker.describe_pipeline(PipelineName=NAME)["LastModifiedTime"] == deployed["LastModifiedTime"]

    Path("pipeline.yaml").write_text("data: {source: photos}\nevaluation: {accuracy_threshold: 0.9}\n")
    assert (cli("validate").status, cli("validate").error) == (0, "")
    edited = "data: {source: photos}\nevaluation: {accuracy_threshold: 0.9}\ndeploy: {instance_count: 2}\n"
    Path("pipeline.yaml").write_text(edited)
    differs = "The stacks differ: deploy.instance_count: 1 in the stack, 2 in pipeline.yaml; `"
    for words in (["validate"], ["upsert"]):
        said = cli(*words)
        assert (said.status, said.error.count(differs), said.error.count("infra --target aws")) == (0, 1, 1)
    Path("pipeline.yaml").write_text("data: {source: photos}\nevaluation: {accuracy_threshold: 0.85}\n")
    started = cli("start", "--json", "--param", "MaxTuningJobs=2")
    assert "  parameter AccuracyThreshold: DefaultValue: 0.9 -> 0.85\n" in started.error
    status = cli("status", "--json").document
    assert (status["execution_arn"], status["status"]) == (started.document["execution_arn"], "Succeeded")
    assert status["parameters"]["MaxTuningJobs"] == 2

    [bucket] = [found["Name"] for found in client("s3").list_buckets()["Buckets"]]
    version = register(bucket, "PendingManualApproval")
    [model] = cli("models", "--json").document
    assert (model["version"], model["status"], model["model_package_arn"]) == (1, "PendingManualApproval", version)
    assert cli("approve", "--json", "--why", "good").document["model_approval_status"] == "Approved"
    assert sagemaker.describe_model_package(ModelPackageName=version)["ApprovalDescription"] == "good"
    assert deliver("Model Package", {"ModelPackageArn": version})["endpoint_name"] == NAME
    [endpoint] = cli("endpoints", "--json").document
    assert (endpoint["name"], endpoint["status"]) == (NAME, "InService")
    size = (photos / "cat/0.png").stat().st_size
    assert cli("invoke", "photos/cat/0.png", "--json").document == [{"image": "photos/cat/0.png", "bytes": size}]

    shown = cli("schedule", "show", "--json").document
    assert (shown["state"], shown["next_times"]) == ("DISABLED", [])
    assert "2098-01-01 03:00 UTC, 2098-01-02 03:00 UTC" in cli("schedule", "set", "cron(0 3 * * ? 2098)").out
    assert cli("schedule", "off", "--json").document["state"] == "DISABLED"

    assert cli("teardown", answer="no\n").out.endswith("Nothing was removed.\n")
    kept = cli("teardown", answer="yes\n")
    assert (kept.status, kept.error) == (0, "")
    assert "  InService, 1 x ml.m5.large, 730 instance-hours a month\n" in kept.out
    assert "endpoint image-classification removed\n" in kept.out
    assert stored <= objects(client)
    assert cli("teardown", "--yes", "--delete-data", "--json").document == {"removed": True}
    assert client("s3").list_buckets()["Buckets"] == []
    assert cli("teardown", "--json").document == {"removed": False}
