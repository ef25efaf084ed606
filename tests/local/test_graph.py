"""The graph of a definition: dependencies, branches, order, and every fault reported before anything runs."""

from typing import Any

import pytest

from pipeline.definition.graph import read_graph
from pipeline.errors import DefinitionError

Json = dict[str, Any]


def step(name: str, step_type: str = "Processing", depends_on: list[Any] | None = None, **arguments: Any) -> Json:
    """A step of a definition."""
    extra = {"DependsOn": depends_on} if depends_on is not None else {}
    return {"Name": name, "Type": step_type, "Arguments": arguments, **extra}


def gate(name: str, left: Any, if_steps: list[Json], else_steps: list[Json], **extra: Any) -> Json:
    """A Condition step with one comparison."""
    comparison = {"Type": "GreaterThan", "LeftValue": left, "RightValue": 1}
    return step(name, "Condition", Conditions=[comparison], IfSteps=if_steps, ElseSteps=else_steps, **extra)


def get(path: str) -> Json:
    """A `Get` expression."""
    return {"Get": path}


def problems_of(*steps: Any, **definition: Any) -> list[str]:
    """The sentences of the error that reading the graph raises."""
    with pytest.raises(DefinitionError) as caught:
        read_graph({"Steps": list(steps), **definition})
    return caught.value.problems


def dependencies_of(*steps: Json) -> dict[str, set[str]]:
    return {name: set(found.dependencies) for name, found in read_graph({"Steps": list(steps)}).steps.items()}


def test_data_and_explicit_dependencies_are_both_followed() -> None:
    join = {"Std:Join": {"On": "/", "Values": [get("Steps.Prep.ProcessingJobName"), get("Execution.PipelineName")]}}
    steps = [
        step("Train", "Training", [{"Step": "Other", "Trigger": "Completed"}, "Third"], Uri={"A": [join]}),
        step("Prep"),
        step("Other"),
        step("Third", depends_on=["Prep", "Prep"]),
    ]
    assert dependencies_of(*steps) == {
        "Train": {"Prep", "Other", "Third"},
        "Prep": set(),
        "Other": set(),
        "Third": {"Prep"},
    }


def test_every_step_comes_after_its_dependencies_whatever_the_order_of_the_list() -> None:
    steps = [step("C", Uri=get("Steps.B.X")), step("B", Uri=get("Steps.A.X")), step("A")]
    assert list(read_graph({"Steps": steps}).steps) == ["A", "B", "C"]


def test_a_branch_step_waits_for_its_condition_and_for_what_it_reads() -> None:
    condition = gate(
        "Gate", get("Steps.Eval.X"), [step("Register", "RegisterModel", Url=get("Steps.Train.X"))], [step("No", "Fail")]
    )
    found = dependencies_of(condition, step("Train"), step("Eval"))
    assert found["Register"] == {"Gate", "Train"}
    assert found["No"] == {"Gate"}
    assert found["Gate"] == {"Eval"}


def test_a_condition_waits_for_the_property_file_that_it_reads() -> None:
    evaluate = step("Eval", ProcessingOutputConfig={"Outputs": [{"OutputName": "out"}]})
    evaluate["PropertyFiles"] = [{"PropertyFileName": "Report", "OutputName": "out", "FilePath": "report.json"}]
    report = {"Std:JsonGet": {"PropertyFile": get("Steps.Eval.PropertyFiles.Report"), "Path": "acc"}}
    assert dependencies_of(gate("Gate", report, [], []), evaluate)["Gate"] == {"Eval"}


def test_steps_know_the_branch_they_stand_in() -> None:
    inner = gate("Inner", 2, [step("A")], [step("B")])
    steps = read_graph({"Steps": [gate("Outer", 2, [inner], [step("C")])]}).steps
    branches = {name: (found.condition, found.outcome) for name, found in steps.items()}
    assert branches == {
        "Outer": (None, None),
        "Inner": ("Outer", True),
        "A": ("Inner", True),
        "B": ("Inner", False),
        "C": ("Outer", False),
    }


