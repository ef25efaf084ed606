"""The report of an execution on AWS: its training's output from S3, its search's trials from SageMaker."""

import io
import json
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import training_output as made
from moto.sagemaker.models import sagemaker_backends

import run_pipeline
from pipeline.errors import ServiceError
from pipeline.service.aws_target import AwsTarget
from pipeline.service.reports import debug_report, keep_report, make_report

BUCKET = "reports-bucket"
ROLE = "arn:aws:iam::123456789012:role/pipeline"
TRAINING, SEARCH = "pipelines-abc-TrainWithDebugger-1", "pipelines-abc-TuneHyperparameters-1"
URI = f"s3://{BUCKET}/jobs/{TRAINING}/output/output.tar.gz"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/any:1"


def archive(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            packed.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def job_request(name: str) -> dict[str, Any]:
    return {
        "TrainingJobName": name,
        "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        "RoleArn": ROLE,
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/jobs/"},
        "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
    }


@pytest.fixture
def target(client, configured) -> AwsTarget:
    """An account in which a search of three trials and a training have ended."""
    aws = {"role_arn": ROLE, "training_image": IMAGE, "inference_image": IMAGE, "bucket": BUCKET}
    sagemaker = client("sagemaker")
    client("s3").create_bucket(Bucket=BUCKET)
    sagemaker.create_training_job(**job_request(TRAINING))
    sagemaker.create_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=SEARCH,
        HyperParameterTuningJobConfig={
            "Strategy": "Bayesian",
            "ResourceLimits": {"MaxParallelTrainingJobs": 1},
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "validation:loss"},
        },
    )
    job = sagemaker_backends["123456789012"]["us-east-1"].hyper_parameter_tuning_jobs
    next(iter(job.values())).best_training_job = {"TrainingJobName": f"{SEARCH}-002"}
    return AwsTarget(configured(aws=aws))


@pytest.fixture
def steps(target: AwsTarget) -> list[dict[str, Any]]:
    """The execution's steps, as ListPipelineExecutionSteps answers."""
    return [
        {
            "StepName": name,
            "StepStatus": "Succeeded",
            "Metadata": {member: {"Arn": f"arn:aws:sagemaker:us-east-1:123456789012:{kind}/{job}"}},
        }
        for name, member, kind, job in (
            ("TuneHyperparameters", "TuningJob", "hyper-parameter-tuning-job", SEARCH),
            ("TrainWithDebugger", "TrainingJob", "training-job", TRAINING),
        )
    ]


@pytest.fixture
def trials(monkeypatch) -> list[dict[str, Any]]:
    """What ListTrainingJobsForHyperParameterTuningJob answers; moto runs no search."""
    started = datetime(2026, 9, 21, 14, 0, tzinfo=UTC)
    found = [
        {
            "TrainingJobName": f"{SEARCH}-{number:03d}",
            "TrainingJobArn": f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{SEARCH}-{number:03d}",
            "CreationTime": started + timedelta(minutes=number),
            "TrainingStartTime": started + timedelta(minutes=number),
            "TrainingEndTime": started + timedelta(minutes=number, seconds=90),
            "TrainingJobStatus": "Completed",
            "TunedHyperParameters": {"lr": str(number / 100)},
            "FinalHyperParameterTuningJobObjectiveMetric": {"MetricName": "validation:loss", "Value": 0.5 / number},
        }
        for number in (2, 1)
    ]
    failed = {**found[0], "TrainingJobName": f"{SEARCH}-003", "TrainingJobStatus": "Failed"}
    failed["CreationTime"] = started + timedelta(minutes=3)
    del failed["FinalHyperParameterTuningJobObjectiveMetric"], failed["TrainingEndTime"]
    found.append(failed)
    from moto.core.responses import ActionResult
    from moto.sagemaker.responses import SageMakerResponse

    monkeypatch.setattr(
        SageMakerResponse,
        "list_training_jobs_for_hyper_parameter_tuning_job",
        lambda self: ActionResult({"TrainingJobSummaries": found}),
    )
    return found


