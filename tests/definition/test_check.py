"""The checker: what the SDK wrote is sound; each mistake made in it is named; what cannot be read.

`cases/definition.json` is the output of SageMaker SDK 3.27 for a pipeline with every step type that we know.
`cases/problems.json` changes it, mostly in one place.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.definition.check import check
from pipeline.definition.steps import Definition, load_definition, read_graph
from pipeline.errors import DefinitionError
from tests.local.lab import compare, condition, fail, json_get

Json = dict[str, Any]
CASES = Path(__file__).parent / "cases"
PROBLEMS, UNREADABLE = (json.loads((CASES / f"{name}.json").read_text()) for name in ("problems", "unreadable"))


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
def test_a_change_is_reported_or_accepted(definition, case):
    for each in case.get("changes", [case]):
        change(definition, each)
    found = check(definition)
    assert len(found) == len(case["problems"]), found
    assert [part for part in case["problems"] if not any(part in problem for problem in found)] == [], found


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


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        *((case["text"], case["problem"]) for case in UNREADABLE),
        ('{"Steps": [' + "9" * 5000 + "]}", "is not JSON: Exceeds the limit"),
        ('{"Steps": [' + 2000 * '{"Arguments": {"IfSteps": [' + 2000 * "]}}" + "]}", "is nested too deeply: it may"),
    ],
)
def test_what_is_no_definition_is_refused_in_a_sentence(text, sentence):
    with pytest.raises(DefinitionError) as caught:
        load_definition(text)
    assert str(caught.value).startswith(sentence)


def nested(depth: int, wrap: Any, innermost: Any) -> Any:
    """Something within itself."""
    for _ in range(depth):
        innermost = wrap(innermost)
    return innermost


@pytest.mark.parametrize("depth", [50, 190])
def test_nested_expressions_and_conditions_are_read_or_refused_in_a_sentence(depth):
    equal = compare("Equals", 1, 1)
    join = nested(depth, lambda inner: {"Std:Join": {"On": "", "Values": [inner]}}, "x")
    negated = nested(depth, lambda inner: {"Type": "Not", "Condition": inner}, equal)
    either = nested(depth, lambda inner: {"Type": "Or", "Conditions": [inner]}, equal)
    problems = check({"Steps": [fail("A", join), condition("B", [negated, either])]})
    too_deep = [f"Step '{name}' is nested too deeply: it may have 200 levels." for name in "AB"]
    assert problems == too_deep if depth == 190 else not any("deep" in problem for problem in problems)


def test_a_step_waits_for_what_it_reads_for_its_dependencies_and_for_its_condition():
    name = {"Get": "Steps.Prep.ProcessingJobName"}
    gate = condition(
        "Gate", [compare("GreaterThan", json_get("Eval", "acc"), 1)], [fail("Yes", name)], [fail("No", "")]
    )
    train = fail("Train", {"Std:Join": {"On": "/", "Values": [name]}})
    train["DependsOn"] = [{"Step": "Other", "Trigger": "Failed"}, "Third"]
    third = fail("Third", "") | {"DependsOn": ["Prep", "Prep"]}
    steps = [gate, train, third, *(fail(name, "") for name in ("Prep", "Other", "Eval"))]
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
