"""A definition's steps as a graph, what cannot run here, and what is no definition at all."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.definition.check import check
from pipeline.definition.runnable import not_honoured
from pipeline.definition.steps import Graph, load_definition, read_graph
from pipeline.errors import DefinitionError

CASES = json.loads((Path(__file__).parent / "cases" / "refusals.json").read_text())
Json = dict[str, Any]


def step(name: str, step_type: str = "Fail", depends_on: list[Any] | None = None, **arguments: Any) -> Json:
    return {"Name": name, "Type": step_type, "DependsOn": depends_on, "Arguments": arguments}


def gate(name: str, left: Any, if_steps: list[Json], else_steps: list[Json]) -> Json:
    """A Condition step with one comparison."""
    comparison = {"Type": "GreaterThan", "LeftValue": left, "RightValue": 1}
    return step(name, "Condition", Conditions=[comparison], IfSteps=if_steps, ElseSteps=else_steps)


def get(path: str) -> Json:
    return {"Get": path}


def graph(*steps: Json) -> Graph:
    return read_graph({"Steps": list(steps)})


def test_a_step_waits_for_what_it_reads_for_its_dependencies_and_for_its_condition():
    join = {"Std:Join": {"On": "/", "Values": [get("Steps.Prep.ProcessingJobName"), get("Execution.PipelineName")]}}
    report = {"Std:JsonGet": {"PropertyFile": get("Steps.Eval.PropertyFiles.Report"), "Path": "acc"}}
    found = graph(
        gate("Gate", report, [step("Register", Url=get("Steps.Train.X"))], [step("No")]),
        step("Train", depends_on=[{"Step": "Other", "Trigger": "Failed"}, "Third"], Uri={"A": [join]}),
        *(step("Prep"), step("Other"), step("Third", depends_on=["Prep", "Prep"]), step("Eval")),
    )
    assert {name: set(each.dependencies) for name, each in found.steps.items()} == {
        "Gate": {"Eval"},
        "Register": {"Gate", "Train"},
        "No": {"Gate"},
        "Train": {"Prep", "Other", "Third"},
        "Third": {"Prep"},
        **{name: set() for name in ("Prep", "Other", "Eval")},
    }
    assert found.steps["Train"].triggers == (("Other", "Failed"), ("Third", "Completed"))


def test_every_step_comes_after_its_dependencies_whatever_the_order_of_the_list():
    assert list(graph(step("C", Uri=get("Steps.B.X")), step("B", Uri=get("Steps.A.X")), step("A")).steps) == [*"ABC"]


def test_a_branch_not_taken_takes_everything_that_waits_for_it_along():
    inner = gate("Inner", 2, [step("A")], [step("B")])
    found = graph(step("After", Uri=get("Steps.A.X")), gate("Outer", 2, [inner], [step("C")]), step("Free"))
    branches = {name: (each.condition, each.outcome) for name, each in found.steps.items() if each.condition}
    assert branches == {"Inner": ("Outer", True), "C": ("Outer", False), "A": ("Inner", True), "B": ("Inner", False)}
    assert found.not_taken("Outer", False) == {"Inner", "A", "B", "After"}
    assert found.not_taken("Outer", True) == {"C"}
    assert found.not_taken("Inner", False) == {"A", "After"}
    assert found.downstream(["Free"]) == {"Free"}


@pytest.mark.parametrize("case", CASES, ids=[case["about"] for case in CASES])
def test_what_cannot_run_here_is_refused(case):
    content = {"Steps": case["steps"], **case.get("around", {})}
    problems = check(content, service=False, local=True)
    assert len(problems) == len(case["problems"]), problems
    for problem, part in zip(problems, case["problems"], strict=True):
        assert part in problem


def nested_conditions(depth: int) -> Json:
    innermost: Json = step("Last", ErrorMessage="x")
    for number in range(depth):
        innermost = gate(f"G{number}", 2, [innermost], [])
    return {"Steps": [innermost]}


def nested(depth: int, wrap: Any, innermost: Any) -> Any:
    for _ in range(depth):
        innermost = wrap(innermost)
    return innermost


def test_190_conditions_may_stand_in_each_other_and_2000_are_refused_in_a_sentence():
    content = load_definition(json.dumps(nested_conditions(190)))
    assert check(content, service=False, local=True) == []
    assert len(read_graph(content).steps) == 191
    text = 2000 * '{"Arguments": {"IfSteps": [' + 2000 * "]}}"
    with pytest.raises(DefinitionError, match=r"^is nested too deeply: it may have 700 levels of lists and objects\.$"):
        load_definition(f'{{"Steps": [{text}]}}')


@pytest.mark.parametrize("depth", [50, 190])
def test_nested_expressions_and_conditions_are_read_or_refused_in_a_sentence(depth):
    join = nested(depth, lambda inner: {"Std:Join": {"On": "", "Values": [inner]}}, "x")
    condition = {"Type": "Equals", "LeftValue": 1, "RightValue": 1}
    negated = nested(depth, lambda inner: {"Type": "Not", "Condition": inner}, condition)
    either = nested(depth, lambda inner: {"Type": "Or", "Conditions": [inner]}, condition)
    steps = [step("A", ErrorMessage=join), step("B", "Condition", Conditions=[negated, either])]
    problems = check({"Steps": steps}, local=True)
    too_deep = [
        "Step 'A' is nested too deeply: it may have 200 levels.",
        "Step 'B' is nested too deeply: it may have 200 levels.",
    ]
    assert problems == too_deep if depth == 190 else not any("deep" in problem for problem in problems)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)."),
        ("[]", "is not a pipeline definition: it has no list 'Steps'."),
        ('{"Steps": {}}', "is not a pipeline definition: it has no list 'Steps'."),
        ('{"Steps": [NaN]}', "is not JSON: NaN is no number."),
        ('{"Steps": [-Infinity]}', "is not JSON: -Infinity is no number."),
        ('{"Steps": [1e999]}', "is not JSON: a number is larger than 64 bits can hold."),
        ('{"Steps": [' + "9" * 5000 + "]}", "is not JSON: Exceeds the limit"),
        ('{"Steps": ["\\ud800"]}', "is not JSON: 'utf-8' codec can't encode character"),
        ('{"Steps": [{"a\\u0000": 1}]}', "is not JSON: 'a\\x00' holds a NUL character."),
    ],
)
def test_what_is_no_definition_is_refused_in_a_sentence(text, sentence):
    with pytest.raises(DefinitionError) as caught:
        load_definition(text)
    assert str(caught.value).startswith(sentence)


def network(count: int) -> Json:
    cluster = {"InstanceCount": count, "InstanceType": "ml.m5.large"}
    return {"NetworkConfig": {"EnableNetworkIsolation": True}, "ProcessingResources": {"ClusterConfig": cluster}}


@pytest.mark.parametrize(
    ("steps", "ignored"),
    [
        ([step("A", Message="x")], None),
        ([step("A", "Processing", **network(1))], "instance types"),
        ([step("A", "Processing", **network(2))], "instance types and network isolation of jobs with several hosts"),
        ([step("A", "Processing", **network(1)), step("B", "Training", InstanceCount=2)], "instance types"),
        ([step("A", "Model", EnableNetworkIsolation=True)], "network isolation of models"),
        ([step("A", "Transform", TransformResources={"InstanceCount": 2})], "instance counts of transform jobs"),
        ([step("A", "EndpointConfig", V=[{"InitialInstanceCount": 2}])], "instance counts of endpoints"),
        ([gate("A", 1, [step("B", "Training", RoleArn="r", VpcConfig={"a": 1})], [])], "VPCs and roles"),
    ],
)
def test_what_is_ignored_is_said_and_what_is_honoured_is_not(steps, ignored):
    sentence = not_honoured({"Steps": steps})
    assert sentence.endswith(f"ignored are {ignored}.") if ignored else sentence == ""
