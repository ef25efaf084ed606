"""What an update changes, in the words that a person reads before it: the cases of cases/differences.json."""

import json
from pathlib import Path

import pytest

from pipeline.compile.placement import local_placement
from pipeline.definition.diff import differences
from pipeline.service.staging import definition_of, open_project
from tests.local.samples import ROOT

CASES = json.loads((Path(__file__).parent / "cases" / "differences.json").read_text())
REQUEST = {
    "PipelineDescription": "what it does",
    "RoleArn": "arn:aws:iam::1:role/old",
    "ParallelismConfiguration": {"MaxParallelExecutionSteps": 4},
}


@pytest.mark.parametrize("case", CASES, ids=[case["about"] for case in CASES])
def test_a_difference_is_a_line_with_its_place_and_both_values(case):
    contents = (case[side] for side in ("old", "new"))  # definitions, or the arguments of a step
    steps = [{"Name": "One", "Type": "Processing"}]
    wholes = [each if "Steps" in each else {"Steps": [{**steps[0], "Arguments": each}]} for each in contents]
    old, new = ({**REQUEST, "PipelineDefinition": json.dumps(each)} for each in wholes)
    assert differences(old, {**new, **case.get("request", {})}) == case["lines"]


def test_a_setting_of_pipeline_yaml_is_a_line_or_two(tmp_path):
    changed = tmp_path / "pipeline.yaml"
    changed.write_text("data: {augmented_views: 4, image_size_px: 96}\nevaluation: {accuracy_threshold: 0.9}\n")
    placement = local_placement("deploy")
    old, new = (definition_of(open_project(file), placement) for file in (ROOT / "pipeline.yaml", changed))
    found = differences({**REQUEST, "PipelineDefinition": old}, {**REQUEST, "PipelineDefinition": new})
    assert [line for line in found if "PrepareData" in line or "parameter" in line] == [
        "parameter AccuracyThreshold: DefaultValue: 0.8 -> 0.9",
        "step PrepareData: AppSpecification.ContainerArguments.--image-size: auto -> 96",
        "step PrepareData: AppSpecification.ContainerArguments.--augmented-views: 0 -> 4",
    ]
