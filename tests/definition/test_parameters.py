"""Runtime parameters are parsed by their declared type, and every problem is reported at once."""

from typing import Any

import pytest

from pipeline.definition.parameters import bind
from pipeline.errors import ParameterError

DECLARED: list[dict[str, Any]] = [
    {"Name": "InputUri", "Type": "String", "DefaultValue": "s3://b/x"},
    {
        "Name": "Approval",
        "Type": "String",
        "DefaultValue": "Approved",
        "EnumValues": ["PendingManualApproval", "Approved"],
    },
    {"Name": "Epochs", "Type": "Integer", "DefaultValue": 3},
    {"Name": "MinAcc", "Type": "Float", "DefaultValue": 0},
    {"Name": "Deploy", "Type": "Boolean", "DefaultValue": True},
]


def problems_of(declared: list[dict[str, Any]], given: dict[str, str]) -> list[str]:
    """The sentences of the error that binding raises."""
    with pytest.raises(ParameterError) as caught:
        bind(declared, given)
    return caught.value.problems


def test_defaults_are_used_and_have_the_declared_type() -> None:
    values = bind(DECLARED, {})
    assert values == {"InputUri": "s3://b/x", "Approval": "Approved", "Epochs": 3, "MinAcc": 0.0, "Deploy": True}
    assert [type(value) for value in values.values()] == [str, str, int, float, bool]


def test_given_text_is_parsed_by_the_declared_type() -> None:
    given = {
        "InputUri": "",
        "Approval": "PendingManualApproval",
        "Epochs": "-12",
        "MinAcc": "8.5e-1",
        "Deploy": "False",
    }
    values = bind(DECLARED, given)
    assert values == {
        "InputUri": "",
        "Approval": "PendingManualApproval",
        "Epochs": -12,
        "MinAcc": 0.85,
        "Deploy": False,
    }


@pytest.mark.parametrize(("text", "value"), [("true", True), ("True", True), ("false", False), ("False", False)])
def test_booleans_are_accepted_as_json_and_as_python_write_them(text: str, value: bool) -> None:
    assert bind(DECLARED, {"Deploy": text})["Deploy"] is value


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("Epochs", "three", "Parameter 'Epochs' must be a whole number, but is 'three'."),
        ("Epochs", "3.0", "Parameter 'Epochs' must be a whole number, but is '3.0'."),
        ("Epochs", "", "Parameter 'Epochs' must be a whole number, but is ''."),
        ("MinAcc", "nan", "Parameter 'MinAcc' must be a number, but is 'nan'."),
        ("MinAcc", "0,9", "Parameter 'MinAcc' must be a number, but is '0,9'."),
        ("Deploy", "yes", "Parameter 'Deploy' must be true or false, but is 'yes'."),
        (
            "Approval",
            "approved",
            "Parameter 'Approval' must be one of 'PendingManualApproval' and 'Approved', but is 'approved'. "
            "Did you mean 'Approved'?",
        ),
        (
            "InputUri",
            "x" * 1025,
            f"Parameter 'InputUri' must be text of at most 1024 characters, but is '{'x' * 59}... (1027 characters).",
        ),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(name: str, text: str, problem: str) -> None:
    assert problems_of(DECLARED, {name: text}) == [problem]


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    assert problems_of(DECLARED, {"Epoch": "3"}) == [
        "Parameter 'Epoch' is not declared by the pipeline; it declares 'InputUri', 'Approval', 'Epochs', 'MinAcc' and "
        "'Deploy'. Did you mean 'Epochs'?"
    ]
    assert problems_of([], {"Epochs": "3"}) == ["Parameter 'Epochs' is not declared by the pipeline; it declares none."]


def test_a_parameter_without_a_default_needs_a_value() -> None:
    declared = [{"Name": "Bucket", "Type": "String"}]
    assert bind(declared, {"Bucket": "b"}) == {"Bucket": "b"}
    assert problems_of(declared, {}) == ["Parameter 'Bucket' (String) has no default, so it needs a value."]


def test_a_default_of_another_type_than_declared_is_refused() -> None:
    assert problems_of([{"Name": "N", "Type": "Integer", "DefaultValue": True}], {}) == [
        "Parameter 'N' must be a whole number, but is true by default."
    ]
    assert problems_of([{"Name": "X", "Type": "Float", "DefaultValue": "1"}], {}) == [
        "Parameter 'X' must be a number, but is '1' by default."
    ]


def test_all_problems_are_reported_at_once() -> None:
    declared = [*DECLARED, {"Name": "Epochs", "Type": "Integer"}, {"Name": "When", "Type": "Date"}]
    assert problems_of(declared, {"Deploy": "1", "Epochs": "2", "Other": "x"}) == [
        "Parameter 'Other' is not declared by the pipeline; it declares 'InputUri', 'Approval', 'Epochs', 'MinAcc', "
        "'Deploy', 'Epochs' and 'When'.",
        "Parameter 'Epochs' is declared twice.",
        "Parameter 'Deploy' must be true or false, but is '1'.",
        "Parameter 'When' has type 'Date'; known are 'String', 'Integer', 'Float' and 'Boolean'.",
    ]
