"""What an update changes, in the words that a person reads before it."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from pipeline.config import load
from pipeline.definition.diff import differences
from pipeline.placement import local_placement
from pipeline.staging import definition_of, open_project
from tests.local.samples import ROOT

JOIN = {"Std:Join": {"On": "/", "Values": ["s3:/", "bucket", {"Get": "Execution.PipelineExecutionId"}]}}


def processing(name: str, **arguments: Any) -> dict[str, Any]:
    return {"Name": name, "Type": "Processing", "Arguments": {"Environment": {"A": "1"}, **arguments}}


def inputs(*names: str) -> list[dict[str, Any]]:
    return [{"InputName": name, "S3Input": {"S3Uri": f"s3://bucket/{name}"}} for name in names]


def compared(old: list[dict[str, Any]], new: list[dict[str, Any]], **changes: Any) -> list[str]:
    """The lines for two lists of steps; `changes` are of the new definition or the request."""
    request = {
        "PipelineDefinition": json.dumps({"Version": "2020-12-01", "Metadata": {}, "Parameters": [], "Steps": old}),
        "PipelineDescription": "what it does",
        "RoleArn": "arn:aws:iam::1:role/old",
        "ParallelismConfiguration": {"MaxParallelExecutionSteps": 4},
    }
    content = {"Version": "2020-12-01", "Metadata": {}, "Parameters": [], "Steps": new}
    content |= {key: value for key, value in changes.items() if key not in request}
    asked = {key: value for key, value in changes.items() if key in request}
    return differences(request, {**request, "PipelineDefinition": json.dumps(content), **asked})


def arguments_compared(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The lines for one step's arguments."""
    return compared([processing("One", **old)], [processing("One", **new)])


def test_equal_definitions_differ_in_nothing_however_they_are_written():
    request = {"PipelineDescription": "d", "RoleArn": "r", "ParallelismConfiguration": {"MaxParallelExecutionSteps": 1}}
    one = {**request, "PipelineDefinition": '{"Steps": [], "Parameters": []}'}
    assert differences(one, {**request, "PipelineDefinition": '{"Parameters":[],"Steps":[]}'}) == []


def test_steps_that_come_and_go_are_named_with_their_type():
    new = {"Name": "Three", "Type": "Training", "Arguments": {}}
    assert compared([processing("One"), processing("Two")], [processing("One"), new]) == [
        "step Two removed",
        "step Three added (Training)",
    ]


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"Environment": {"A": "1"}}, {"Environment": {"A": "2", "B": "x"}}, ["A: 1 -> 2", "B added: x"]),
        ({"Environment": {"A": "1", "B": "x"}}, {}, ["B removed"]),
        ({"Environment": {"A": 1}}, {"Environment": {"A": "1"}}, ['A: 1 -> "1"']),
        ({"Environment": {"A": "1"}}, {"Environment": {"A": {"Get": "Parameters.A"}}}, ["A: 1 -> {Parameters.A}"]),
        ({"Environment": {"A": ""}}, {"Environment": {"A": JOIN}}, [
            "A: '' -> s3://bucket/{Execution.PipelineExecution…",
        ]),
    ],
)  # fmt: skip
def test_a_changed_argument_is_told_by_its_path_and_both_values(old, new, lines):
    assert arguments_compared(old, new) == [f"step One: Environment.{line}" for line in lines]


def test_an_inserted_input_is_one_line():
    assert arguments_compared({"Inputs": inputs("a", "b")}, {"Inputs": inputs("new", "a", "b")}) == [
        'step One: Inputs.new added: {"InputName": "new", "S3Input": {"S3Uri"…'
    ]


def test_the_words_of_a_command_line_are_told_by_option():
    old, new = ["--size", "64", "--flip", "--seed", "0"], ["--views", "3", "--size", "128", "--seed", "0"]
    assert arguments_compared({"Words": old}, {"Words": new}) == [
        "step One: Words.--size: 64 -> 128",
        "step One: Words.--flip removed",
        "step One: Words.--views added: 3",
    ]
    assert arguments_compared({"Words": ["python3", "a.py"]}, {"Words": ["python3", "b.py"]}) == [
        "step One: Words: python3, a.py -> python3, b.py"
    ]