def test_a_branch_not_taken_takes_everything_that_waits_for_it_along() -> None:
    inner = gate("Inner", 2, [step("A")], [step("B")])
    after = step("After", Uri=get("Steps.A.X"))
    graph = read_graph({"Steps": [after, gate("Outer", 2, [inner], [step("C")]), step("Free")]})
    assert graph.not_taken("Outer", False) == {"Inner", "A", "B", "After"}
    assert graph.not_taken("Outer", True) == {"C"}
    assert graph.not_taken("Inner", False) == {"A", "After"}
    assert graph.downstream(["Free"]) == {"Free"}


def test_null_sections_of_the_definition_are_tolerated() -> None:
    definition = {"Parameters": None, "PipelineExperimentConfig": None, "MlflowConfig": None}
    assert list(read_graph({"Steps": [step("A", depends_on=[])], **definition}).steps) == ["A"]


def test_a_cycle_is_named_in_the_order_of_waiting() -> None:
    steps = [step("A", Uri=get("Steps.B.X")), step("B", depends_on=["C"]), step("C", Uri=get("Steps.A.X")), step("D")]
    [problem] = problems_of(*steps)
    assert problem == "Steps wait for each other in a circle: 'A' waits for 'B' waits for 'C' waits for 'A'."


def test_a_condition_that_reads_its_own_branch_is_a_cycle() -> None:
    [problem] = problems_of(gate("Gate", get("Steps.In.X"), [step("In")], []))
    assert problem == "Steps wait for each other in a circle: 'Gate' waits for 'In' waits for 'Gate'."


def test_duplicate_names_are_refused_also_across_branches() -> None:
    assert problems_of(step("A"), gate("Gate", 2, [step("A")], [step("B")]), step("B")) == [
        "2 steps are named 'A'.",
        "2 steps are named 'B'.",
    ]


def test_step_types_that_cannot_run_here_are_refused_by_name() -> None:
    assert problems_of(step("Q", "QualityCheck"), gate("Gate", 2, [step("E", "EMR")], []), step("T", "Trainning")) == [
        "Step 'Q' is a step of type QualityCheck, which does not run locally: the Model Monitor image is AWS's; "
        "replace it by a Processing step of your own.",
        "Step 'E' is a step of type EMR, which does not run locally: there is no cluster here; replace it by a "
        "Processing step.",
        "Step 'T' has the type 'Trainning', which no step has. Did you mean 'Training'?",
    ]


def test_faults_of_different_kinds_are_reported_together() -> None:
    problems = problems_of(step("Q", "EMR", ["Nobody"], a=get("Steps.Who.X")), step("B", depends_on=["Q"]))
    assert [problem.split(",")[0] for problem in problems] == [
        "Step 'Q' is a step of type EMR",
        "Step 'Q' reads Steps.Who.X",
        "Step 'Q' depends on 'Nobody'",
    ]


def test_unknown_references_are_all_reported_at_once() -> None:
    evaluate = step("Eval", ProcessingOutputConfig={"Outputs": [{"OutputName": "out"}]})
    evaluate["PropertyFiles"] = [{"PropertyFileName": "Lost", "OutputName": "gone", "FilePath": "x.json"}]
    report = {"Std:JsonGet": {"PropertyFile": get("Steps.Eval.PropertyFiles.Repport"), "Path": "acc"}}
    lost = {"Std:JsonGet": {"PropertyFile": get("Steps.Eval.PropertyFiles.Lost"), "Path": "acc"}}
    reader = step(
        "Reader",
        depends_on=["Evall", "Stop"],
        a=get("Steps.Train.X"),
        b=get("Parameters.Epoch"),
        c=get("Execution.PipelineID"),
        d=get("PipelineExperimentConfig.Name"),
        e=get("Steps.Stop.ErrorMessage"),
        f=report,
        g=lost,
    )
    assert problems_of(reader, evaluate, step("TrainIt"), step("Stop", "Fail"), Parameters=[{"Name": "Epochs"}]) == [
        "Step 'Reader' reads Steps.Train.X, but no step has the name 'Train'. Did you mean 'TrainIt'?",
        "Step 'Reader' reads Parameters.Epoch, but no parameter has the name 'Epoch'. Did you mean 'Epochs'?",
        "Step 'Reader' reads Execution.PipelineID, but no execution variable has the name 'PipelineID'. "
        "Did you mean 'PipelineArn'?",
        "Step 'Reader' reads PipelineExperimentConfig.Name, but no field of PipelineExperimentConfig has the name "
        "'Name'.",
        "Step 'Reader' reads Steps.Stop.ErrorMessage, but a Fail step has no properties.",
        "Step 'Reader' reads property file 'Repport' of step 'Eval', which declares 'Lost'.",
        "Property file 'Lost' of step 'Eval' is in output 'gone', but the step's outputs are 'out'.",
        "Step 'Reader' depends on 'Evall', but no step has that name. Did you mean 'Eval'?",
        "Step 'Reader' depends on 'Stop', but nothing runs after a Fail step.",
    ]


