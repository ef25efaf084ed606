"""`drift`: captured requests of the local S3 and of folders against a version's baselines, and the metric on AWS."""

import datetime
import io
import json
import sys
from pathlib import Path
from typing import Any

import boto3
import moto
import numpy as np
import pytest
from said import Cli, Said

import run_pipeline
from pipeline.cli.reports import put_metric
from pipeline.config.config import load
from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage
from pipeline.service.drift import MODEL_FILES
from tests.local.samples import ROOT, model_archive
from tests.service.plain_versions import ENDPOINT, GROUP, container
from tests.support.drift_model import Pixels, lines_of, pictures, write_model

HOME = Path("home")
EVALUATION = "s3://local/image-classification/evaluations/e/evaluation.json"
MODEL = "s3://local/image-classification/jobs/t/model.tar.gz"
CAPTURE = f"s3://local/image-classification/capture/{ENDPOINT}/AllTraffic"
USUAL, DARK = pictures(90, 3), pictures(90, 4, low=0, high=40)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a model and its evaluation."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return folder


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


def registered(model: Path, *, with_baseline: bool = True, files: tuple[str, ...] = MODEL_FILES) -> None:
    """An approved version, with what it needs or without some of it."""
    storage = Storage(State(HOME))
    if with_baseline:
        known = (model / "baseline.json").read_bytes()
        storage.write(EVALUATION.replace("evaluation.json", "baseline.json"), known)
    storage.write(MODEL, model_archive("model", **{name: (model / name).read_bytes() for name in files}))
    statistics = {"ContentType": "application/json", "S3Uri": EVALUATION}
    local_session(State(HOME)).client("sagemaker").create_model_package(
        ModelPackageGroupName=GROUP,
        InferenceSpecification={"Containers": [container(MODEL)], "SupportedContentTypes": ["image/png"]},
        ModelApprovalStatus="Approved",
        ModelMetrics={"ModelQuality": {"Statistics": statistics}},
    )


def captured(hour: int, crops: Pixels, top: str = CAPTURE) -> None:
    """One file of an hour."""
    text = "".join(f"{line}\n" for line in lines_of(crops))
    Storage(State(HOME)).write(f"{top}/2025/01/31/{hour:02}/00-00-000-id.jsonl", text.encode())


def test_the_usual_requests_are_no_drift(cli, model):
    registered(model)
    captured(1, USUAL)
    said = cli()
    assert (said.status, said.error) == (0, "")
    first, embeddings, second, *statistics, verdict, report = said.out.splitlines()
    assert first == "90 captured images against 200 of the training's"
    assert embeddings.startswith("  embeddings        distance 0.")
    assert second == "and against 200 of the test split"
    assert [line.split("  ")[1] for line in statistics] == [
        "confidence", "brightness", "contrast", "saturation", "predicted class",
    ]  # fmt: skip
    assert verdict.startswith("Drift score 0.")
    assert verdict.endswith(": no drift")
    assert report == "home/reports/drift/drift.html"
    assert Path(report).read_text().startswith("<!doctype html>")


def test_darker_requests_are_drift_and_end_with_3(cli, model):
    registered(model)
    captured(1, USUAL)
    captured(2, DARK[:50])
    said = cli("--json", "--last", "50", "--out", "report")  # the newest 50, which are those of the second hour
    document = json.loads(said.out)
    assert (said.status, said.error) == (3, "")
    assert (document["drift"], document["images"]) == (True, 50)
    assert document["drift_score"] > 1
    assert document["statistics"]["brightness"]["drift"] == "major"
    assert document["model_package_arn"].endswith(f"{GROUP}/1")
    assert document["report"] == str(Path("report/drift.html").resolve())
    assert json.loads(Path("report/drift.json").read_text())["drift"] is True


@pytest.mark.parametrize("source", ["folder", "s3://elsewhere/events"])
def test_captured_files_of_another_place_are_compared(cli, model, source):
    registered(model)
    captured(3, DARK[:60], "s3://elsewhere/events")
    Path("folder").symlink_to(Storage(State(HOME)).path("s3://elsewhere/events").resolve())
    assert cli("--captured", source).out.startswith("60 captured images against 200 of the training's\n")


