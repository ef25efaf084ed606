"""Expressions: the cases of cases/expressions.json, and what `references` finds."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.definition.expressions import ExpressionError, Reference, Scope, describe, references, resolve, text_of
from pipeline.errors import PipelineError

FILE = json.loads((Path(__file__).parent / "cases" / "expressions.json").read_text())


def scope_of(given: dict[str, Any]) -> Scope:
    """A scope whose files are members of the case file."""
    return Scope(
        parameters=given["parameters"],
        steps=given["steps"],
        execution=given["execution"],
        experiment=given["experiment"],
        read_property_file=lambda step, name: given["property_files"][f"{step}/{name}"],
        read_json=lambda uri: given["json"][uri],
    )


@pytest.mark.parametrize("case", FILE["cases"], ids=[json.dumps(case["expression"]) for case in FILE["cases"]])
def test_expression(case: dict[str, Any]) -> None:
    scope = scope_of(FILE["scope"])
    if "error" in case:
        with pytest.raises(PipelineError) as caught:
            resolve(case["expression"], scope)
        assert str(caught.value) == case["error"]
    else:
        result = resolve(case["expression"], scope)
        assert (result, type(result)) == (case["result"], type(case["result"]))


def test_resolving_leaves_the_definition_as_it_is() -> None:
    value = {"a": [{"Get": "Parameters.Epochs"}]}
    resolve(value, scope_of(FILE["scope"]))
    assert value == {"a": [{"Get": "Parameters.Epochs"}]}


def test_references_are_found_at_any_depth_in_order() -> None:
    value = {
        "Environment": {"A": {"Get": "Parameters.Epochs"}},
        "Inputs": [
            {"Std:Join": {"On": "/", "Values": ["s3:/", {"Get": "Execution.PipelineName"}, {"Get": "Steps.Prep.Arn"}]}},
            {"Std:JsonGet": {"PropertyFile": {"Get": "Steps.Eval.PropertyFiles.Report"}, "Path": "a"}},
            {
                "Std:JsonGet": {
                    "S3Uri": {"Std:Join": {"On": "", "Values": [{"Get": "Steps.Train.Uri['x y'][0]"}]}},
                    "Path": "a",
                }
            },
            {"Get": 1},
        ],
    }
    assert references(value) == [
        Reference("Parameters", "Epochs"),
        Reference("Execution", "PipelineName"),
        Reference("Steps", "Prep", path=("Arn",)),
        Reference("Steps", "Eval", property_file="Report"),
        Reference("Steps", "Train", path=("Uri", "x y", 0)),
    ]


def test_a_reference_keeps_the_text_it_was_written_as() -> None:
    assert [reference.text for reference in references({"Get": "Steps.Train.A['b'].C"})] == ["Steps.Train.A['b'].C"]


def test_expressions_are_described_by_what_they_read() -> None:
    file = {"Get": "Steps.Eval.PropertyFiles.Report"}
    assert describe({"Get": "Parameters.Epochs"}) == "Parameters.Epochs"
    assert (
        describe({"Std:JsonGet": {"PropertyFile": file, "Path": "a.b"}}) == "'a.b' of Steps.Eval.PropertyFiles.Report"
    )
    assert describe({"Std:Join": {"On": "", "Values": []}}) == "Std:Join"
    assert describe("x") == '"x"'


def test_an_object_has_no_text_form() -> None:
    with pytest.raises(
        ExpressionError, match=r"^Only text, numbers and booleans have a text form, but got an object\.$"
    ):
        text_of({})
