"""The checker of definitions, which `validate`, `run --definition` and the compiler share: every problem at once.

form       what no reader of the definition could make sense of: names, expressions, references, circles
service    what SageMaker would refuse beside that: requests, properties and limits, by its service model

A run needs the form. What SageMaker would refuse does not stop one: the installed model may be older than it.

The format around the requests (version 2020-12-01) is in botocore's model language in `format.json`. It is published
only in prose, as a JSON schema that refuses the SDK's own output, and in what the SDK emits; the limits are those of
all three. `document` stands for any JSON.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.definition.expressions import condition_problems, readable, type_problems
from pipeline.definition.paths import kind_of, listing, quoted
from pipeline.definition.references import (
    branch_problems,
    dependency_problems,
    metric_definitions,
    parameter_of,
    property_problems,
    reference_problems,
    type_of,
)
from pipeline.definition.schemas import annotated, differences, operation, schema_of
from pipeline.definition.step_types import STEP_TYPES
from pipeline.definition.steps import Definition, Step, at, items, objects
from pipeline.suggestion import did_you_mean

TRIGGERS = ("Completed", "Failed", "Stopped", "Any")
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_STEPS = 50  # those of branches included
MAX_CHARACTERS = 1_048_576  # PipelineDefinition of CreatePipeline
TAKE_EXPRESSIONS = ("FunctionArn", "SqsQueueUrl")  # members of a step beside its Arguments
FORMAT: dict[str, Any] = json.loads((Path(__file__).parent / "format.json").read_text())
Differences = Iterator[tuple[str, str]]  # keyword of JSON Schema, sentence


def check(content: Any, *, service: bool = True) -> list[str]:
    """Return every problem: of the form, and those that SageMaker would find beside it (service)."""
    if not isinstance(content, dict):
        return [f"A definition must be an object, but got {quoted(content)}."]
    definition = Definition(content)
    if definition.too_deep:
        return definition.too_deep
    problems = [
        *definition.malformed,
        *duplicates("parameters", definition.all_parameters, "Name"),
        *duplicates("steps", [step.definition for step in definition.all_steps], "Name"),
        *experiment_problems(definition),
        *(service_problems(definition) if service else ()),
    ]
    for step in definition.all_steps:
        found = [*form_problems(definition, step)]
        found += request_problems(definition, step) if service else ()
        problems += [f"Step '{step.name}'{problem}" for problem in found]
    return list(dict.fromkeys([*problems, *definition.cycles()]))


def duplicates(noun: str, found: Iterable[Mapping[str, Any]], name: str) -> Iterator[str]:
    """Yield the names that several things have."""
    for text, count in Counter(each[name] for each in found if isinstance(each.get(name), str)).items():
        if count > 1:
            yield f"{count} {noun} are named '{text}'."


# the form. Faults of steps begin behind the step's name


def experiment_problems(definition: Definition) -> Iterator[str]:
    """Yield what PipelineExperimentConfig refers to that does not exist, or has no value before any step has run."""
    config = "PipelineExperimentConfig"
    experiment = definition.content.get(config)
    if not isinstance(experiment, dict | None):
        yield f"{config} must be an object, but got {quoted(experiment)}."
        return
    fields = list((experiment or {}).values())
    yield from (f"{config} {problem}" for problem in reference_problems(definition, fields))
    for reference in readable(fields):
        if reference.root in ("Steps", config):
            yield f"{config} reads {reference.text}, which has no value before the first step."


def form_problems(definition: Definition, step: Step) -> Iterator[str]:
    """Yield what is wrong with a step, whoever reads the definition."""
    name, arguments = step.definition.get("Name"), step.definition.get("Arguments", {})
    if step.type not in STEP_TYPES:
        yield f" has the type '{step.type}', which no step has.{did_you_mean(step.type, STEP_TYPES)}"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        yield f": Name must be 1 to 64 letters, digits, dashes and underscores, but got {quoted(name)}."
    if not isinstance(arguments, dict):
        yield f": Arguments must be an object, but got {quoted(arguments)}."
    for number, (other, trigger) in enumerate(step.triggers):
        where = f"DependsOn[{number}]"
        if not isinstance(other, str):
            yield f": {where} must be a step's name or an object with Step and Trigger, but names {quoted(other)}."
        elif trigger not in TRIGGERS:
            near = did_you_mean(str(trigger), TRIGGERS)
            yield f": {where}.Trigger must be one of {listing(TRIGGERS)}, but got {quoted(trigger)}.{near}"
    if step.type == "Condition":
        conditions = step.arguments.get("Conditions")
        if not isinstance(conditions, list):
            yield f": Conditions must be a list, but got {kind_of(conditions)}."
        for condition in conditions if isinstance(conditions, list) else ():
            yield from (f": {problem}" for problem in condition_problems(condition))
    yield from (f": {problem}" for problem in property_file_problems(step))
    yield from (f" {problem}" for problem in reference_problems(definition, step.own))
    yield from (f" {problem}" for problem in dependency_problems(definition, step))


def property_file_problems(step: Step) -> Iterator[str]:
    """Yield what is wrong with property files: each is in one of the step's outputs, and has a name of its own."""
    files = step.objects("PropertyFiles")
    yield from duplicates("property files", files, "PropertyFileName")
    outputs = [str(at(output, "OutputName")) for output in items(step.arguments, "ProcessingOutputConfig.Outputs")]
    for file in files:
        name, output = str(file.get("PropertyFileName")), str(file.get("OutputName"))
        if output not in outputs:
            has, hint = listing(outputs) if outputs else "none", did_you_mean(output, outputs)
            yield f"property file '{name}' is in output '{output}', but the step's outputs are {has}.{hint}"


