"""The debugger's files as objects beside output.tar.gz."""

from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from classifier.training.debug_objects import uploaded

FILES = "history.json", "profile/torch/trace.json.gz", "report/debugger.html", "rules/status.json"


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a job's debugger leaves, tensors among it."""
    for name in (*FILES, "tensors/index/0.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TRAINING_JOB_NAME", "job-1")
    return tmp_path


def test_all_but_tensors_are_objects_also_of_a_training_that_failed(output: Path) -> None:
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        with pytest.raises(ValueError, match="diverged"), uploaded(output, "s3://bucket/jobs/Train/"):
            raise ValueError("diverged")
        keys = [found["Key"] for found in client.list_objects_v2(Bucket="bucket")["Contents"]]
        assert keys == [f"jobs/Train/job-1/output/debugger/{name}" for name in FILES]


def test_what_cannot_be_uploaded_is_said_in_a_line(
    output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with uploaded(output, ""):
        pass
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with uploaded(output, "s3://bucket/jobs/Train"):
        pass
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("The debugger's files are in output.tar.gz only, since they could not be uploaded: ")
