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


def compared(
    old: list[dict[str, Any]], new: list[dict[str, Any]], before: dict[str, Any] | None = None, **after: Any
) -> list[str]:
    """The lines for two lists of steps; `before` and `after` are members of the old and new definition or request."""
    request = {
        "PipelineDescription": "what it does",
        "RoleArn": "arn:aws:iam::1:role/old",
        "ParallelismConfiguration": {"MaxParallelExecutionSteps": 4},
    }
    content = {"Version": "2020-12-01", "Metadata": {}, "Parameters": []}
    asked = {key: value for key, value in after.items() if key in request}
    first = json.dumps({**content, "Steps": old, **(before or {})})
    second = json.dumps({"Steps": new, **content, **{key: value for key, value in after.items() if key not in asked}})
    return differences({**request, "PipelineDefinition": first}, {**request, **asked, "PipelineDefinition": second})


LONG = "s3://a-bucket-with-a-long-name/image-classification/code/train-0123456789abcdef0123456789abcdef/source.tar.gz"
OLD_WORDS, NEW_WORDS = ["--size", "64", "--flip", "--seed", "0"], ["--views", "3", "--size", "128", "--seed", "0"]


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
        ({"Inputs": inputs("a", "b")}, {"Inputs": inputs("new", "a", "b")}, [
            'new added: {"InputName": "new", "S3Input": {"S3Uri"…',
        ]),
        ({"Words": OLD_WORDS}, {"Words": NEW_WORDS}, ["--size: 64 -> 128", "--flip removed", "--views added: 3"]),
        ({"Words": ["python3", "a.py"]}, {"Words": ["python3", "b.py"]}, [": python3, a.py -> python3, b.py"]),
        ({"Uri": LONG}, {"Uri": LONG.replace("0123", "9999", 1)}, [
            ": …/code/train-0123456789abcdef0123456789ab… -> …/code/train-9999456789abcdef0123456789ab…",
        ]),
    ],
)  # fmt: skip
def test_a_changed_argument_is_told_by_its_path_and_both_values(old, new, lines):
    name = next(iter(old))
    expected = [f"step One: {name}{line if line.startswith(':') else f'.{line}'}" for line in lines]
    assert compared([processing("One", **old)], [processing("One", **new)]) == expected


def test_steps_come_and_go_also_those_of_branches():
    def gate(*steps: dict[str, Any]) -> dict[str, Any]:
        return {"Name": "Gate", "Type": "Condition", "Arguments": {"Conditions": [], "IfSteps": list(steps)}}

    new = {"Name": "Four", "Type": "Training", "Arguments": {}}
    old = [gate(processing("One")), processing("Three")]
    assert compared(old, [gate(processing("One", A="2"), processing("Two")), new]) == [
        "step Gate: IfSteps: One -> One, Two",
        "step One: A added: 2",
        "step Three removed",
        "step Two added (Processing)",
        "step Four added (Training)",
    ]


def test_parameters_are_told_with_their_defaults():
    old = [{"Name": "A", "Type": "Float", "DefaultValue": 0.8}, {"Name": "B", "Type": "String", "DefaultValue": "x"}]
    new = [{"Name": "A", "Type": "Float", "DefaultValue": 0.9}, {"Name": "C", "Type": "String", "DefaultValue": ""}]
    assert compared([], [], before={"Parameters": old}, Parameters=[*new, {"Name": "D", "Type": "Integer"}]) == [
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


def test_no_difference_goes_unnoticed_but_how_it_is_written():
    steps = [processing("One"), processing("Two")]
    assert compared(steps, copy.deepcopy(steps)) == []
    for reordered in (steps[::-1], [*steps, steps[0]]):
        assert compared(steps, reordered) == ["definition: the order of its parts"]


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
