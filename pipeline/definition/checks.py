"""A compiled pipeline definition, checked without AWS: every problem at once, one sentence each.

definition -> its own format, its parameters                    definition_shapes
each step  -> its own members: names, cache, retries, files     definition_shapes
              its Arguments against the request they become     service_model, shape_check
              its references to parameters, steps, properties   step_references, step_properties
all steps  -> names given once, no circle, not too many
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from pipeline.definition.conditions import condition_faults
from pipeline.definition.operands import condition_operand_faults, join_faults
from pipeline.definition.paths import listing
from pipeline.definition.placed_step import PlacedStep, objects
from pipeline.definition.properties import metric_definitions
from pipeline.definition.references import Names
from pipeline.definition.service_model import STEP_MODELS, request_shape
from pipeline.definition.shape_check import ShapeCheck, quoted
from pipeline.definition.shapes import (
    ARGUMENTS,
    EXPRESSION_SHAPES,
    MAX_CHARACTERS,
    MAX_STEPS,
    STEP_MEMBERS,
    STEP_TYPES,
    arguments_shape,
    definition_shape,
    parameter_shape,
    step_shape,
)
from pipeline.suggestion import did_you_mean

TRIGGERS = ("Completed", "Failed", "Stopped", "Any")


def check(definition: dict[str, Any]) -> list[str]:
    """The problems of a definition; none when it is sound."""
    if not isinstance(definition, dict):
        return [f"A definition must be an object, but got {quoted(definition)}."]
    names = Names(definition)
    problems = [*definition_problems(definition, names)]
    for parameter in names.all_parameters:
        problems += parameter_problems(parameter, names)
    problems += experiment_problems(definition, names)
    for step in names.all_steps:
        problems += step_problems(step, names)
    problems += names.cycles()
    return list(dict.fromkeys(problems))


def request_check(owner: str, names: Names, *, filled_in: str | None = None) -> ShapeCheck:
    """A comparison in which an expression stands for a value of its type."""
    return ShapeCheck(owner, type_of=names.type_of, default_of=names.default_of, filled_in=filled_in)


def format_check(owner: str, names: Names) -> ShapeCheck:
    """A comparison of what a definition says outside of Arguments, nearly all of it without expressions."""
    return replace(request_check(owner, names), expression_shapes=EXPRESSION_SHAPES)


def definition_problems(definition: dict[str, Any], names: Names) -> Iterator[str]:
    """What is wrong with the definition around parameters and steps."""
    for fault in format_check("a definition", names).problems(definition, definition_shape()):
        yield f"The definition: {fault}"
    characters = len(json.dumps(definition))
    if characters > MAX_CHARACTERS:
        yield f"The definition has {characters} characters, but CreatePipeline takes at most {MAX_CHARACTERS}."
    if len(names.all_steps) > MAX_STEPS:
        yield f"The definition has {len(names.all_steps)} steps, but a pipeline has at most {MAX_STEPS}."
    yield from duplicates("parameters", [parameter.get("Name") for parameter in names.all_parameters])
    yield from duplicates("steps", [step.definition.get("Name") for step in names.all_steps])


def duplicates(noun: str, found: Iterable[Any]) -> Iterator[str]:
    """Names that are given to several things."""
    for name, count in Counter(name for name in found if isinstance(name, str)).items():
        if count > 1:
            yield f"{count} {noun} are named '{name}'."


def parameter_problems(parameter: dict[str, Any], names: Names) -> Iterator[str]:
    """What is wrong with a parameter's declaration."""
    parameter_type = str(parameter.get("Type"))
    listed = parameter.get("EnumValues")
    accepted = [value for value in listed if isinstance(value, str)] if isinstance(listed, list) else []
    shape = parameter_shape(parameter_type, accepted)
    for fault in format_check(with_article(f"{parameter_type} parameter"), names).problems(parameter, shape):
        yield f"Parameter '{parameter.get('Name')}': {fault}"


def experiment_problems(definition: dict[str, Any], names: Names) -> Iterator[str]:
    """What PipelineExperimentConfig refers to in vain."""
    experiment = PlacedStep("PipelineExperimentConfig", "", {"Arguments": definition.get("PipelineExperimentConfig")})
    yield from (f"PipelineExperimentConfig {fault}" for fault in names.faults(experiment))