def test_of_long_values_the_part_that_differs_is_shown():
    old = (
        "s3://a-bucket-with-a-long-name/image-classification/code/train-0123456789abcdef0123456789abcdef/source.tar.gz"
    )
    assert arguments_compared({"Uri": old}, {"Uri": old.replace("0123", "9999", 1)}) == [
        "step One: Uri: …/code/train-0123456789abcdef0123456789ab… -> …/code/train-9999456789abcdef0123456789ab…"
    ]


def test_steps_of_branches_are_compared_by_themselves():
    def gate(*steps: dict[str, Any]) -> dict[str, Any]:
        return {"Name": "Gate", "Type": "Condition", "Arguments": {"Conditions": [], "IfSteps": list(steps)}}

    assert compared([gate(processing("One"))], [gate(processing("One", A="2"), processing("Two"))]) == [
        "step Gate: IfSteps: One -> One, Two",
        "step One: A added: 2",
        "step Two added (Processing)",
    ]


def test_parameters_are_told_with_their_defaults():
    old = [{"Name": "A", "Type": "Float", "DefaultValue": 0.8}, {"Name": "B", "Type": "String", "DefaultValue": "x"}]
    new = [{"Name": "A", "Type": "Float", "DefaultValue": 0.9}, {"Name": "C", "Type": "String", "DefaultValue": ""}]
    first = {"PipelineDefinition": json.dumps({"Parameters": old, "Steps": []}), "PipelineDescription": "d"}
    second = {
        **first,
        "PipelineDefinition": json.dumps({"Parameters": [*new, {"Name": "D", "Type": "Integer"}], "Steps": []}),
    }
    rest = {"RoleArn": "r", "ParallelismConfiguration": {"MaxParallelExecutionSteps": 1}}
    assert differences({**first, **rest}, {**second, **rest}) == [
        "parameter A: DefaultValue: 0.8 -> 0.9",
        "parameter B removed",
        "parameter C added (String, default '')",
        "parameter D added (Integer)",
    ]


def test_what_is_beside_the_steps_is_told_too():
    assert compared(
        [], [], PipelineDescription="more", RoleArn="arn:aws:iam::1:role/new",
        ParallelismConfiguration={"MaxParallelExecutionSteps": 8}, Version="2030-01-01",
    ) == [
        "description: what it does -> more",
        "role: arn:aws:iam::1:role/old -> arn:aws:iam::1:role/new",
        "steps at the same time: 4 -> 8",
        "definition.Version: 2020-12-01 -> 2030-01-01",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "reorder", [lambda steps: steps[::-1], lambda steps: [copy.deepcopy(steps[0]), *steps[1:], steps[0]]]
)
def test_no_difference_goes_unnoticed(reorder):
    steps = [processing("One"), processing("Two")]
    assert compared(steps, reorder(steps)) == ["definition: the order of its parts"]


def test_a_setting_of_pipeline_yaml_is_a_line_or_two():
    config = load(ROOT / "pipeline.yaml")
    changed = replace(
        config,
        data=replace(config.data, augmented_views=4, image_size_px=96),
        evaluation=replace(config.evaluation, accuracy_threshold=0.9),
    )
    placement = local_placement("deploy")
    old, new = (definition_of(open_project(item, ROOT / "pipeline.yaml"), placement) for item in (config, changed))
    rest = {"PipelineDescription": "d", "RoleArn": "r", "ParallelismConfiguration": {"MaxParallelExecutionSteps": 1}}
    found = differences({**rest, "PipelineDefinition": old}, {**rest, "PipelineDefinition": new})
    assert [line for line in found if "PrepareData" in line or "parameter" in line] == [
        "parameter AccuracyThreshold: DefaultValue: 0.8 -> 0.9",
        "step PrepareData: AppSpecification.ContainerArguments.--image-size: auto -> 96",
        "step PrepareData: AppSpecification.ContainerArguments.--augmented-views: 1 -> 4",
    ]
