"""What expressions and conditions are worth, and the requests of steps, by the cases of JSON files."""

import json
from pathlib import Path
from typing import Any

import pytest
from language_cases import expect

from pipeline.local.checks.requests import as_request
from pipeline.local.engine.values import Scope, holds, resolve

Json = dict[str, Any]
EXPRESSIONS, CONDITIONS, REQUESTS = (
    json.loads((Path(__file__).parent / "cases" / f"{name}.json").read_text())
    for name in ("expressions", "conditions", "requests")
)


def scope_of(given: Json) -> Scope:
    """A scope whose files are members of the case file."""
    return Scope(
        parameters=given["parameters"],
        steps=given["steps"],
        execution=given.get("execution", {}),
        experiment=given.get("experiment", {}),
        read_property_file=lambda step, name: given["property_files"][f"{step}/{name}"],
        read_json=lambda uri: given["json"][uri],
    )


@pytest.mark.parametrize("case", EXPRESSIONS["cases"], ids=lambda case: json.dumps(case["expression"])[:100])
def test_expression(case: Json) -> None:
    before = json.dumps(case)
    expect(case, lambda: resolve(case["expression"], scope_of(EXPRESSIONS["scope"])))
    assert json.dumps(case) == before


@pytest.mark.parametrize("case", CONDITIONS["cases"], ids=lambda case: json.dumps(case["condition"])[:100])
def test_condition(case: Json) -> None:
    expect(case, lambda: holds(case["condition"], scope_of(CONDITIONS["scope"])))


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case["about"])
def test_arguments_become_the_request_that_the_api_has(case: Json) -> None:
    expect(case, lambda: as_request("CreateTrainingJob", case["arguments"]))
