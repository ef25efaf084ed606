"""The checker: what the SDK wrote is sound; each mistake made in it is named; what cannot be read, or not be run here.

`cases/definition.json` is the output of SageMaker SDK 3.27 for a pipeline with every step type that we know.
`cases/problems.json` changes it, mostly in one place; `cases/refusals.json` has what a run here refuses.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.definition.check import check
from pipeline.definition.runnable import not_honoured
from pipeline.definition.steps import Definition, load_definition, read_graph
from pipeline.errors import DefinitionError
from tests.local.lab import compare, condition, fail, json_get

Json = dict[str, Any]
CASES = Path(__file__).parent / "cases"
PROBLEMS, REFUSALS = (json.loads((CASES / f"{name}.json").read_text()) for name in ("problems", "refusals"))


@pytest.fixture
def definition() -> Json:
    """A sound definition, to be changed at will."""
    found: Json = json.loads((CASES / "definition.json").read_text())
    return found


def change(definition: Json, case: Json) -> None:
    """Set, insert or remove the member that the case names."""
    target = Definition(definition).steps[case["step"]].definition if case["step"] else definition
    for key in case["at"][:-1]:
        target = target[key]
    if "set" in case:
        target[case["at"][-1]] = case["set"]
    elif "insert" in case:
        target.insert(case["at"][-1], case["insert"])
    else:
        del target[case["at"][-1]]


def case_name(case: Json) -> str:
    """What is changed, or the place that is changed and what is put there."""
    at = "" if "about" in case else f"{case['step'] or ''}.{'.'.join(map(str, case['at']))}"
    return str(case.get("about") or f"{at}={json.dumps(case.get('set', 'removed'))}"[:120])


@pytest.mark.parametrize("case", PROBLEMS, ids=case_name)
def test_a_change_is_reported_in_whole_sentences_or_accepted(definition, case):
    for each in case.get("changes", [case]):
        change(definition, each)
    assert sorted(check(definition)) == sorted(case["problems"])


@pytest.mark.parametrize("case", REFUSALS, ids=[case["about"] for case in REFUSALS])
def test_what_cannot_run_here_is_refused(case):
    problems = check({"Steps": case["steps"], **case.get("around", {})}, service=False, local=True)
    assert len(problems) == len(case["problems"]), problems
    for problem, part in zip(problems, case["problems"], strict=True):
        assert part in problem


def test_a_definition_has_at_most_50_steps_and_200_parameters_and_a_limited_size(definition):
    too_low = Definition(definition).steps["AccuracyTooLow"].definition
    definition["Steps"] += [{**copy.deepcopy(too_low), "Name": f"Fail{index}"} for index in range(45)]
    definition["Parameters"] += [{"Name": f"P{index}", "Type": "String"} for index in range(200)]
    definition["Metadata"] = {"note": "x" * 1_048_576}
    assert check(definition) == [
        "The definition: Parameters must have at most 200 entries, but has 206.",
        f"The definition has {len(json.dumps(definition))} characters, but CreatePipeline takes at most 1048576.",
        "The definition has 57 steps, but a pipeline has at most 50.",
    ]


@pytest.mark.parametrize(("value", "kind"), [([], "a list"), ("x", "'x'"), (None, "null"), (3, "3")])
def test_what_is_no_object_is_no_definition(value, kind):
    assert check(value) == [f"A definition must be an object, but got {kind}."]


@pytest.mark.parametrize("junk", [None, 3, "x", [], {}, [1], {"Get": "x"}, {"Std:Join": 1}], ids=json.dumps)
def test_no_junk_anywhere_stops_the_checks(definition, junk):
    for place in list(places(definition))[:: 7 if junk else 5]:
        changed = copy.deepcopy(definition)
        change(changed, {"step": None, "at": place, "set": junk})
        assert all(isinstance(problem, str) for problem in check(changed, local=True))


def places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    """The paths of all members, at any depth."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield (*path, key)
        yield from places(member, (*path, key))


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
        ('{"Steps": [' + 2000 * '{"Arguments": {"IfSteps": [' + 2000 * "]}}" + "]}", "is nested too deeply: it"),
    ],
)  # fmt: skip
def test_what_is_no_definition_is_refused_in_a_sentence(text, sentence):
    with pytest.raises(DefinitionError) as caught:
        load_definition(text)
    assert str(caught.value).startswith(sentence)


