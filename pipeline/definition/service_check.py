"""What SageMaker would refuse of a definition: requests compared with its service model, and limits."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from pipeline.definition.conditions import condition_faults, type_faults
from pipeline.definition.paths import listing
from pipeline.definition.properties import default_of, metric_definitions, property_faults, type_of, visibility_faults
from pipeline.definition.service_model import operation
from pipeline.definition.shape_check import ShapeCheck
from pipeline.definition.shapes import (
    EXPRESSION_SHAPES,
    MAX_CHARACTERS,
    MAX_STEPS,
    format_shape,
    parameter_shape,
    step_shape,
)
from pipeline.definition.step_types import STEP_TYPES
from pipeline.definition.steps import Definition, Step, objects
from pipeline.suggestion import did_you_mean


def comparison(definition: Definition, owner: str, **options: Any) -> ShapeCheck:
    """A comparison in which an expression stands for a value of its type."""
    return ShapeCheck(owner, partial(type_of, definition), partial(default_of, definition), **options)


def format_check(definition: Definition, words: str) -> ShapeCheck:
    """A comparison of what a definition says outside of Arguments, nearly all of it without expressions."""
    owner = f"{'an' if words[0] in 'AEIOU' else 'a'} {words}"
    return comparison(definition, owner, expression_shapes=EXPRESSION_SHAPES)


def definition_problems(definition: Definition) -> Iterator[str]:
    """What is wrong around the steps."""
    for fault in format_check(definition, "definition").problems(definition.content, format_shape("Definition")):
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
    faults = [*member_faults(definition, step), *argument_faults(definition, step), *retry_faults(step)]
    faults += objective_faults(step)
    for condition in objects(step.arguments.get("Conditions")) if step.type == "Condition" else ():
        if not any(condition_faults(condition)):
            faults += type_faults(condition, partial(type_of, definition))
    yield from (f"Step '{step.name}': {fault}" for fault in faults)
    yield from (f"Step '{step.name}' {fault}" for fault in visibility_faults(definition, step))
    yield from (f"Step '{step.name}' {fault}" for fault in property_faults(definition, step))


def member_faults(definition: Definition, step: Step) -> Iterator[str]:
    """The members that every step of its type has; ExceptionType may be one text instead of a list."""
    if step.type in STEP_TYPES and STEP_TYPES[step.type].members is not None:
        members, policies = dict(step.definition), step.definition.get("RetryPolicies")
        if isinstance(policies, list):
            members["RetryPolicies"] = [with_list_of_errors(policy) for policy in policies]
        yield from format_check(definition, f"{step.type} step").problems(members, step_shape(step.type))


def with_list_of_errors(policy: Any) -> Any:
    """A retry policy whose ExceptionType is a list."""
    is_text = isinstance(policy, dict) and isinstance(policy.get("ExceptionType"), str)
    return {**policy, "ExceptionType": [policy["ExceptionType"]]} if is_text else policy


def argument_faults(definition: Definition, step: Step) -> Iterator[str]:
    """The Arguments, compared with the request that they become."""
    arguments, step_type = step.definition.get("Arguments"), STEP_TYPES.get(step.type)
    if step_type and step_type.creates and arguments is not None:
        request = comparison(definition, step_type.creates, filled_in=step_type.name_member)
        yield from request.problems(arguments, operation(step_type.creates, "input"))
    elif step_type and arguments is not None:
        format_or_event = format_check(definition, f"{step.type} step")
        if step.type != "Condition":
            format_or_event = replace(format_or_event, expression_shapes=None)
        yield from format_or_event.problems(arguments, format_shape(step_type.arguments))


def retry_faults(step: Step) -> Iterator[str]:
    """A policy ends after a number of attempts or after a time, not both."""
    for index, policy in enumerate(step.objects("RetryPolicies")):
        ends = [name for name in ("MaxAttempts", "ExpireAfterMin") if policy.get(name) is not None]
        if len(ends) != 1:
            has = "both" if ends else "neither"
            yield f"RetryPolicies[{index}] must have either MaxAttempts or ExpireAfterMin, but has {has}."


def objective_faults(step: Step) -> Iterator[str]:
    """A tuning job's objective is one of the metrics that its training jobs define."""
    config, job = (step.arguments.get(name) for name in ("HyperParameterTuningJobConfig", "TrainingJobDefinition"))
    if step.type != "Tuning" or not isinstance(config, dict) or not isinstance(job, dict):
        return
    objective = config.get("HyperParameterTuningJobObjective")
    defined = metric_definitions(job)
    if isinstance(objective, dict) and isinstance(objective.get("MetricName"), str) and defined:
        metrics = [str(metric.get("Name")) for metric in objects(defined)]
        name = objective["MetricName"]
        if name not in metrics:
            hint = did_you_mean(name, metrics)
            yield f"the objective is the metric '{name}', but MetricDefinitions has {listing(metrics)}.{hint}"
