"""Arguments as the requests that they become: what is converted, and that the tables of names are the API's."""

from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel

from pipeline.definition.expressions import ExpressionError
from pipeline.definition.requests import KINDS, as_request
from pipeline.definition.step_types import STEP_TYPES

NOUNS = {
    "structure": "an object",
    "string": "text",
    "boolean": "true or false",
    "list of structure": "a list of objects",
    "list of string": "a list of text",
    "map of string": "an object whose members are text",
    **dict.fromkeys(("integer", "long", "float", "double"), "a whole number, 0 or more"),
}
OF_STEPS = ("CacheConfig", "DisplayName", "FilePath", "FunctionArn", "OutputParameters", "OutputType")
OF_STEPS += ("PropertyFileName", "PropertyFiles", "RetryPolicies")


def kinds_of(shape: Any, found: dict[str, set[str]], around: tuple[str, ...] = ()) -> None:
    """Member name -> its kinds, wherever it stands in a request."""
    if shape.name in around:
        return
    for name, member in (shape.members if shape.type_name == "structure" else {}).items():
        inner = {"list": "member", "map": "value"}.get(member.type_name)
        of = f" of {getattr(member, inner).type_name}" if inner else ""
        found.setdefault(name, set()).add(f"{member.type_name}{of}")
        kinds_of(member, found, (*around, shape.name))
    for inner in ("member", "value"):
        if shape.type_name in ("list", "map") and hasattr(shape, inner):
            kinds_of(getattr(shape, inner), found, (*around, shape.name))


def test_every_name_in_the_tables_has_that_one_kind_in_all_requests_of_the_service():
    model = ServiceModel(Loader().load_service_model("sagemaker", "service-2"))
    found: dict[str, set[str]] = {}
    for step_type in STEP_TYPES.values():
        if step_type.creates:
            kinds_of(model.operation_model(step_type.creates).input_shape, found)
    assert {name: {NOUNS[kind] for kind in found[name]} for name in KINDS if name not in OF_STEPS} == {
        name: {noun.replace("1 or more", "0 or more")} for name, noun in KINDS.items() if name not in OF_STEPS
    }


def test_numbers_and_text_become_what_the_api_has_and_nulls_go():
    given = {"HyperParameters": {"epochs": 3, "flag": True, "none": None}, "ContainerArguments": [1, "a"], "S3Uri": 5}
    given |= {"InstanceCount": "2", "EnableNetworkIsolation": "true", "Value": 1.5, "KmsKeyId": None, "Tags": []}
    assert as_request(given) == {
        "HyperParameters": {"epochs": "3", "flag": "true"},
        "ContainerArguments": ["1", "a"],
        "S3Uri": "5",
        **{"InstanceCount": 2, "EnableNetworkIsolation": True, "Value": 1.5, "Tags": []},
    }


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"S3Input": {"S3Uri": ["a"]}}, "S3Input.S3Uri must be text, but got a list."),
        ({"Environment": {"A": {}}}, "Environment['A'] must be text, but got an object."),
        ({"ResourceConfig": {"InstanceCount": 1.5}}, "ResourceConfig.InstanceCount must be a whole number, 1 or more"),
        ({"InputDataConfig": ["a"]}, "InputDataConfig[0] must be an object, but got 'a'."),
    ],
)
def test_a_member_of_another_kind_is_named(given, sentence):
    with pytest.raises(ExpressionError) as caught:
        as_request(given)
    assert str(caught.value).startswith(sentence)
