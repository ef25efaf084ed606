"""The definition language: paths and parameters by the cases of JSON files; references."""

import json
from pathlib import Path
from typing import Any

import pytest
from language_cases import expect

from pipeline.definition.expressions import (
    ExpressionError,
    Reference,
    describe,
    format_path,
    json_tokens,
    look_up,
    references,
    text_of,
    tokenize,
)
from pipeline.definition.parameters import bind
from pipeline.errors import ParameterError

Json = dict[str, Any]
FILES = {file.stem: json.loads(file.read_text()) for file in (Path(__file__).parent / "cases").glob("*.json")}
PATHS = [{**group, **case} for group in FILES["paths"] for case in group["cases"]]
PARAMETERS = FILES["parameters"]


@pytest.mark.parametrize("case", PATHS, ids=[f"{case['reader']}:{case['path']}" for case in PATHS])
def test_path(case: Json) -> None:
    given, path = case["given"], case["path"]
    if case["reader"] == "look_up":
        expect(case, lambda: look_up(given, tokenize(path), root="Steps.S"))
    else:
        expect(case, lambda: look_up(given, json_tokens(path), root="$", by_name=False))


def test_a_path_that_was_formatted_reads_back_the_same() -> None:
    assert tokenize("a[0]['0'].b") == ("a", 0, "0", "b")
    tokens = ("Outputs", "val:acc", 3, "top 5. of all", "S3Uri", "it's")
    assert tokenize(format_path(tokens)) == tokens


def test_references_are_found_at_any_depth_in_order() -> None:
    property_file = {"Get": "Steps.Eval.PropertyFiles.Report"}
    uri = {"Std:Join": {"On": "", "Values": [{"Get": "Steps.Train.Uri['x y'][0]"}]}}
    joined = ["s3:/", {"Get": "Execution.PipelineName"}, {"Get": "Steps.Prep.Arn"}]
    inputs = [
        {"Std:Join": {"On": "/", "Values": joined}},
        {"Std:JsonGet": {"PropertyFile": property_file, "Path": "a"}},
        {"Std:JsonGet": {"S3Uri": uri, "Path": "a"}},
        {"Get": 1},
    ]
    found = references({"Environment": {"A": {"Get": "Parameters.Epochs"}}, "Inputs": inputs})
    assert found == [
        Reference("Parameters", "Epochs"),
        Reference("Execution", "PipelineName"),
        Reference("Steps", "Prep", path=("Arn",)),
        Reference("Steps", "Eval", property_file="Report"),
        Reference("Steps", "Train", path=("Uri", "x y", 0)),
    ]
    assert found[-1].text == "Steps.Train.Uri['x y'][0]"
    assert [describe(each) for each in (*inputs[:2], {"Get": "Parameters.Epochs"}, "x")] == [
        *("Std:Join", "'a' of Steps.Eval.PropertyFiles.Report", "Parameters.Epochs", '"x"')
    ]


@pytest.mark.parametrize("case", PARAMETERS["cases"], ids=lambda case: json.dumps(case["given"])[:100])
def test_parameters(case: Json) -> None:
    declared = case.get("declared", PARAMETERS["declared"])
    if "values" in case:
        values = {name: value for name, value in bind(declared, case["given"]).items() if name in case["values"]}
        assert values == case["values"]
        assert [type(value) for value in values.values()] == [type(value) for value in case["values"].values()]
        return
    with pytest.raises(ParameterError) as caught:
        bind(declared, case["given"])
    assert caught.value.problems == case["problems"]


def test_a_text_of_more_than_1024_characters_is_no_value() -> None:
    with pytest.raises(ParameterError, match=r"text of at most 1024 characters, but is 'x{59}\.\.\. \(1027 "):
        bind([{"Name": "Uri", "Type": "String"}], {"Uri": "x" * 1025})


def test_an_object_has_no_text_form() -> None:
    with pytest.raises(ExpressionError, match=r"^Only text, numbers and booleans have a text form, but got an object"):
        text_of({})
