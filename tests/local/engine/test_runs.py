"""Definitions and what comes of them: values that steps read, conditions, and failures that are tried again."""

import json
import re
import time
from typing import Any

import pytest

from pipeline.local.engine.execution import retry_wait
from tests.local.engine.conftest import CASES
from tests.local.lab import Json, Lab
from tests.local.samples import run_cli


def built(lab: Lab, value: Any) -> Any:
    """JSON in which each object that has `code` is that Processing step, with null for some members of its request."""
    if isinstance(value, list):
        return [built(lab, item) for item in value]
    if not isinstance(value, dict):
        return value
    if "code" not in value:
        return {name: built(lab, member) for name, member in value.items()}
    given = {name: member for name, member in value.items() if name != "null"}
    step = lab.processing(**given | {"code": "\n".join(value["code"])})
    step["Arguments"] |= dict.fromkeys(value.get("null", []))
    return step


@pytest.mark.parametrize("case", json.loads((CASES / "runs.json").read_text()), ids=lambda case: case["does"])
def test_a_definition(lab: Lab, case: Json) -> None:
    for uri, text in case.get("objects", {}).items():
        lab.put(uri, text)
    report = lab.run_definition(built(lab, case["definition"]), options=case.get("options", []))
    pipeline, _, execution = report.document["execution_arn"].partition("/execution/")
    assert report.document["status"] == case["status"]
    expected = {name: said.replace("<id>", execution) for name, said in case["steps"].items()}
    found = report.statuses
    assert {name: expected.get(name) for name, said in found.items() if expected.get(name, "?") in said} == expected
    assert found.keys() == expected.keys()
    assert case.get("parameters", {}).items() <= report.document["parameters"].items()
    for name, count in case.get("attempts", {}).items():
        assert report.record(name)["AttemptCount"] == count
    for name, outcome in case.get("outcomes", {}).items():
        assert report.step(name)["outcome"] == outcome
    if "log" in case:
        log = report.log("Print").replace(execution, "<id>").replace(pipeline, "<pipeline>")
        for name in expected:
            log = log.replace(report.record(name)["Job"].replace(execution, "<id>"), f"<job of {name}>")
        assert re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "<start>", log) == case["log"]
    if "retry" in case:
        summary = run_cli("status", "--home", lab.home, "--pipeline", "lab").stdout
        assert ("retry" in summary, case.get("shown", "") in summary) == (False, True)
        done = run_cli("retry", "--home", lab.home, "--pipeline", "lab")
        assert (done.returncode, case["retry"] in done.stderr) == (1, True)


@pytest.mark.parametrize("case", json.loads((CASES / "retries.json").read_text()), ids=lambda case: case["name"])
def test_the_first_policy_that_names_a_failure_says_how_often_and_when(case: Json) -> None:
    waits = [retry_wait(case["policies"], "Lost", used, time.monotonic()) for used in range(len(case["waits"]))]
    assert waits == case["waits"]
    assert retry_wait(case["policies"], None, 0, time.monotonic()) is None
