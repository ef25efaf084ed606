"""`debug` on AWS: only what is needed is downloaded, from wherever a training job has left it."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from own_account import BUCKET, IMAGE, ROLE
from small_training import trained

from pipeline.service import debug

JOB = "foreign-training-1"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # smdebug's protobuf code is of 2020


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tensors of a training that diverged."""
    return trained(tmp_path_factory.mktemp("run") / "tensors", epochs=2)


@pytest.fixture
def job(client: Any) -> Any:
    """A function that makes the training job."""
    client("s3").create_bucket(Bucket=BUCKET)
    return lambda **members: client("sagemaker").create_training_job(
        TrainingJobName=JOB,
        AlgorithmSpecification={"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        RoleArn=ROLE,
        OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/jobs/"},
        ResourceConfig={"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
        **members,
    )


def upload(client: Any, folder: Path, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            client("s3").upload_file(str(path), BUCKET, f"{prefix}/{path.relative_to(folder)}")


def test_a_job_s_tensors_are_where_its_hook_was_told_to_write(client: Any, cli: Any, job: Any, saved: Path) -> None:
    job(DebugHookConfig={"S3OutputPath": f"s3://{BUCKET}/elsewhere"})
    upload(client, saved, f"elsewhere/{JOB}/debug-output")
    said = cli("debug", JOB, "--fail-on", "LossNotFinite")
    assert (said.status, "LossNotFinite" in said.out, said.error) == (1, True, "")


def test_without_a_hook_the_archive_is_unpacked(client: Any, cli: Any, job: Any, saved: Path) -> None:
    job()
    assert "has saved neither tensors nor an output.tar.gz" in cli("debug", JOB).error
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(saved, "tensors")
    client("s3").put_object(Bucket=BUCKET, Key=f"jobs/{JOB}/output/output.tar.gz", Body=buffer.getvalue())
    assert "LossNotFinite" in cli("debug", JOB).out


def test_of_a_large_prefix_every_second_step_is_downloaded(
    client: Any, cli: Any, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client("s3").create_bucket(Bucket=BUCKET)
    upload(client, saved, "run")
    client("s3").put_object(Bucket=BUCKET, Key="run/model/weights.bin", Body=b"0" * 2_000_000)  # nothing of a run's
    total = sum(path.stat().st_size for path in saved.rglob("*") if path.is_file())
    monkeypatch.setattr(debug, "LARGEST_BYTES", total - 1)
    said = cli("debug", f"s3://{BUCKET}/run")
    assert "1 of 2 was downloaded" in said.out
    assert "LossNotFinite" in said.out