# what SageMaker would refuse


def with_expressions(definition: Definition, value: Any) -> Any:
    """Return a value whose expressions are compared by their types."""
    return annotated(value, partial(type_of, definition), partial(parameter_of, definition))


def format_differences(value: Any, shape: str, words: str, changed: Mapping[str, Any] | None = None) -> Differences:
    """Yield where a part of a definition differs from a shape of the format; sentences call it a `words`."""
    owner = f"{'an' if words[0] in 'AEIOU' else 'a'} {words}"
    return differences(value, schema_of(shape, {**FORMAT, **(changed or {})}, {}), owner)


def service_problems(definition: Definition) -> Iterator[str]:
    """Yield what is wrong around the steps."""
    content = definition.content
    experiment = with_expressions(definition, content.get("PipelineExperimentConfig"))
    whole = {**content, "PipelineExperimentConfig": experiment}
    yield from (f"The definition: {text}" for _, text in format_differences(whole, "Definition", "definition"))
    characters = len(json.dumps(content))
    if characters > MAX_CHARACTERS:
        yield f"The definition has {characters} characters, but CreatePipeline takes at most {MAX_CHARACTERS}."
    if len(definition.all_steps) > MAX_STEPS:
        yield f"The definition has {len(definition.all_steps)} steps, but a pipeline has at most {MAX_STEPS}."
    for parameter in definition.all_parameters:
        shape = f"{parameter.get('Type')}Parameter"
        accepted = [value for value in items(parameter, "EnumValues") if isinstance(value, str)]
        default = {**FORMAT["StringDefault"], **({"enum": accepted} if accepted else {})}
        name, changed = shape if shape in FORMAT else "Parameter", {"StringDefault": default}
        for _, text in format_differences(parameter, name, f"{parameter.get('Type')} parameter", changed):
            yield f"Parameter '{parameter.get('Name')}': {text}"


def request_problems(definition: Definition, step: Step) -> Iterator[str]:
    """Yield what is wrong with a step whose form is right, as far as it is."""
    problems = [text for _, text in (*member_differences(definition, step), *argument_differences(definition, step))]
    for index, policy in enumerate(step.objects("RetryPolicies")):
        ends = [name for name in ("MaxAttempts", "ExpireAfterMin") if policy.get(name) is not None]
        if len(ends) != 1:
            has = "both" if ends else "neither"
            problems.append(f"RetryPolicies[{index}] must have either MaxAttempts or ExpireAfterMin, but has {has}.")
    problems += objective_problems(step) if step.type == "Tuning" else ()
    for condition in objects(step.arguments.get("Conditions")) if step.type == "Condition" else ():
        if not any(condition_problems(condition)):
            problems += type_problems(condition, partial(type_of, definition))
    yield from (f": {problem}" for problem in problems)
    yield from (f" {problem}" for problem in branch_problems(definition, step))
    yield from (f" {problem}" for problem in property_problems(definition, step))


def member_differences(definition: Definition, step: Step, shape: str = "") -> Differences:
    """Compare the members of a step with a shape of the format; ExceptionType may be one text instead of a list."""
    members = dict(step.definition)
    members |= {key: with_expressions(definition, members[key]) for key in TAKE_EXPRESSIONS if key in members}
    if isinstance(policies := members.get("RetryPolicies"), list):
        members["RetryPolicies"] = [
            {**policy, "ExceptionType": [policy["ExceptionType"]]}
            if isinstance(policy, dict) and isinstance(policy.get("ExceptionType"), str)
            else policy
            for policy in policies
        ]
    name = shape or f"{step.type}Step"
    if name in FORMAT:
        yield from format_differences(members, name, f"{step.type} step")


def argument_differences(definition: Definition, step: Step) -> Differences:
    """Compare the Arguments with the request that they become, or with what a step without a request takes."""
    arguments, step_type = step.definition.get("Arguments"), STEP_TYPES.get(step.type)
    if arguments is None or step_type is None:
        return
    if step_type.creates:
        schema = operation(step_type.creates, "input")
        required = [name for name in schema["required"] if name != step_type.name_member]
        value = with_expressions(definition, arguments)
        yield from differences(value, {**schema, "required": required}, step_type.creates)
    elif f"{step.type}Arguments" in FORMAT:
        value = arguments if step.type == "Condition" else with_expressions(definition, arguments)
        yield from format_differences(value, f"{step.type}Arguments", f"{step.type} step")


def objective_problems(step: Step) -> Iterator[str]:
    """Yield a sentence if a tuning job's objective is none of the metrics that its training jobs define."""
    name = at(step.arguments, "HyperParameterTuningJobConfig.HyperParameterTuningJobObjective.MetricName")
    defined = metric_definitions(step.arguments.get("TrainingJobDefinition"))
    metrics = [str(metric.get("Name")) for metric in objects(defined)]
    if defined and isinstance(name, str) and name not in metrics:
        hint = did_you_mean(name, metrics)
        yield f"the objective is the metric '{name}', but MetricDefinitions has {listing(metrics)}.{hint}"
