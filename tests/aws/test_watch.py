"""`status --watch` on AWS: steps from ListPipelineExecutionSteps, lines from CloudWatch, the reason of a failure."""

import datetime
import json
import time
from types import SimpleNamespace
from typing import Any

import moto_bridge
import pytest
import yaml

import run_pipeline
from pipeline.service import executions
from pipeline.service.aws_target import AwsTarget

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
JOB = "pipelines-abc-TrainWithDebugger-1"
CONFIG = """
aws:
  role_arn: arn:aws:iam::123456789012:role/pipeline
  bucket: a-bucket-of-ours
  training_image: 123456789012.dkr.ecr.us-east-1.amazonaws.com/training:1
  inference_image: 123456789012.dkr.ecr.us-east-1.amazonaws.com/inference:1
"""


def step(status: str, **members: Any) -> dict[str, Any]:
    arn = f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{JOB}"
    metadata = {"TrainingJob": {"Arn": arn}}
    return {"StepName": "TrainWithDebugger", "StepStatus": status, "StartTime": START, "Metadata": metadata, **members}


@pytest.fixture
def execution(client: Any) -> Any:
    """An execution that runs, with a training job that has begun to print."""
    sagemaker, logs = client("sagemaker"), client("logs")
    steps = [{"Name": "TrainWithDebugger", "Type": "Training", "Arguments": {}}]
    content = json.dumps({"Version": "2020-12-01", "Parameters": [], "Steps": steps})
    sagemaker.create_pipeline(
        PipelineName="image-classification", PipelineDefinition=content, RoleArn="arn:aws:iam::123456789012:role/p",
        ClientRequestToken="x" * 32,
    )  # fmt: skip
    arn = sagemaker.start_pipeline_execution(PipelineName="image-classification")["PipelineExecutionArn"]
    logs.create_log_group(logGroupName="/aws/sagemaker/TrainingJobs")
    logs.create_log_stream(logGroupName="/aws/sagemaker/TrainingJobs", logStreamName=f"{JOB}/algo-1")
    logs.create_log_stream(logGroupName="/aws/sagemaker/TrainingJobs", logStreamName=f"{JOB}0/algo-1")
    backend = moto_bridge.backends()["123456789012"]["us-east-1"]
    record = backend.pipelines["image-classification"].pipeline_executions[arn]
    record.pipeline_execution_status = "Executing"
    backend.steps_of_executions = {arn: [step("Executing")]}
    tell(client, "reading images", "epoch=1 train_loss=1.0")
    return SimpleNamespace(arn=arn, record=record, steps=backend.steps_of_executions[arn])


def tell(client: Any, *lines: str, job: str = JOB) -> None:
    """What the job prints."""
    now = int(time.time() * 1000)
    events = [{"timestamp": now, "message": line} for line in lines]
    client("logs").put_log_events(
        logGroupName="/aws/sagemaker/TrainingJobs", logStreamName=f"{job}/algo-1", logEvents=events
    )


def test_it_shows_steps_lines_and_the_reason_as_they_come(client, execution, tmp_path, monkeypatch, capsys):
    (tmp_path / "pipeline.yaml").write_text(CONFIG)
    reason = "AlgorithmError: CUDA out of memory while the third epoch was being trained, exit code: 1"

    def fail(seconds: float) -> None:
        """What happens between two looks."""
        assert seconds == 5.0
        tell(client, "epoch=2 train_loss=nan", "RuntimeError: CUDA out of memory")
        execution.steps[0] = step("Failed", EndTime=START + datetime.timedelta(seconds=90), FailureReason=reason)
        execution.record.pipeline_execution_status = "Failed"

    monkeypatch.setattr(executions, "time", SimpleNamespace(sleep=fail, monotonic=time.monotonic))
    words = ["status", "--watch", "--target", "aws", "--config", str(tmp_path / "pipeline.yaml")]
    assert run_pipeline.main([*words, "--home", str(tmp_path / "home")]) == 1
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert [line[8:] for line in lines[: lines.index("")]] == [
        "TrainWithDebugger    started",
        "TrainWithDebugger    reading images",
        "TrainWithDebugger    epoch=1 train_loss=1.0",
        "TrainWithDebugger    epoch=2 train_loss=nan",
        "TrainWithDebugger    RuntimeError: CUDA out of memory",
        "TrainWithDebugger    Failed after 90.0 s",
    ]
    end = lines.index("TrainWithDebugger failed: AlgorithmError: CUDA out of memory while the third")
    assert lines[end + 1 : end + 7] == [
        "epoch was being trained, exit code: 1",
        f"The last lines of its log, /aws/sagemaker/TrainingJobs {JOB}:",
        "  reading images",
        "  epoch=1 train_loss=1.0",
        "  epoch=2 train_loss=nan",
        "  RuntimeError: CUDA out of memory",
    ]
    assert said.err == ""


def test_of_a_log_the_end_of_the_jobs_own_stream_is_read(client, execution, configured):
    tell(client, "of another job", job=f"{JOB}0")
    target = AwsTarget(configured(**yaml.safe_load(CONFIG)))
    assert target.last_lines(f"/aws/sagemaker/TrainingJobs {JOB}", 1) == ["epoch=1 train_loss=1.0"]
    assert target.last_lines("/aws/sagemaker/TrainingJobs", 1) == ["of another job"]
    assert target.last_lines("/aws/sagemaker/TrainingJobs pipelines-none", 5) == []
    assert target.last_lines("/aws/lambda/none", 5) == []