def put_output(target: AwsTarget, files: dict[str, str]) -> None:
    target.put(URI, archive(files))


def test_the_report_is_made_of_s3_and_the_search(target, steps, trials, tmp_path: Path) -> None:
    put_output(target, made.files(**made.sick()))
    page = make_report(target, steps, tmp_path / "report")
    document = json.loads(page.with_name("debugger.json").read_text())
    assert document["headline"] == "Stopped by rule Overfit"
    assert "Stopped by rule Overfit" in page.read_text()
    search = document["search"]
    assert {name: search[name] for name in ("name", "strategy", "objective_type", "objective_metric")} == {
        "name": SEARCH,
        "strategy": "Bayesian",
        "objective_type": "Minimize",
        "objective_metric": "validation:loss",
    }
    assert [
        (found["name"][-3:], found["objective"], found["seconds"], found["winner"]) for found in search["trials"]
    ] == [
        ("001", 0.5, 90.0, False),
        ("002", 0.25, 90.0, True),
        ("003", None, None, False),
    ]


def test_the_status_names_the_output_and_its_verdicts(target, steps) -> None:
    assert debug_report(target, steps) == {"rules": {}, "place": None}
    put_output(target, made.files(status=made.status(made.overfit())))
    found = debug_report(target, steps)
    assert found["place"] == URI
    assert found["rules"]["Overfit"] == "IssuesFound"
    assert found["rules"]["AllZero"] == "NoIssuesFound"


def test_a_training_that_runs_is_not_looked_at(target, steps) -> None:
    put_output(target, made.files())
    steps[1]["StepStatus"] = "Executing"
    assert debug_report(target, steps) == {"rules": {}, "place": None}
    assert debug_report(target, steps[:1]) == {"rules": {}, "place": None}


def test_output_without_debugger_files_is_none(target, steps) -> None:
    put_output(target, {"tensors/collections.json": "{}"})
    assert debug_report(target, steps) == {"rules": {}, "place": None}


def test_a_training_job_that_is_gone_is_said(target, steps, tmp_path: Path) -> None:
    steps[1]["Metadata"]["TrainingJob"]["Arn"] += "-gone"
    assert debug_report(target, steps) == {"rules": {}, "place": None}
    with pytest.raises(ServiceError, match=rf"^Could not describe training job '{TRAINING}-gone': "):
        make_report(target, steps, tmp_path)


def test_nothing_is_kept_on_this_machine_by_itself(target, steps, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    put_output(target, made.files())
    keep_report(target, "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/xyz")
    assert list(tmp_path.iterdir()) == []


def test_the_command_works_as_on_this_machine(target, steps, trials, tmp_path: Path, monkeypatch, capsys) -> None:
    put_output(target, made.files())
    monkeypatch.chdir(tmp_path)
    Path("pipeline.yaml").write_text(
        f"aws: {{role_arn: '{ROLE}', training_image: '{IMAGE}', inference_image: '{IMAGE}', bucket: {BUCKET}}}\n"
    )
    arn = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/image-classification/execution/xyz"
    backend = sagemaker_backends["123456789012"]["us-east-1"]
    backend.steps_of_executions = {arn: steps}
    words = ["report", "xyz", "--target", "aws", "--config", "pipeline.yaml", "--home", "home", "--no-open"]
    assert run_pipeline.main(words) == 0
    assert capsys.readouterr().out == f"home/reports/{TRAINING}/debugger.html\n"
    assert "Completed" in Path(f"home/reports/{TRAINING}/debugger.html").read_text()
    steps[1]["StepStatus"] = "Executing"
    assert run_pipeline.main(words) == 1
    assert capsys.readouterr().err == (
        f"Training job {TRAINING} of execution xyz has not ended yet; its report comes then.\n"
    )
