"""The definition language: paths, expressions, conditions and parameters by the cases of JSON files; requests."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.definition.expressions import (
    ExpressionError,
    Reference,
    Scope,
    describe,
    format_path,
    holds,
    json_tokens,
    look_up,
    references,
    resolve,
    text_of,
    tokenize,
)
from pipeline.definition.parameters import bind
from pipeline.definition.schemas import as_request
from pipeline.errors import ParameterError, PipelineError

Json = dict[str, Any]
FILES = {file.stem: json.loads(file.read_text()) for file in (Path(__file__).parent / "cases").glob("*.json")}
PATHS = [{**group, **case} for group in FILES["paths"] for case in group["cases"]]
EXPRESSIONS, CONDITIONS, PARAMETERS = (FILES[name] for name in ("expressions", "conditions", "parameters"))


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


def expect(case: Json, act: Any) -> None:
    """The case's result and its type, or its error."""
    if "error" not in case:
        assert (act(), type(act())) == (case["result"], type(case["result"]))
        return
    with pytest.raises(PipelineError) as caught:
        act()
    assert case["error"] in str(caught.value)


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


@pytest.mark.parametrize("case", EXPRESSIONS["cases"], ids=lambda case: json.dumps(case["expression"])[:100])
def test_expression(case: Json) -> None:
    before = json.dumps(case)
    expect(case, lambda: resolve(case["expression"], scope_of(EXPRESSIONS["scope"])))
    assert json.dumps(case) == before


@pytest.mark.parametrize("case", CONDITIONS["cases"], ids=lambda case: json.dumps(case["condition"])[:100])
def test_condition(case: Json) -> None:
    expect(case, lambda: holds(case["condition"], scope_of(CONDITIONS["scope"])))


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


@pytest.mark.parametrize("case", FILES["requests"], ids=lambda case: case["about"])
def test_arguments_become_the_request_that_the_api_has(case: Json) -> None:
    expect(case, lambda: as_request("CreateTrainingJob", case["arguments"]))


def test_an_object_has_no_text_form() -> None:
    with pytest.raises(ExpressionError, match=r"^Only text, numbers and booleans have a text form, but got an object"):
        text_of({})
