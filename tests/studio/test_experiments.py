"""The page of experiments: what the server has written to MLflow, and a store that is damaged."""

import json
import re
from collections.abc import Iterator

import pytest

from tests.local.samples import definition, run_cli
from tests.studio.conftest import Studio

TEXT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A server on a home in which two pipelines have failed at once, and one, with somebody's script, is written."""
    folder = tmp_path_factory.mktemp("experiments")
    step = {"Name": "End", "Type": "Fail", "Arguments": {"ErrorMessage": "so it is"}}
    parameters = [{"Name": "Text", "Type": "String", "DefaultValue": TEXT}]
    (folder / "p.json").write_text(json.dumps(definition(step, Parameters=parameters)))
    for name in ("p-q", "other"):
        run_cli("run", "--definition", folder / "p.json", "--name", name, "--home", folder / "home")
    assert run_cli("experiments", "--pipeline", "p-q", "--home", folder / "home").returncode == 0
    server = Studio(folder / "home", folder / "log")
    yield server
    server.end()


def test_what_is_written_is_shown_escaped_with_its_steps(page: Studio) -> None:
    text = page.get("/experiments?pipeline=p-q").text
    assert "&lt;script&gt;alert" in text and TEXT not in text
    run = re.search(r"run=(\w+)", text)
    assert run and "End" in page.get(f"/experiments?pipeline=p-q&run={run[1]}").text
    for odd in ("start=-1", "start=9999999999999999999999", "run='", "pipeline=%00", "pipeline=<b>&run=%F0%9F%98%80"):
        assert page.get(f"/experiments?{odd}").status_code == 200


def test_a_damaged_store_is_told(page: Studio) -> None:
    (page.home / "mlflow").mkdir(exist_ok=True)
    (page.home / "mlflow/mlflow.db").write_text("no database")
    answer = page.get("/experiments")
    assert answer.status_code == 400 and "mlflow.db cannot be read" in answer.text
