"""The checks of a compiled definition: one that the SDK wrote is sound; each mistake made in it is named.

`cases/definition.json` is the output of SageMaker SDK 3.27 for a pipeline with every step type that we know.
`cases/problems.json` changes one place of it at a time.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.definition.check import check
from pipeline.definition.steps import Definition

CASES = Path(__file__).parent / "cases"
CHANGES = json.loads((CASES / "problems.json").read_text())


@pytest.fixture
def definition() -> dict[str, Any]:
    """A sound definition, to be changed at will."""
    return json.loads((CASES / "definition.json").read_text())


def step(definition: dict[str, Any], name: str) -> dict[str, Any]:
    """The step of that name, wherever it stands."""
    return Definition(definition).steps[name].definition


def change(definition: dict[str, Any], case: dict[str, Any]) -> None:
    """Sets or removes the member that the case names."""
    target = step(definition, case["step"]) if case["step"] else definition
    for key in case["at"][:-1]:
        target = target[key]
    if "set" in case:
        target[case["at"][-1]] = case["set"]
    else:
        del target[case["at"][-1]]


def test_what_the_sdk_writes_is_sound(definition):
    assert check(definition) == []


def case_name(case: dict[str, Any]) -> str:
    """The place that is changed and what is put there."""
    return f"{case['step'] or ''}.{'.'.join(map(str, case['at']))}={json.dumps(case.get('set', 'removed'))}"[:120]


@pytest.mark.parametrize("case", CHANGES, ids=case_name)
def test_a_change_is_reported_in_whole_sentences_or_accepted(definition, case):
    change(definition, case)
    assert sorted(check(definition)) == sorted(case["problems"])


def test_all_kinds_of_mistakes_are_found_together(definition):
    train, evaluate = step(definition, "TrainWithDebugger"), step(definition, "EvaluateModel")
    train["Arguments"]["ResourceConfig"]["InstnceCount"] = train["Arguments"]["ResourceConfig"].pop("InstanceCount")
    train["Arguments"]["HyperParameters"]["epochs"] = {"Get": "Parameters.Epochs"}
    evaluate["Arguments"]["ProcessingInputs"][0]["S3Input"]["S3Uri"] = {
        "Get": "Steps.Train.ModelArtifacts.S3ModelArtifacts"
    }
    step(definition, "CreateModel")["Arguments"]["PrimaryContainer"]["ModelDataUrl"] = {
        "Get": "Steps.TrainWithDebugger.ModelArtifact"
    }
    step(definition, "CreateModel")["DependsOn"] = [{"Step": "Score"}]
    assert sorted(check(definition)) == [
        "Step 'CreateModel' reads Steps.TrainWithDebugger.ModelArtifact, but DescribeTrainingJob does not return "
        "ModelArtifact. Did you mean 'ModelArtifacts'?",
        "Step 'EvaluateModel' reads Steps.Train, but no step has that name. Did you mean 'TrainWithDebugger'?",
        "Step 'TrainWithDebugger' reads Parameters.Epochs, but no parameter has that name.",
        "Step 'TrainWithDebugger': ResourceConfig.InstnceCount is not a member of CreateTrainingJob. "
        "Did you mean 'InstanceCount'?",
        "Steps wait for each other in a circle: 'CreateModel' waits for 'Score' waits for 'CreateModel'.",
    ]


def test_every_circle_is_named_once(definition):
    step(definition, "CreateModel")["DependsOn"] = ["Score"]
    step(definition, "PrepareData")["DependsOn"] = ["TrainWithDebugger"]
    step(definition, "RegisterModel")["DependsOn"] = ["RegisterModel"]
    assert sorted(check(definition)) == [
        "Steps wait for each other in a circle: 'CreateModel' waits for 'Score' waits for 'CreateModel'.",
        "Steps wait for each other in a circle: 'PrepareData' waits for 'TrainWithDebugger' waits for "
        "'TuneHyperparameters' waits for 'PrepareData'.",
        "Steps wait for each other in a circle: 'RegisterModel' waits for 'RegisterModel'.",
    ]


def test_steps_of_one_branch_may_rely_on_each_other_and_on_those_outside(definition):
    step(definition, "DeployEndpoint")["DependsOn"] = ["RegisterModel", "EvaluateModel"]
    assert check(definition) == []


def test_a_condition_cannot_wait_for_its_own_branch(definition):
    step(definition, "CheckEndpoint")["DependsOn"] = ["EndpointBusy"]
    problems = check(definition)
    assert "Step 'CheckEndpoint' depends on 'EndpointBusy', but nothing runs after a Fail step." in problems
    assert (
        "Step 'CheckEndpoint' depends on 'EndpointBusy', which runs only in IfSteps of 'CheckEndpoint'; "
        "only steps of the same branch can rely on it."
    ) in problems


def test_a_definition_has_at_most_50_steps_and_200_parameters(definition):
    fail = step(definition, "AccuracyTooLow")
    definition["Steps"] += [{**copy.deepcopy(fail), "Name": f"Fail{index}"} for index in range(45)]
    definition["Parameters"] += [{"Name": f"P{index}", "Type": "String"} for index in range(200)]
    assert check(definition) == [
        "The definition: Parameters must have at most 200 entries, but has 206.",
        "The definition has 57 steps, but a pipeline has at most 50.",
    ]


def test_a_definition_has_a_limited_size(definition):
    definition["Metadata"] = {"note": "x" * 1_048_576}
    characters = len(json.dumps(definition))
    assert check(definition) == [
        f"The definition has {characters} characters, but CreatePipeline takes at most 1048576."
    ]


def test_a_step_type_that_we_do_not_know_well_is_checked_for_its_references_only(definition):
    definition["Steps"].append(
        {"Name": "Cluster", "Type": "EMR", "ClusterId": "j-1", "Arguments": {"Uri": {"Get": "Parameters.InputUri"}}}
    )
    assert check(definition) == [
        "Step 'Cluster' reads Parameters.InputUri, but no parameter has that name. Did you mean 'InputDataUri'?"
    ]


def test_a_property_of_such_a_step_may_be_anything(definition):
    definition["Steps"].append({"Name": "Cluster", "Type": "EMR", "Arguments": {}})
    step(definition, "TrainWithDebugger")["Arguments"]["HyperParameters"]["cluster"] = {
        "Get": "Steps.Cluster.ClusterId"
    }
    assert check(definition) == []


@pytest.mark.parametrize("value", [[], "x", None, 3])
def test_what_is_no_object_is_no_definition(value):
    kinds = {"[]": "a list", '"x"': "'x'", "null": "null", "3": "3"}
    assert check(value) == [f"A definition must be an object, but got {kinds[json.dumps(value)]}."]


@pytest.mark.parametrize("junk", [None, 3, "x", [], {}, [1], {"Get": "x"}, {"Std:Join": 1}], ids=json.dumps)
def test_no_junk_anywhere_stops_the_checks(definition, junk):
    for place in list(places(definition))[:: 7 if junk else 5]:
        changed = copy.deepcopy(definition)
        target: Any = changed
        for key in place[:-1]:
            target = target[key]
        target[place[-1]] = junk
        assert all(isinstance(problem, str) for problem in check(changed))


def places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    """The paths of all members, at any depth."""
    for key, member in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield (*path, key)
        yield from places(member, (*path, key))
