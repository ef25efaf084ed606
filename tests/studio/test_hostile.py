"""What jobs, definitions and clients may have written anywhere, and requests that mean harm: pages stand."""

import json
import re
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from starlette.routing import Route

from pipeline.local import session
from pipeline.studio.server import PAGES
from tests.local.samples import command_line, definition, python_step
from tests.studio.conftest import Studio
from tests.studio.test_runs import ended, make, page_of, record, started, words

ROUTES: list[Route] = [route for name in PAGES for route in import_module(f"pipeline.studio.pages.{name}").ROUTES]
KEPT = ("s3", "jobs", "definitions", "executions", "endpoints", "functions", "packages")  # of the home
ODD = "\ud800\x00\u202e<script>alert(1)</script>'\"" + "x" * 5000
DEEP = "[" * 400 + "]" * 400
CARDS: list[Any] = [
    ODD,
    {"a": ODD},
    [{"value": 1}, "x"],
    [{"value": None}, {"name": 1}],
    {"a": [{"value": {}}]},
    "DEEP",
]
EVALUATIONS: list[Any] = [
    [], 1, {"multiclass_classification_metrics": []}, {"multiclass_classification_metrics": {"per_class": {ODD: 1}}},
    {"multiclass_classification_metrics": {"per_class": [], "accuracy": {"value": ODD}}},
    {"multiclass_classification_metrics": {"per_class": {"a": {"recall": ODD}}, "accuracy": 1}},
]  # fmt: skip
PREDICTIONS = ["", "name,label", "name,label,predicted,score\na,b,c,much", "name,label,predicted,score\na\n,,,,,", "\0"]


def paths(methods: str, **names: str) -> list[str]:
    """The addresses of all routes that take a method, of things that there are, or are not."""
    found = [route.path for route in ROUTES if methods in (route.methods or ())]
    return [re.sub(r"{(\w+)(:path)?}", lambda each: names.get(each[1], "%00<x>"), path) for path in found]


def test_every_form_of_every_page_is_refused_to_other_sites(studio: Studio) -> None:
    assert len(paths("POST")) > 8
    for path in paths("POST"):
        for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.example"}):
            assert studio.post(path, headers=headers).status_code == 403, path
        assert studio.post(path, cookies={next(iter(studio.browser.cookies.keys())): "x"}).status_code == 403, path


def test_no_get_changes_anything(studio: Studio) -> None:
    page = page_of(record(studio, "kept", 1, Definition=definition(python_step("A", "pass"))))
    _, _, pipeline, execution = page.split("/")

    def kept() -> dict[str, object]:
        files = {str(file): file.stat().st_size for kind in KEPT for file in (studio.home / kind).rglob("*")}
        rows = {table: studio.state().rows(f"SELECT * FROM {table}") for table in ("resources", "executions", "steps")}
        return {"files": files, "rows": rows}

    before = kept()
    for names in ({}, {"pipeline": pipeline, "execution": execution, "name": "kept", "path": "kept"}):
        for path in paths("GET", **names):
            for query in ("", f"?execution=kept/{execution}&pipeline=kept&from={execution}&page={'9' * 5000}&run=%00"):
                assert studio.get(path + query).status_code < 500, path + query[:90]
                assert studio.browser.head(studio.url + path + query, timeout=30).status_code < 500, path
    assert kept() == before


def test_whatever_text_a_definition_and_a_run_hold_is_shown(studio: Studio) -> None:
    steps = [python_step("A", "pass", DisplayName=ODD, Description=ODD), python_step("B", "pass", DisplayName=None)]
    arn = record(studio, "odd", 1, Definition=definition(*steps), PipelineExecutionStatus="Failed", FailureReason=ODD)
    step = {"StepName": "A", "StepStatus": "Failed", "StartTime": 1e9, "EndTime": 1e9, "FailureReason": ODD}
    studio.state().put_step(arn, {**step, "Metadata": {}})
    for path in (page_of(arn), f"{page_of(arn)}?step=A", f"{page_of(arn)}/live?step=A", "/executions?pipeline=odd"):
        found = studio.get(path)
        assert (found.status_code, "<script>alert" in found.text) == (200, False), path


@pytest.mark.parametrize("number", range(6))
def test_whatever_a_job_has_left_about_a_version_its_page_is_shown(studio: Studio, number: int) -> None:
    here = session(studio.home)
    client, s3, place = here.client("sagemaker"), here.client("s3"), f"odd/{number}"
    text = PREDICTIONS[number % len(PREDICTIONS)]
    s3.put_object(Bucket="b", Key=f"{place}/predictions.csv", Body=text.encode())
    s3.put_object(Bucket="b", Key=f"{place}/evaluation.json", Body=json.dumps(EVALUATIONS[number]).encode())
    statistics = {"ContentType": "application/json", "S3Uri": f"s3://b/{place}/evaluation.json"}
    card = json.dumps(CARDS[number]).replace('"DEEP"', DEEP)
    for _ in range(2):
        client.create_model_package(
            ModelPackageGroupName=f"odd{number}", CustomerMetadataProperties={"accuracy": "much", "classes": "<b>"},
            ModelMetrics={"ModelQuality": {"Statistics": statistics}},
            ModelCard={"ModelCardStatus": "Draft", "ModelCardContent": card},
        )  # fmt: skip
    for path in ("/models", f"/models/odd{number}/1", f"/models/odd{number}/2?with=1"):
        found = studio.get(path)
        assert (found.status_code, "<script>alert" in found.text) == (200, False), path
    refused = studio.post(f"/models/odd{number}/1", {"comment": "neither"})
    assert refused.status_code == 400
    status = client.describe_model_package(ModelPackageName=f"odd{number}/1")["ModelApprovalStatus"]
    assert status == "PendingManualApproval"


def test_a_job_does_not_see_the_token_nor_reach_the_server_without_a_network(studio: Studio) -> None:
    record, port = str(studio.home / "studio.json"), studio.url.rpartition(":")[2]
    code = f"import socket; print('seen:', repr(open({record!r}).read()))\n"
    code += f"try: print('reached', socket.create_connection(('127.0.0.1', {port}), 5))\n"
    code += "except OSError as problem: print('not reached:', type(problem).__name__)"
    alone = {"NetworkConfig": {"EnableNetworkIsolation": True}}
    step = python_step("Spy", code)
    make(studio, "spy", {**step, "Arguments": {**step["Arguments"], **alone}})
    page = words(ended(studio, started(studio, "spy"), "?step=Spy"))
    assert "seen: ''" in page and "not reached: " in page and studio.token not in page, page


@pytest.mark.skipif(subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0, reason="needs a tmpfs")
def test_a_full_disk_is_said_in_a_sentence_and_pages_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_a_small_disk(*words: object) -> list[str]:
        mount = f'mkdir -p {tmp_path}/disk; mount -t tmpfs -o size=8m none {tmp_path}/disk; exec "$@"'
        return ["unshare", "-rm", "bash", "-c", mount, "bash", *command_line(*words)]

    monkeypatch.setattr("tests.studio.conftest.command_line", on_a_small_disk)
    server = Studio(tmp_path / "disk/home", tmp_path / "log")
    with pytest.raises(ClientError, match=r"is full|No space left"):
        for number in range(9):
            server.client("s3").put_object(Bucket="b", Key=str(number), Body=b"x" * 2_000_000)
    for path in paths("GET", pipeline="none"):
        assert server.get(path).status_code < 500, path
    server.end()
