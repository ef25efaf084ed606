"""The checker of definitions, which `validate` and `run --definition` share: every problem at once, a sentence each.

form       what no reader of the definition could make sense of: names, expressions, references, circles
service    what SageMaker would refuse beside that: requests, properties and limits, by its service model
local      what this machine lacks: the step types and programs that do not run here, requests that cannot be read

A run needs form and local. What SageMaker would refuse does not stop one: the installed model may be older than it.

The format around the requests (version 2020-12-01) is in botocore's model language in `format.json`. It is published
only in prose, as a JSON schema that refuses the SDK's own output, and in what the SDK emits; the limits are those of
all three. `document` stands for any JSON.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.definition.expressions import condition_faults, readable, type_faults
from pipeline.definition.paths import kind_of, listing, quoted
from pipeline.definition.properties import (
    dependency_faults,
    metric_definitions,
    parameter_of,
    property_faults,
    reading_faults,
    type_of,
    visibility_faults,
)
from pipeline.definition.runnable import lacking, path_faults
from pipeline.definition.shapes import UNKNOWN, Shape, ShapeCheck, converted, operation
from pipeline.definition.step_types import STEP_TYPES
from pipeline.definition.steps import Definition, Step, at, items, objects
from pipeline.suggestion import did_you_mean

TRIGGERS = ("Completed", "Failed", "Stopped", "Any")
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_STEPS = 50  # those of branches included
MAX_CHARACTERS = 1_048_576  # PipelineDefinition of CreatePipeline
EXPRESSION_SHAPES = frozenset(("ExperimentText", "FunctionArn", "SqsQueueUrl"))  # outside Arguments
FORMAT: dict[str, Any] = json.loads((Path(__file__).parent / "format.json").read_text())


def check(content: Any, *, service: bool = True, local: bool = False) -> list[str]:
    """Return all problems: of the form, those that SageMaker would find (service), what cannot run here (local)."""
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
        faults = [*form_faults(definition, step)]
        faults += service_faults(definition, step) if service else ()
        faults += local_faults(definition, step) if local else ()
        problems += [f"Step '{step.name}'{fault}" for fault in faults]
    return list(dict.fromkeys([*problems, *definition.cycles()]))


def unknown_members(content: Mapping[str, Any]) -> str:
    """Name in a sentence what neither SageMaker nor the local target knows; empty when there is no such member.

    It is misspelt, or newer than the installed botocore.
    """
    found = [problem for problem in check(content) if UNKNOWN in problem]
    said = "Ignored, and refused by SageMaker unless it is newer than botocore here:"
    return " ".join([said, *found[:3]]) if found else ""


def duplicates(noun: str, found: Iterable[Mapping[str, Any]], name: str) -> Iterator[str]:
    """The names that several things have."""
    for text, count in Counter(each[name] for each in found if isinstance(each.get(name), str)).items():
        if count > 1:
            yield f"{count} {noun} are named '{text}'."


# the form. Faults of steps begin behind the step's name


def experiment_problems(definition: Definition) -> Iterator[str]:
    """What PipelineExperimentConfig refers to that does not exist, or has no value before any step has run."""
    config = "PipelineExperimentConfig"
    experiment = definition.content.get(config)
    if not isinstance(experiment, dict | None):
        yield f"{config} must be an object, but got {quoted(experiment)}."
        return
    fields = list((experiment or {}).values())
    yield from (f"{config} {fault}" for fault in reading_faults(definition, fields))
    for reference in readable(fields):
        if reference.root in ("Steps", config):
            yield f"{config} reads {reference.text}, which has no value before the first step."


def form_faults(definition: Definition, step: Step) -> Iterator[str]:
    """What is wrong with a step, whoever reads the definition."""
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
            yield from (f": {fault}" for fault in condition_faults(condition))
    yield from (f": {fault}" for fault in property_file_faults(step))
    yield from (f" {fault}" for fault in reading_faults(definition, step.own))
    yield from (f" {fault}" for fault in dependency_faults(definition, step))


def property_file_faults(step: Step) -> Iterator[str]:
    """What is wrong with property files: each is in one of the step's outputs, and has a name of its own."""
    files = step.objects("PropertyFiles")
    yield from duplicates("property files", files, "PropertyFileName")
    outputs = [str(at(output, "OutputName")) for output in items(step.arguments, "ProcessingOutputConfig.Outputs")]
    for file in files:
        name, output = str(file.get("PropertyFileName")), str(file.get("OutputName"))
        if output not in outputs:
            has, hint = listing(outputs) if outputs else "none", did_you_mean(output, outputs)
            yield f"property file '{name}' is in output '{output}', but the step's outputs are {has}.{hint}"


# what SageMaker would refuse


def comparison(definition: Definition, owner: str, **options: Any) -> ShapeCheck:
    """A comparison of a part of the definition; sentences call the whole `owner`."""
    return ShapeCheck(owner, partial(type_of, definition), partial(parameter_of, definition), **options)


def format_check(definition: Definition, words: str) -> ShapeCheck:
    """A comparison of what a definition says outside of Arguments, nearly all of it without expressions."""
    owner = f"{'an' if words[0] in 'AEIOU' else 'a'} {words}"
    return comparison(definition, owner, expression_shapes=EXPRESSION_SHAPES)


