"""What SageMaker would refuse of a definition: requests compared with its service model, members and limits.

The format around the requests (version 2020-12-01) is in botocore's model language in `format.json`. It is published
only in prose, as a JSON schema that refuses the SDK's own output, and in what the SDK emits; the limits are those of
all three. `document` stands for any JSON.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from pipeline.definition.conditions import condition_faults, type_faults
from pipeline.definition.paths import listing
from pipeline.definition.properties import (
    TYPES,
    default_of,
    metric_definitions,
    property_faults,
    type_of,
    visibility_faults,
)
from pipeline.definition.shapes import Shape, ShapeCheck, operation
from pipeline.definition.step_types import STEP_TYPES
from pipeline.definition.steps import Definition, Step, objects
from pipeline.suggestion import did_you_mean

REQUIRED_MEMBERS = ("FunctionArn", "SqsQueueUrl")
STEP_ERRORS = ["Step.SERVICE_FAULT", "Step.THROTTLING"]
JOB_ERRORS = ["SageMaker.JOB_INTERNAL_ERROR", "SageMaker.CAPACITY_ERROR", "SageMaker.RESOURCE_LIMIT"]
MAX_STEPS = 50  # those of branches included
MAX_CHARACTERS = 1_048_576  # PipelineDefinition of CreatePipeline
EXPRESSION_SHAPES = frozenset(("ExperimentText", "FunctionArn", "SqsQueueUrl"))  # outside Arguments
FORMAT: dict[str, Any] = json.loads((Path(__file__).parent / "format.json").read_text())


def comparison(definition: Definition, owner: str, **options: Any) -> ShapeCheck:
    """A comparison of a part of the definition; sentences call the whole `owner`."""
    return ShapeCheck(owner, partial(type_of, definition), partial(default_of, definition), **options)


def format_check(definition: Definition, words: str) -> ShapeCheck:
    """A comparison of what a definition says outside of Arguments, nearly all of it without expressions."""
    owner = f"{'an' if words[0] in 'AEIOU' else 'a'} {words}"
    return comparison(definition, owner, expression_shapes=EXPRESSION_SHAPES)


def parameter_shape(parameter: Mapping[str, Any]) -> Shape:
    """What a parameter's declaration must be, by its Type; EnumValues, if any, go with strings only."""
    parameter_type, listed = str(parameter.get("Type")), parameter.get("EnumValues")
    default: dict[str, Any] = {"type": TYPES[parameter_type]} if parameter_type in TYPES else FORMAT["Any"]
    members = dict(FORMAT["Parameter"]["members"])
    if parameter_type == "String":
        default["max"] = 4096
        if accepted := [value for value in listed if isinstance(value, str)] if isinstance(listed, list) else []:
            default["enum"] = accepted
    elif parameter_type in TYPES:
        del members["EnumValues"]
    return Shape("Parameter", {**FORMAT, "Default": default, "Parameter": {**FORMAT["Parameter"], "members": members}})


@cache
def step_shape(step_type: str) -> Shape:
    """A step of the type, its Arguments open."""
    own = STEP_TYPES[step_type].members or ()
    members = {"Name": "IdentifierName", "Type": "Text", "Arguments": "Any", "DependsOn": "Anything"}
    members |= {name: name for name in ("DisplayName", "Description", *own)}
    required = ["Name", "Type", "Arguments", *(name for name in own if name in REQUIRED_MEMBERS)]
    step = {"type": "structure", "required": required, "members": members}
    errors = {"type": "string", "enum": STEP_ERRORS + (JOB_ERRORS if STEP_TYPES[step_type].job_kind else [])}
    return Shape("Step", {**FORMAT, "Step": step, "ExceptionType": errors})


def definition_problems(definition: Definition) -> Iterator[str]:
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


def step_problems(definition: Definition, step: Step) -> Iterator[str]:
    """What is wrong with a step whose form is right, as far as it is."""
    faults = [*member_faults(definition, step), *argument_faults(definition, step)]
    for index, policy in enumerate(step.objects("RetryPolicies")):
        ends = [name for name in ("MaxAttempts", "ExpireAfterMin") if policy.get(name) is not None]
        if len(ends) != 1:
            has = "both" if ends else "neither"
            faults.append(f"RetryPolicies[{index}] must have either MaxAttempts or ExpireAfterMin, but has {has}.")
    faults += objective_faults(step)
    for condition in objects(step.arguments.get("Conditions")) if step.type == "Condition" else ():
        if not any(condition_faults(condition)):
            faults += type_faults(condition, partial(type_of, definition))
    yield from (f"Step '{step.name}': {fault}" for fault in faults)
    for fault in (*visibility_faults(definition, step), *property_faults(definition, step)):
        yield f"Step '{step.name}' {fault}"


def member_faults(definition: Definition, step: Step) -> Iterator[str]:
    """The members that every step of its type has; ExceptionType may be one text instead of a list."""
    if step.type in STEP_TYPES and STEP_TYPES[step.type].members is not None:
        members, policies = dict(step.definition), step.definition.get("RetryPolicies")
        if isinstance(policies, list):
            members["RetryPolicies"] = [
                {**policy, "ExceptionType": [policy["ExceptionType"]]}
                if isinstance(policy, dict) and isinstance(policy.get("ExceptionType"), str)
                else policy
                for policy in policies
            ]
        yield from format_check(definition, f"{step.type} step").problems(members, step_shape(step.type))


def argument_faults(definition: Definition, step: Step) -> Iterator[str]:
    """The Arguments, compared with the request that they become, or with what a step without a request takes."""
    arguments, step_type = step.definition.get("Arguments"), STEP_TYPES.get(step.type)
    if arguments is None or step_type is None:
        return
    if step_type.creates:
        request = comparison(definition, step_type.creates, filled_in=step_type.name_member)
        yield from request.problems(arguments, operation(step_type.creates, "input"))
    else:
        shapes = EXPRESSION_SHAPES if step.type == "Condition" else None
        own_format = replace(format_check(definition, f"{step.type} step"), expression_shapes=shapes)
        yield from own_format.problems(arguments, Shape(step_type.arguments, FORMAT))


def objective_faults(step: Step) -> Iterator[str]:
    """A tuning job's objective is one of the metrics that its training jobs define."""
    config, job = (step.arguments.get(name) for name in ("HyperParameterTuningJobConfig", "TrainingJobDefinition"))
    if step.type != "Tuning" or not isinstance(config, dict) or not isinstance(job, dict):
        return
    objective, defined = config.get("HyperParameterTuningJobObjective"), metric_definitions(job)
    if isinstance(objective, dict) and isinstance(name := objective.get("MetricName"), str) and defined:
        metrics = [str(metric.get("Name")) for metric in objects(defined)]
        if name not in metrics:
            hint = did_you_mean(name, metrics)
            yield f"the objective is the metric '{name}', but MetricDefinitions has {listing(metrics)}.{hint}"
