"""`drift`: captured requests of the local S3 and of folders against a version's baseline, and the metric on AWS."""

import base64
import datetime
import io
import json
import sys
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest
from PIL import Image
from said import Cli, Said

import run_pipeline
from pipeline import drift_command
from pipeline.config import load
from pipeline.local.direct import DirectClient
from pipeline.local.state import State
from pipeline.local.storage import Storage
from tests.local.samples import ROOT
from tests.pipeline.labelling import ENDPOINT, GROUP, container

HOME = Path("home")
EVALUATION = "s3://local/image-classification/evaluations/e/evaluation.json"
CAPTURE = f"s3://local/image-classification/capture/{ENDPOINT}/AllTraffic"
TENTHS = [100 + shade for shade in range(0, 90, 10)]
PREPROCESS = {
    "image_size": 8, "resize_to": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic",
}  # fmt: skip
BASELINE = {  # of 200 evenly shaded grey images, all of them sure
    "images": 200,
    "classes": ["cat", "dog"],
    "preprocess": PREPROCESS,
    "predicted_counts": [100, 100],
    "figures": {
        "confidence": {"bounds": [0.75], "counts": [200, 0]},
        "brightness": {"bounds": TENTHS, "counts": [20] * 10},
        "contrast": {"bounds": [0.0], "counts": [200, 0]},
        "saturation": {"bounds": [0.0], "counts": [200, 0]},
    },
}


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys) -> Cli:
    """A function that runs `drift` in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "run_pipeline.py")])
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    def run(*words: str) -> Said:
        capsys.readouterr()
        return Said(run_pipeline.main(["drift", *words, "--home", str(HOME)]), *capsys.readouterr())

    return run


def registered(*, with_baseline: bool = True) -> None:
    """An approved version, with or without a baseline."""
    storage = Storage(State(HOME))
    if with_baseline:
        storage.write(EVALUATION.replace("evaluation.json", "baseline.json"), json.dumps(BASELINE).encode())
    statistics = {"ContentType": "application/json", "S3Uri": EVALUATION}
    DirectClient(State(HOME), "sagemaker").create_model_package(
        ModelPackageGroupName=GROUP,
        InferenceSpecification={"Containers": [container("s3://b/m")], "SupportedContentTypes": ["image/png"]},
        ModelApprovalStatus="Approved",
        ModelMetrics={"ModelQuality": {"Statistics": statistics}},
    )


def event(number: int, shade: int) -> str:
    """A captured request of a grey image."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8), shade).save(buffer, "PNG")
    sent = {"data": base64.b64encode(buffer.getvalue()).decode(), "encoding": "BASE64"}
    said = {"data": json.dumps({"label": ["cat", "dog"][number % 2], "score": 0.75}), "encoding": "JSON"}
    return json.dumps({"captureData": {"endpointInput": sent, "endpointOutput": said}}) + "\n"


def captured(hour: int, shades: list[int], top: str = CAPTURE) -> None:
    """One file of an hour."""
    text = "".join(event(number, shade) for number, shade in enumerate(shades))
    Storage(State(HOME)).write(f"{top}/2025/01/31/{hour:02}/00-00-000-id.jsonl", text.encode())


def test_the_usual_requests_are_no_drift(cli):
    registered()
    captured(1, [96 + number % 100 for number in range(200)])
    said = cli()
    assert (said.status, said.error) == (0, "")
    first, *statistics, verdict, report = said.out.splitlines()
    assert first == "200 captured images against 200 of the test split"
    assert [line.split("  ")[1] for line in statistics] == [
        "confidence", "brightness", "contrast", "saturation", "predicted class",
    ]  # fmt: skip
    assert (verdict, report) == ("Drift: none", "home/reports/drift/drift.html")
    assert Path(report).read_text().startswith("<!doctype html>")