def nested(depth: int, wrap: Any, innermost: Any) -> Any:
    """Something within itself."""
    for number in range(depth):
        innermost = wrap(innermost, number)
    return innermost


def test_190_conditions_may_stand_in_each_other():
    gates = nested(190, lambda inner, n: condition(f"G{n}", [compare("Equals", 1, 1)], [inner]), fail("Last", "x"))
    content = load_definition(json.dumps({"Steps": [gates]}))
    assert check(content, service=False, local=True) == []
    assert len(read_graph(content).steps) == 191


@pytest.mark.parametrize("depth", [50, 190])
def test_nested_expressions_and_conditions_are_read_or_refused_in_a_sentence(depth):
    equal = compare("Equals", 1, 1)
    join = nested(depth, lambda inner, _: {"Std:Join": {"On": "", "Values": [inner]}}, "x")
    negated = nested(depth, lambda inner, _: {"Type": "Not", "Condition": inner}, equal)
    either = nested(depth, lambda inner, _: {"Type": "Or", "Conditions": [inner]}, equal)
    problems = check({"Steps": [fail("A", join), condition("B", [negated, either])]}, local=True)
    too_deep = [f"Step '{name}' is nested too deeply: it may have 200 levels." for name in "AB"]
    assert problems == too_deep if depth == 190 else not any("deep" in problem for problem in problems)


def step(name: str, step_type: str, **arguments: Any) -> Json:
    """Any step."""
    return {"Name": name, "Type": step_type, "Arguments": arguments}


def network(count: int) -> Json:
    """Arguments of an isolated job of so many hosts."""
    cluster = {"InstanceCount": count, "InstanceType": "ml.m5.large"}
    return {"NetworkConfig": {"EnableNetworkIsolation": True}, "ProcessingResources": {"ClusterConfig": cluster}}


@pytest.mark.parametrize(
    ("steps", "ignored"),
    [
        ([fail("A", "x")], None),
        ([step("A", "Processing", **network(1))], "instance types"),
        ([step("A", "Processing", **network(2))], "instance types and network isolation of jobs with several hosts"),
        ([step("A", "Processing", **network(1)), step("B", "Training", InstanceCount=2)], "instance types"),
        ([step("A", "Model", EnableNetworkIsolation=True)], "network isolation of models"),
        ([step("A", "Transform", TransformResources={"InstanceCount": 2})], "instance counts of transform jobs"),
        ([step("A", "EndpointConfig", V=[{"InitialInstanceCount": 2}])], "instance counts of endpoints"),
        ([condition("A", [], [step("B", "Training", RoleArn="r", VpcConfig={"a": 1})])], "VPCs and roles"),
    ],
)
def test_what_is_ignored_is_said_and_what_is_honoured_is_not(steps, ignored):
    sentence = not_honoured({"Steps": steps})
    assert sentence.endswith(f"ignored are {ignored}.") if ignored else sentence == ""


def test_a_step_waits_for_what_it_reads_for_its_dependencies_and_for_its_condition():
    name = {"Get": "Steps.Prep.ProcessingJobName"}
    gate = condition(
        "Gate", [compare("GreaterThan", json_get("Eval", "acc"), 1)], [fail("Yes", name)], [fail("No", "")]
    )
    steps = [
        gate,
        step("Train", "Training", Uri={"A": [{"Std:Join": {"On": "/", "Values": [name]}}]})
        | {"DependsOn": [{"Step": "Other", "Trigger": "Failed"}, "Third"]},
        step("Third", "Training") | {"DependsOn": ["Prep", "Prep"]},
        *(step(name, "Training") for name in ("Prep", "Other", "Eval")),
    ]
    graph = read_graph({"Steps": steps})
    dependencies = {name: set(each.dependencies) for name, each in graph.steps.items()}
    assert dependencies == {
        "Gate": {"Eval"},
        "Yes": {"Gate", "Prep"},
        "No": {"Gate"},
        "Train": {"Prep", "Other", "Third"},
        "Third": {"Prep"},
        **{name: set() for name in ("Prep", "Other", "Eval")},
    }
    order = list(graph.steps)
    assert all(order.index(before) < order.index(name) for name, waits in dependencies.items() for before in waits)
    assert graph.downstream(["Prep"]) == {"Prep", "Third", "Train", "Yes"}
