"""`list` and `explain-cache` on AWS: executions are listed, jobs described, files compared by what S3 lists."""

import datetime
import json
from typing import Any

import moto_bridge
import pytest

import run_pipeline

NAME, ROLE, BUCKET = "image-classification", "arn:aws:iam::123456789012:role/pipeline", "a-bucket-of-ours"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/any:1"
CONFIG = f"aws: {{role_arn: '{ROLE}', bucket: {BUCKET}, training_image: '{IMAGE}', inference_image: '{IMAGE}'}}\n"
STEP = {"Name": "PrepareData", "Type": "Processing", "Arguments": {}, "CacheConfig": {"Enabled": True}}
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def prepared(client: Any, data: str, option: str) -> str:
    """An execution whose job read those data; its ARN."""
    sagemaker = client("sagemaker")
    arn: str = sagemaker.start_pipeline_execution(PipelineName=NAME)["PipelineExecutionArn"]
    source = {"S3Uri": f"s3://{BUCKET}/{data}", "LocalPath": "/data", "S3DataType": "S3Prefix", "S3InputMode": "File"}
    cluster = {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
    job = sagemaker.create_processing_job(
        ProcessingJobName=f"job-{data}", RoleArn=ROLE, ProcessingResources={"ClusterConfig": cluster},
        AppSpecification={"ImageUri": IMAGE, "ContainerArguments": ["--views", option]},
        ProcessingInputs=[{"InputName": "data", "S3Input": source}],
    )["ProcessingJobArn"]  # fmt: skip
    backend = moto_bridge.backends()["123456789012"]["us-east-1"]
    step = {"StepName": "PrepareData", "StepStatus": "Succeeded", "StartTime": START}
    step |= {"EndTime": START + datetime.timedelta(seconds=90), "Metadata": {"ProcessingJob": {"Arn": job}}}
    backend.steps_of_executions = {**getattr(backend, "steps_of_executions", {}), arn: [step]}
    return arn.rpartition("/")[2]


def test_a_step_that_ran_again_is_explained(
    client: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipeline.yaml").write_text(CONFIG)
    content = json.dumps({"Version": "2020-12-01", "Parameters": [], "Steps": [STEP]})
    client("s3").create_bucket(Bucket=BUCKET)
    for key, body in {
        "old/a": b"1",
        "old/b": b"2",
        "new/a": b"1",
        "new/b": b"3",
        "same/a": b"1",
        "same/b": b"3",
    }.items():
        client("s3").put_object(Bucket=BUCKET, Key=key, Body=body)
    client("sagemaker").create_pipeline(
        PipelineName=NAME, PipelineDefinition=content, RoleArn=ROLE, ClientRequestToken="x" * 32
    )
    executions = [prepared(client, data, option) for data, option in (("old", "1"), ("new", "2"), ("same", "2"))]

    def lines(*words: str) -> list[str]:
        capsys.readouterr()
        assert run_pipeline.main([*words, "--target", "aws", "--config", "pipeline.yaml", "--home", "home"]) == 0
        return capsys.readouterr().out.splitlines()

    assert sorted(line.split()[0] for line in lines("list")[1:]) == sorted(executions)
    assert lines("explain-cache", executions[1])[1:] == [
        f"PrepareData: ran against execution {executions[0]}",
        "  AppSpecification.ContainerArguments.--views: 1 -> 2",
        "  ProcessingInputs.data.S3Input.S3Uri: 1 file changed: b",
    ]
    assert lines("explain-cache", executions[2])[2].startswith(
        "  ProcessingInputs.data.S3Input.S3Uri: the same files at another place,"
    )
