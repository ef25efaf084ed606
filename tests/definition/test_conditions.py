"""Conditions: the cases of cases/conditions.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.definition.conditions import holds
from pipeline.definition.expressions import Scope
from pipeline.errors import PipelineError

FILE = json.loads((Path(__file__).parent / "cases" / "conditions.json").read_text())
SCOPE = Scope(
    parameters=FILE["scope"]["parameters"],
    steps=FILE["scope"]["steps"],
    execution={},
    read_property_file=lambda step, name: {"Eval/Report": FILE["scope"]["report"]}[f"{step}/{name}"],
    read_json=lambda uri: pytest.fail(f"nothing in the cases reads {uri}"),
)


@pytest.mark.parametrize("case", FILE["cases"], ids=[json.dumps(case["condition"])[:100] for case in FILE["cases"]])
def test_condition(case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(PipelineError) as caught:
            holds(case["condition"], SCOPE)
        assert str(caught.value) == case["error"]
    else:
        assert holds(case["condition"], SCOPE) is case["result"]