def test_malformed_expressions_are_reported_with_their_step() -> None:
    assert problems_of(step("A", a={"Std:Joint": {}}, b={"Std:Join": {"On": ""}}), step("B", a=get("Step.A.X"))) == [
        "Step 'A': Function 'Std:Joint' is not known. Did you mean 'Std:Join'?",
        'Step \'A\': Std:Join needs On and a list of Values, but got {"On": ""}.',
        "Step 'B': Get 'Step.A.X' does not start with one of 'Parameters', 'Steps', 'Execution' and "
        "'PipelineExperimentConfig'. Did you mean 'Steps'?",
    ]


def test_malformed_conditions_are_reported_with_their_step() -> None:
    bad = step("Gate", "Condition", Conditions=[{"Type": "Equal"}, {"Type": "Not", "Condition": {"Type": "Or"}}])
    assert problems_of(bad, step("Other", "Condition", Conditions=None)) == [
        "Step 'Gate': Condition type 'Equal' is not known; known are 'Equals', 'GreaterThan', 'GreaterThanOrEqualTo', "
        "'LessThan', 'LessThanOrEqualTo', 'In', 'Not' and 'Or'. Did you mean 'Equals'?",
        "Step 'Gate': A condition of type Or lacks 'Conditions'.",
        "Step 'Other': A Condition step needs a list as Conditions.",
    ]


def test_a_step_carries_its_triggers_and_an_unknown_one_is_refused() -> None:
    failed = {"Step": "A", "Trigger": "Failed"}
    graph = read_graph({"Steps": [step("B", depends_on=[failed, "C"]), step("A"), step("C")]})
    assert graph.steps["B"].triggers == (("A", "Failed"), ("C", "Completed"))
    assert problems_of(step("A"), step("B", depends_on=[{"Step": "A", "Trigger": "Faild"}])) == [
        "Step 'B' depends on 'A' with Trigger 'Faild'; known are 'Completed', 'Failed', 'Stopped' and 'Any'. Did you "
        "mean 'Failed'?"
    ]


def test_malformed_steps_are_reported() -> None:
    assert problems_of("A", {"Name": "../x", "Type": "Model"}, {"Name": "B", "Type": "Model", "Arguments": []}) == [
        "A step must be an object with Name, Type and Arguments, but got 'A'.",
        "Step name '../x' is not 1 to 64 letters, digits, '-' and '_'.",
        "Step 'B' needs an object as Arguments, but got [].",
    ]
    assert problems_of(step("A", depends_on=[{"Trigger": "Completed"}, 1])) == [
        "Step 'A' has None as a step in DependsOn, which is not a name.",
        "Step 'A' has 1 as a step in DependsOn, which is not a name.",
    ]
    assert problems_of(step("Gate", "Condition", Conditions=[], IfSteps={}, ElseSteps=[])) == [
        "Step 'Gate' needs lists as IfSteps and ElseSteps, but got dict."
    ]


def test_steps_must_be_a_list() -> None:
    with pytest.raises(DefinitionError, match=r"^Steps must be a list, but got NoneType\.$"):
        read_graph({})