def test_a_mistake_is_a_sentence(cli, model):
    assert cli("--publish") == (2, "", "drift --publish is for CloudWatch: --target aws.\n")
    assert cli("--captured", "none") == (
        2,
        "",
        "--captured none: there is no such folder; a folder or s3://bucket/prefix with the .jsonl files of a data "
        "capture is accepted.\n",
    )
    assert cli() == (
        2,
        "",
        f"s3://local/image-classification/capture/{ENDPOINT} holds no captured request. deploy.data_capture_percent "
        "captures nothing (0) of the requests: set it and run the pipeline, or name by --captured a folder or "
        "s3://bucket/prefix with the .jsonl files of a data capture.\n",
    )
    assert not HOME.exists()
    captured(1, USUAL[:1])
    assert cli() == (
        2,
        "",
        f"Model package group '{GROUP}' has no approved version; see: run_pipeline.py models\n",
    )
    registered(model)
    assert cli() == (
        1,
        "",
        "Drift was not judged: Of 1 captured events 1 are of one image and its answer: too few to judge, at least 30 "
        "are needed.\n",
    )


def test_a_version_of_an_earlier_release_is_a_sentence(cli, model):
    captured(1, USUAL)
    remedy = "train it anew with: run_pipeline.py run --no-cache, or on AWS with a shorter pipeline.cache_expire_days\n"
    registered(model, with_baseline=False)
    place = EVALUATION.replace("evaluation.json", "baseline.json")
    assert cli() == (1, "", f"Model version 1 has no baseline.json at {place}; {remedy}")
    registered(model, files=("model.onnx",))
    assert cli() == (1, "", f"Model version 2 has no drift_baseline.npz in its model; {remedy}")
    Storage(State(HOME)).write(MODEL, b"\x1f\x8b cut off")
    assert cli().error.startswith("Model version 2 has a model.tar.gz that is damaged: ")


class Account:
    """A target of which the metric needs the clients only."""

    def client(self, service: str) -> Any:
        return boto3.Session("key", "secret", region_name="us-east-1").client(service)


def test_the_metric_is_the_score():
    config = load(ROOT / "pipeline.yaml")
    with moto.mock_aws():
        put_metric(Account(), config.aws.project, "e", 1.5)  # type: ignore[arg-type]
        put_metric(Account(), config.aws.project, "calm", 0.25)  # type: ignore[arg-type]
        assert np.isclose(largest("e"), 1.5)
        assert np.isclose(largest("calm"), 0.25)


def largest(endpoint: str) -> float:
    """What an alarm would read."""
    now = datetime.datetime.now(datetime.UTC)
    found = Account().client("cloudwatch").get_metric_statistics(
        Namespace="image-classification/drift", MetricName="DriftScore",
        Dimensions=[{"Name": "EndpointName", "Value": endpoint}], StartTime=now - datetime.timedelta(minutes=5),
        EndTime=now + datetime.timedelta(minutes=5), Period=60, Statistics=["Maximum"],
    )  # fmt: skip
    return float(found["Datapoints"][0]["Maximum"])


def test_drift_starts_the_pipeline_if_asked_and_no_drift_does_not(cli, model):
    registered(model)
    captured(1, USUAL)
    assert cli("--retrain").status == 0
    assert list_executions() == []
    captured(2, DARK)
    said = cli("--json", "--retrain", "--last", "60")
    document = json.loads(said.out)
    try:
        assert (said.status, document["drift"]) == (3, True)
        assert [found["PipelineExecutionArn"] for found in list_executions()] == [document["execution_arn"]]
    finally:
        run_pipeline.main(["stop", "--home", str(HOME)])


def list_executions() -> list[dict[str, Any]]:
    """Of the pipeline."""
    client = local_session(State(HOME)).client("sagemaker")
    if not client.list_pipelines()["PipelineSummaries"]:
        return []
    found: list[dict[str, Any]] = client.list_pipeline_executions(PipelineName=GROUP)["PipelineExecutionSummaries"]
    return found


def test_options_that_do_not_go_together_are_refused(cli):
    assert cli("--data", "photos") == (2, "", "drift --data names what to train with: it goes with --retrain.\n")
    Path("p.yaml").write_text("drift: {retrain: true}\ndeploy: {data_capture_percent: 10}\n")
    assert cli("--publish", "--retrain", "--target", "aws", "--config", "p.yaml") == (
        2,
        "",
        "With drift.retrain in pipeline.yaml, --publish starts the pipeline; leave out --retrain.\n",
    )