def step_problems(step: PlacedStep, names: Names) -> Iterator[str]:
    """What is wrong with a step, each sentence beginning with its name."""
    if step.type not in STEP_TYPES:
        hint = did_you_mean(step.type, STEP_TYPES)
        yield f"Step '{step.name}' has the type '{step.type}', which no step has.{hint}"
    faults = [*member_faults(step, names), *argument_faults(step, names), *dependency_faults(step)]
    faults += [*condition_step_faults(step, names), *retry_faults(step), *property_file_faults(step)]
    faults += objective_faults(step)
    faults += [fault for expression in step.expressions() for fault in join_faults(expression)]
    yield from (f"Step '{step.name}': {fault}" for fault in faults)
    yield from (f"Step '{step.name}' {fault}" for fault in names.faults(step))


def member_faults(step: PlacedStep, names: Names) -> Iterator[str]:
    """The members that every step of its type has; ExceptionType may be one text instead of a list."""
    if step.type not in STEP_MEMBERS:
        return
    policies = step.definition.get("RetryPolicies")
    definition = dict(step.definition)
    if isinstance(policies, list):
        definition["RetryPolicies"] = [with_list_of_errors(policy) for policy in policies]
    yield from format_check(with_article(f"{step.type} step"), names).problems(definition, step_shape(step.type))


def with_list_of_errors(policy: Any) -> Any:
    """A retry policy whose ExceptionType is a list."""
    is_text = isinstance(policy, dict) and isinstance(policy.get("ExceptionType"), str)
    return {**policy, "ExceptionType": [policy["ExceptionType"]]} if is_text else policy


def argument_faults(step: PlacedStep, names: Names) -> Iterator[str]:
    """The Arguments, compared with the request that they become."""
    arguments = step.definition.get("Arguments")
    model = STEP_MODELS.get(step.type)
    if arguments is None:
        return
    if model:
        comparison = request_check(model.creates, names, filled_in=model.name_member)
        yield from comparison.problems(arguments, request_shape(step.type))
    elif step.type in ARGUMENTS:
        make = format_check if step.type == "Condition" else request_check
        comparison = make(with_article(f"{step.type} step"), names)
        yield from comparison.problems(arguments, arguments_shape(step.type))


def dependency_faults(step: PlacedStep) -> Iterator[str]:
    """Entries of DependsOn that are neither a step's name nor a name with a trigger."""
    entries = step.definition.get("DependsOn")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        trigger = entry.get("Trigger", "Completed") if isinstance(entry, dict) else "Completed"
        if not isinstance(entry.get("Step") if isinstance(entry, dict) else entry, str):
            accepted = "a step's name or an object with Step and Trigger"
            yield f"DependsOn[{index}] must be {accepted}, but got {quoted(entry)}."
        elif trigger not in TRIGGERS:
            accepted = f"one of {listing(TRIGGERS)}"
            yield f"DependsOn[{index}].Trigger must be {accepted}, but got {quoted(trigger)}."


def condition_step_faults(step: PlacedStep, names: Names) -> Iterator[str]:
    """Conditions of unknown types, without their operands, or with operands that do not compare."""
    conditions = objects(step.arguments.get("Conditions")) if step.type == "Condition" else []
    for condition in conditions:
        yield from condition_faults(condition)
        yield from condition_operand_faults(condition, names.type_of)


def retry_faults(step: PlacedStep) -> Iterator[str]:
    """A policy ends after a number of attempts or after a time, not both."""
    for index, policy in enumerate(step.objects("RetryPolicies")):
        ends = [name for name in ("MaxAttempts", "ExpireAfterMin") if policy.get(name) is not None]
        if len(ends) != 1:
            has = "both" if ends else "neither"
            yield f"RetryPolicies[{index}] must have either MaxAttempts or ExpireAfterMin, but has {has}."


def property_file_faults(step: PlacedStep) -> Iterator[str]:
    """A property file is in one of the step's outputs, and has a name of its own."""
    files = step.objects("PropertyFiles")
    yield from duplicates("property files", [file.get("PropertyFileName") for file in files])
    outputs = output_names(step)
    for file in files:
        name, output = str(file.get("PropertyFileName")), str(file.get("OutputName"))
        if output not in outputs:
            has = listing(outputs) if outputs else "none"
            hint = did_you_mean(output, outputs)
            yield f"property file '{name}' is in output '{output}', but the step's outputs are {has}.{hint}"


def objective_faults(step: PlacedStep) -> Iterator[str]:
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


def output_names(step: PlacedStep) -> list[str]:
    """The names of a processing job's outputs."""
    config = step.arguments.get("ProcessingOutputConfig")
    outputs = config.get("Outputs") if isinstance(config, dict) else None
    return [str(output.get("OutputName")) for output in objects(outputs)]


def with_article(words: str) -> str:
    """The words with a or an."""
    return f"{'an' if words[0] in 'AEIOU' else 'a'} {words}"
