"""The scheduled check, as its job runs it: the newest requests in S3, the score in CloudWatch, and nothing else."""

import datetime
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import botocore.client
import moto
import pytest

import drift
from classifier.job.failures import PROCESSING_MESSAGE, run
from tests.support.drift_model import Pixels, lines_of, pictures, write_model

CAPTURE = "capture/shop/AllTraffic"
Check = Callable[[], tuple[int, str, str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An account with a bucket; yields operation and Prefix or Key of each request."""
    for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    seen, send = list[tuple[str, str]](), botocore.client.BaseClient._make_api_call

    def record(client: Any, operation: str, request: dict[str, Any]) -> Any:
        seen.append((operation, request.get("Prefix") or request.get("Key", "")))
        return send(client, operation, request)

    with moto.mock_aws():
        boto3.client("s3").create_bucket(Bucket="artifacts")
        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", record)
        yield seen


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], calls: Any) -> Check:
    """A function that runs the job: exit status, standard output and error."""
    write_model(tmp_path / "model")
    shutil.make_archive(str(tmp_path / "champion" / "model"), "gztar", tmp_path / "model")
    shutil.copy(tmp_path / "model" / "baseline.json", tmp_path / "champion")
    options = {"champion-dir": tmp_path / "champion", "report-dir": tmp_path / "report", "namespace": "project/drift"}
    options |= {"capture-uri": f"s3://artifacts/{CAPTURE}", "endpoint-name": "shop"}
    monkeypatch.setattr("sys.argv", ["drift.py", *(f"--{name}={value}" for name, value in options.items())])

    def checked() -> tuple[int, str, str]:
        calls.clear()
        return run(drift.main, PROCESSING_MESSAGE), *capsys.readouterr()

    return checked


def captured(time: str, crops: Pixels) -> None:
    """One file of that hour."""
    body = "".join(f"{line}\n" for line in lines_of(crops)).encode()
    boto3.client("s3").put_object(Bucket="artifacts", Key=f"{CAPTURE}/{time}/00-00-000-id.jsonl", Body=body)


def scores() -> list[float]:
    """What an alarm would read."""
    now, minutes = datetime.datetime.now(datetime.UTC), datetime.timedelta(minutes=5)
    found = boto3.client("cloudwatch").get_metric_statistics(
        Namespace="project/drift", MetricName="DriftScore", Dimensions=[{"Name": "EndpointName", "Value": "shop"}],
        StartTime=now - minutes, EndTime=now + minutes, Period=600, Statistics=["Maximum"],
    )  # fmt: skip
    return [point["Maximum"] for point in found["Datapoints"]]


def test_the_newest_requests_are_compared_and_older_ones_are_not_even_listed(
    check: Check, calls: list[tuple[str, str]], tmp_path: Path
) -> None:
    captured("2025/01/31/23", pictures(200, 3))
    captured("2025/12/01/00", pictures(200, 4))
    captured("2026/01/02/09", pictures(40, 5, low=0, high=40))
    captured("2026/01/02/10", pictures(100, 6, low=0, high=40))  # dark ones, and as many as are compared
    status, said, _ = check()
    report = json.loads((tmp_path / "report" / "drift.json").read_text())
    assert (status, said) == (0, f"100 images: drift, score {report['drift_score']:.2f}\n")
    assert (tmp_path / "report" / "drift.html").read_text().startswith("<!doctype html>")
    places = ["", "2026/", "2026/01/", "2026/01/02/", "2026/01/02/10/"]
    assert calls == [
        *(("ListObjectsV2", f"{CAPTURE}/{place}") for place in places),
        ("GetObject", f"{CAPTURE}/2026/01/02/10/00-00-000-id.jsonl"),
        ("PutMetricData", ""),
    ]
    assert scores() == [pytest.approx(report["drift_score"])]
    assert report["drift_score"] > 1


@pytest.mark.parametrize("count", [0, 29])
def test_too_few_requests_are_said_and_are_no_failure_and_no_score(check: Check, count: int, tmp_path: Path) -> None:
    if count:
        captured("2026/01/02/10", pictures(count, 3))
    assert check() == (
        0,
        f"Drift was not judged: Of {count} captured events {count} are of one image and its answer: too few to judge, "
        "at least 30 are needed.\n",
        "",
    )
    assert not (tmp_path / "report").exists()
    assert scores() == []


def test_without_a_model_in_service_the_job_fails_with_a_sentence(check: Check, tmp_path: Path) -> None:
    (tmp_path / "champion" / "model.tar.gz").unlink()
    status, _, error = check()
    assert (status, error.count("\n")) == (1, 1)
    assert "holds no model.tar.gz" in error
