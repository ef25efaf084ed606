"""The page of experiments: what is written to MLflow, a button that writes, and a store that is damaged."""

import json
import re
from typing import Any

import pytest

from tests.local.samples import run_cli, wait_until

TEXT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def page(studio: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The page, of two pipelines that fail at once, one by a parameter that is somebody's script."""
    for name in ("p & q", "other"):
        file = tmp_path_factory.mktemp("definition") / "p.json"
        step = {"Name": "End", "Type": "Fail", "Arguments": {"ErrorMessage": "so it is"}}
        parameters = [{"Name": "Text", "Type": "String", "DefaultValue": TEXT}]
        file.write_text(json.dumps({"Version": "2020-12-01", "Parameters": parameters, "Steps": [step]}))
        run_cli("run", "--definition", file, "--name", name.replace(" & ", "-"), "--home", studio.home)
    return studio


def test_the_button_writes_what_the_page_then_shows_escaped(page: Any) -> None:
    assert "Nothing is written yet." in page.get("/experiments?pipeline=p-q").text
    assert "being written" in page.post("/experiments", {"pipeline": "p-q"}).text
    wait_until(lambda: "Nothing is written" not in page.get("/experiments?pipeline=p-q").text)
    text = page.get("/experiments?pipeline=p-q").text
    assert "&lt;script&gt;alert" in text and TEXT not in text
    run = re.search(r"run=(\w+)", text)
    assert run and "End" in page.get(f"/experiments?pipeline=p-q&run={run[1]}").text
    assert "Nothing is written yet." in page.get("/experiments?pipeline=other").text
    for odd in ("start=-1", "start=9999999999999999999999", "run='", "pipeline=%00", "pipeline=<b>&run=%F0%9F%98%80"):
        assert page.get(f"/experiments?{odd}").status_code == 200


def test_a_pipeline_that_is_none_says_why_nothing_is_written(page: Any) -> None:
    page.post("/experiments", {"pipeline": "--help"})
    wait_until(lambda: "disabled" not in page.get("/experiments?pipeline=--help").text)
    assert "disabled" not in page.get("/experiments?pipeline=--help").text


def test_a_damaged_store_is_told(page: Any) -> None:
    (page.home / "mlflow").mkdir(exist_ok=True)
    (page.home / "mlflow/mlflow.db").write_text("no database")
    answer = page.get("/experiments")
    assert answer.status_code == 400 and "mlflow.db cannot be read" in answer.text