def parameter_shape(parameter: Mapping[str, Any]) -> Shape:
    """What a parameter's declaration must be, by its Type; the default of a text is one of its EnumValues."""
    name = f"{parameter.get('Type')}Parameter"
    accepted = [value for value in items(parameter, "EnumValues") if isinstance(value, str)]
    default = {**FORMAT["StringDefault"], **({"enum": accepted} if accepted else {})}
    return Shape(name if name in FORMAT else "Parameter", {**FORMAT, "StringDefault": default})


def service_problems(definition: Definition) -> Iterator[str]:
    """What is wrong around the steps."""
    for fault in format_check(definition, "definition").problems(definition.content, Shape("Definition", FORMAT)):
        yield f"The definition: {fault}"
    characters = len(json.dumps(definition.content))
    if characters > MAX_CHARACTERS:
        yield f"The definition has {characters} characters, but CreatePipeline takes at most {MAX_CHARACTERS}."
    if len(definition.all_steps) > MAX_STEPS:
        yield f"The definition has {len(definition.all_steps)} steps, but a pipeline has at most {MAX_STEPS}."
    for parameter in definition.all_parameters:
        declared = format_check(definition, f"{parameter.get('Type')} parameter")
        for fault in declared.problems(parameter, parameter_shape(parameter)):
            yield f"Parameter '{parameter.get('Name')}': {fault}"


def service_faults(definition: Definition, step: Step) -> Iterator[str]:
    """What is wrong with a step whose form is right, as far as it is."""
    faults = [*member_faults(definition, step, f"{step.type}Step"), *argument_faults(definition, step)]
    for index, policy in enumerate(step.objects("RetryPolicies")):
        ends = [name for name in ("MaxAttempts", "ExpireAfterMin") if policy.get(name) is not None]
        if len(ends) != 1:
            has = "both" if ends else "neither"
            faults.append(f"RetryPolicies[{index}] must have either MaxAttempts or ExpireAfterMin, but has {has}.")
    faults += objective_faults(step) if step.type == "Tuning" else ()
    for condition in objects(step.arguments.get("Conditions")) if step.type == "Condition" else ():
        if not any(condition_faults(condition)):
            faults += type_faults(condition, partial(type_of, definition))
    yield from (f": {fault}" for fault in faults)
    yield from (f" {fault}" for fault in (*visibility_faults(definition, step), *property_faults(definition, step)))


def member_faults(definition: Definition, step: Step, shape: str) -> Iterator[str]:
    """The members of a step, compared with a shape of the format; ExceptionType may be one text instead of a list."""
    members = dict(step.definition)
    if isinstance(policies := members.get("RetryPolicies"), list):
        members["RetryPolicies"] = [
            {**policy, "ExceptionType": [policy["ExceptionType"]]}
            if isinstance(policy, dict) and isinstance(policy.get("ExceptionType"), str)
            else policy
            for policy in policies
        ]
    if shape in FORMAT:
        yield from format_check(definition, f"{step.type} step").problems(members, Shape(shape, FORMAT))


def argument_faults(definition: Definition, step: Step) -> Iterator[str]:
    """The Arguments, compared with the request that they become, or with what a step without a request takes."""
    arguments, step_type = step.definition.get("Arguments"), STEP_TYPES.get(step.type)
    if arguments is None or step_type is None:
        return
    if step_type.creates:
        request = comparison(definition, step_type.creates, filled_in=step_type.name_member)
        yield from request.problems(arguments, operation(step_type.creates, "input"))
    elif f"{step.type}Arguments" in FORMAT:
        shapes = EXPRESSION_SHAPES if step.type == "Condition" else None
        own_format = replace(format_check(definition, f"{step.type} step"), expression_shapes=shapes)
        yield from own_format.problems(arguments, Shape(f"{step.type}Arguments", FORMAT))


def objective_faults(step: Step) -> Iterator[str]:
    """A tuning job's objective is one of the metrics that its training jobs define."""
    name = at(step.arguments, "HyperParameterTuningJobConfig.HyperParameterTuningJobObjective.MetricName")
    defined = metric_definitions(step.arguments.get("TrainingJobDefinition"))
    metrics = [str(metric.get("Name")) for metric in objects(defined)]
    if defined and isinstance(name, str) and name not in metrics:
        hint = did_you_mean(name, metrics)
        yield f"the objective is the metric '{name}', but MetricDefinitions has {listing(metrics)}.{hint}"


# what cannot run here


def local_faults(definition: Definition, step: Step) -> Iterator[str]:
    """What this machine cannot do for a step, or cannot read."""
    step_type = STEP_TYPES.get(step.type)
    if step_type is None:
        return
    if step_type.refusal:
        yield f" is a step of type {step.type}, which does not run locally: {step_type.refusal}."
        return
    shapes = (f"{step.type}Step", "AnyStep")  # a run reads CacheConfig and RetryPolicies of whatever step has them
    found = [fault for shape in shapes for fault in member_faults(definition, step, shape)]
    wrong = [fault for fault in found if UNKNOWN not in fault]
    if step_type.creates:
        unreadable: list[str] = []
        converted(step.arguments, operation(step_type.creates, "input"), unreadable)
        is_asked = not step_type.job_kind and not unreadable  # of the API, which holds it to the service's model
        wrong += argument_faults(definition, step) if is_asked else unreadable
    yield from (f": {fault}" for fault in wrong)
    faults = [*path_faults(step), *lacking(step.arguments, step_type.needs)]
    if step_type.rule and not wrong:
        faults += step_type.rule(step.arguments)
    yield from (f" {fault}" for fault in faults)