def test_darker_requests_are_major_drift_and_end_with_1(cli):
    registered()
    captured(1, [96 + number % 100 for number in range(200)])
    captured(2, [40] * 50)
    said = cli("--json", "--last", "50", "--out", "report")  # the newest 50, which are those of the second hour
    document = json.loads(said.out)
    assert (said.status, said.error) == (1, "")
    assert (document["drift"], document["images"]) == ("major", 50)
    assert document["statistics"]["brightness"]["drift"] == "major"
    assert document["statistics"]["predicted class"]["drift"] == "none"
    assert document["model_package_arn"].endswith(f"{GROUP}/1")
    assert document["report"] == str(Path("report/drift.html").resolve())
    assert json.loads(Path("report/drift.json").read_text())["drift"] == "major"


@pytest.mark.parametrize("source", ["folder", "s3://elsewhere/events"])
def test_captured_files_of_another_place_are_compared(cli, source):
    registered()
    captured(3, [40] * 60, "s3://elsewhere/events")
    Path("folder").symlink_to(Storage(State(HOME)).path("s3://elsewhere/events").resolve())
    assert cli("--captured", source).out.startswith("60 captured images against 200 of the test split\n")


def test_a_mistake_is_a_sentence(cli):
    assert cli("--metric") == (2, "", "drift --metric is for CloudWatch: --target aws.\n")
    assert cli("--captured", "none") == (2, "", "--captured none: there is no such folder.\n")
    assert cli() == (
        2,
        "",
        f"s3://local/image-classification/capture/{ENDPOINT} holds no captured request; set "
        "deploy.data_capture_percent and deploy, or name captured files by --captured.\n",
    )
    assert not HOME.exists()
    captured(1, [100])
    assert cli() == (
        2,
        "",
        f"Model package group '{GROUP}' has no approved version; see: run_pipeline.py models\n",
    )
    registered(with_baseline=False)
    assert cli() == (
        1,
        "",
        f"Model version 1 has no baseline.json beside {EVALUATION}; train it anew with: run_pipeline.py run "
        "--no-cache\n",
    )


def test_what_cannot_be_judged_is_a_sentence(cli):
    registered()
    Storage(State(HOME)).write(f"{CAPTURE}/2025/01/31/01/x.jsonl", b"{}\n")
    assert cli() == (
        1,
        "",
        "The drift report could not be written: No event of the 1 captured is of one image and its answer.\n",
    )


class Account:
    """A target of which the metric needs the clients only."""

    def client(self, service: str) -> Any:
        return boto3.Session("key", "secret", region_name="us-east-1").client(service)


def test_the_metric_is_the_largest_distance_beyond_chance():
    statistics = {
        "confidence": {"distance": 0.9, "drift": "none"},
        "brightness": {"distance": 0.5, "drift": "major"},
        "contrast": {"distance": 0.125, "drift": "moderate"},
    }
    config = load(ROOT / "pipeline.yaml")
    with moto.mock_aws():
        drift_command.put_metric(Account(), config, "e", {"statistics": statistics})  # type: ignore[arg-type]
        drift_command.put_metric(Account(), config, "calm", {"statistics": {}})  # type: ignore[arg-type]
        metrics = Account().client("cloudwatch").list_metrics(Namespace="image-classification/drift")["Metrics"]
        assert {(metric["MetricName"], metric["Dimensions"][0]["Value"]) for metric in metrics} == {
            ("LargestDistance", "e"), ("LargestDistance", "calm"),
        }  # fmt: skip
        assert largest("e") == 0.5
        assert largest("calm") == 0.0


def largest(endpoint: str) -> float:
    """What an alarm would read."""
    now = datetime.datetime.now(datetime.UTC)
    found = Account().client("cloudwatch").get_metric_statistics(
        Namespace="image-classification/drift", MetricName="LargestDistance",
        Dimensions=[{"Name": "EndpointName", "Value": endpoint}], StartTime=now - datetime.timedelta(minutes=5),
        EndTime=now + datetime.timedelta(minutes=5), Period=60, Statistics=["Maximum"],
    )  # fmt: skip
    return float(found["Datapoints"][0]["Maximum"])
