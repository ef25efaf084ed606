"""The report of an execution on AWS: its training's output from S3, its search's trials from SageMaker."""

import io
import json
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import own_account
import pytest
import training_output as made
from moto.core.responses import ActionResult
from moto.sagemaker.responses import SageMakerResponse
from own_account import BUCKET, IMAGE, OWN, ROLE, step

from pipeline.errors import ServiceError
from pipeline.service.aws_target import AwsTarget
from pipeline.service.reports import debug_report, keep_report, make_report

TRAINING, SEARCH = "pipelines-abc-TrainWithDebugger-1", "pipelines-abc-TuneHyperparameters-1"
URI = f"s3://{BUCKET}/jobs/{TRAINING}/output/output.tar.gz"


def archive(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            packed.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.fixture
def target(client, configured) -> AwsTarget:
    """An account in which a search of three trials and a training have ended."""
    sagemaker = client("sagemaker")
    client("s3").create_bucket(Bucket=BUCKET)
    sagemaker.create_training_job(
        TrainingJobName=TRAINING,
        AlgorithmSpecification={"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        RoleArn=ROLE,
        OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/jobs/"},
        ResourceConfig={"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )
    sagemaker.create_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=SEARCH,
        HyperParameterTuningJobConfig={
            "Strategy": "Bayesian",
            "ResourceLimits": {"MaxParallelTrainingJobs": 1},
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "validation:loss"},
        },
    )
    [search] = own_account.backend().hyper_parameter_tuning_jobs.values()
    search.best_training_job = {"TrainingJobName": f"{SEARCH}-002"}
    return AwsTarget(configured(aws=OWN))


@pytest.fixture
def steps(target: AwsTarget) -> list[dict[str, Any]]:
    """The execution's steps, as ListPipelineExecutionSteps answers."""
    arn = "arn:aws:sagemaker:us-east-1:123456789012"
    return [
        step("TuneHyperparameters", "TuningJob", f"{arn}:hyper-parameter-tuning-job/{SEARCH}"),
        step("TrainWithDebugger", "TrainingJob", f"{arn}:training-job/{TRAINING}"),
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
    operation = "list_training_jobs_for_hyper_parameter_tuning_job"
    monkeypatch.setattr(SageMakerResponse, operation, lambda self: ActionResult({"TrainingJobSummaries": found}))
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
    named = [search[name] for name in ("name", "strategy", "objective_type", "objective_metric")]
    assert named == [SEARCH, "Bayesian", "Minimize", "validation:loss"]
    members = ("name", "objective", "seconds", "winner")
    assert [[found[name] for name in members] for found in search["trials"]] == [
        [f"{SEARCH}-001", 0.5, 90.0, False], [f"{SEARCH}-002", 0.25, 90.0, True], [f"{SEARCH}-003", None, None, False],
    ]  # fmt: skip


def test_the_status_names_the_output_and_its_verdicts(target, steps) -> None:
    assert debug_report(target, steps) == {"rules": {}, "place": None}
    put_output(target, made.files(status=made.status(made.overfit())))
    found = debug_report(target, steps)
    assert found["place"] == URI
    assert found["rules"]["Overfit"] == "IssuesFound"
    assert found["rules"]["AllZero"] == "NoIssuesFound"


def test_verdicts_and_report_are_objects_for_which_no_archive_is_downloaded(
    target, steps, trials, tmp_path: Path
) -> None:
    put_output(target, made.files())
    read, target.read = [], lambda uri, read_object=target.read: (read.append(uri), read_object(uri))[1]
    objects = URI.replace("output.tar.gz", "debugger")
    for name, text in made.files(**made.sick()).items():
        target.put(f"{objects}/{name}", text.encode())
    target.put(f"{objects}/../evil", b"")
    found = debug_report(target, steps)
    assert (found["place"], found["rules"]["Overfit"]) == (f"{objects}/report/debugger.html", "IssuesFound")
    assert read == [f"{objects}/rules/status.json"]
    page = make_report(target, steps, tmp_path / "report")
    assert json.loads(page.with_name("debugger.json").read_text())["search"]["name"] == SEARCH
    assert URI not in read


def test_a_training_that_runs_and_output_without_debugger_files_are_not_looked_at(target, steps) -> None:
    put_output(target, {"tensors/collections.json": "{}"})
    assert debug_report(target, steps) == {"rules": {}, "place": None}
    put_output(target, made.files())
    steps[1]["StepStatus"] = "Executing"
    assert debug_report(target, steps) == debug_report(target, steps[:1]) == {"rules": {}, "place": None}


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


def test_the_command_works_as_on_this_machine(target, steps, trials, cli) -> None:
    put_output(target, made.files())
    Path("pipeline.yaml").write_text(own_account.CONFIG)
    arn = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/image-classification/execution/xyz"
    own_account.backend().steps_of_executions = {arn: steps}
    said = cli("report", "xyz", "--no-open")
    assert (said.status, said.out) == (0, f"home/reports/{TRAINING}/debugger.html\n")
    assert "Completed" in Path(f"home/reports/{TRAINING}/debugger.html").read_text()
    steps[1]["StepStatus"] = "Executing"
    said = cli("report", "xyz", "--no-open")
    assert said.status == 1
    assert said.error == f"Training job {TRAINING} of execution xyz has not ended yet; its report comes then.\n"
