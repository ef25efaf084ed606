"""The checker of definitions, which `validate` and `run --definition` share: every problem at once, a sentence each.

form       what no reader of the definition could make sense of: names, expressions, references, circles
service    what SageMaker would refuse beside that: requests, properties and limits, by its service model
local      what this machine lacks: the step types and programs that do not run here

A run needs form and local. What SageMaker would refuse does not stop one: the installed model may be older than the
service, and reading it would make a run of small steps a tenth slower.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.definition.conditions import condition_faults
from pipeline.definition.expressions import expressions, references
from pipeline.definition.paths import PathError, json_tokens, kind_of, listing, quoted
from pipeline.definition.properties import missing_faults, reference_faults
from pipeline.definition.requests import request_faults
from pipeline.definition.runnable import duration_seconds, lacking, member
from pipeline.definition.step_types import STEP_TYPES
from pipeline.definition.steps import Definition, Step, members, objects
from pipeline.errors import PipelineError
from pipeline.suggestion import did_you_mean

TRIGGERS = ("Completed", "Failed", "Stopped", "Any")
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
STEP_MEMBERS = ("CacheConfig", "RetryPolicies", "PropertyFiles", "OutputParameters", "FunctionArn", "DisplayName")
OUTPUTS = "ProcessingOutputConfig"
RETRY_LIMITS = {"IntervalSeconds": 43200, "BackoffRate": 1000, "MaxAttempts": 20, "ExpireAfterMin": 14400}


def check(content: Any, *, service: bool = True, local: bool = False) -> list[str]:
    """Return all problems: of the form, those that SageMaker would find (service), what cannot run here (local)."""
    if not isinstance(content, dict):
        return [f"A definition must be an object, but got {quoted(content)}."]
    definition = Definition(content)
    if definition.too_deep:
        return definition.too_deep
    problems, rules = [*definition_problems(definition)], [form_problems]
    if service:
        from pipeline.definition import service_check  # which loads the service model

        problems += service_check.definition_problems(definition)
        rules.append(service_check.step_problems)
    if local:
        rules.append(local_problems)
    problems += [problem for step in definition.all_steps for rule in rules for problem in rule(definition, step)]
    return list(dict.fromkeys([*problems, *definition.cycles()]))


def unknown_members(content: Mapping[str, Any]) -> str:
    """Name in a sentence what neither SageMaker nor the local target knows; empty when there is no such member.

    It is misspelt, or newer than the installed botocore.
    """
    found = [problem for problem in check(content) if " is not a member of " in problem]
    said = "Ignored, and refused by SageMaker unless it is newer than botocore here:"
    return " ".join([said, *found[:3]]) if found else ""


def definition_problems(definition: Definition) -> Iterator[str]:
    """What is wrong around the steps, whoever reads the definition."""
    yield from definition.malformed
    yield from duplicates("parameters", [parameter.get("Name") for parameter in definition.all_parameters])
    yield from duplicates("steps", [step.definition.get("Name") for step in definition.all_steps])
    yield from experiment_problems(definition)


def form_problems(definition: Definition, step: Step) -> Iterator[str]:
    """What is wrong with a step, whoever reads the definition."""
    if step.type not in STEP_TYPES:
        yield f"Step '{step.name}' has the type '{step.type}', which no step has.{did_you_mean(step.type, STEP_TYPES)}"
    yield from (f"Step '{step.name}': {fault}" for fault in (*step_faults(step), *property_file_faults(step)))
    yield from (f"Step '{step.name}' {fault}" for fault in reference_faults(definition, step))


def local_problems(definition: Definition, step: Step) -> Iterator[str]:
    """What this machine cannot do for a step."""
    step_type = STEP_TYPES.get(step.type)
    if step_type is None:
        return
    if step_type.refusal:
        yield f"Step '{step.name}' is a step of type {step.type}, which does not run locally: {step_type.refusal}."
        return
    wrong = request_faults({key: step.definition.get(key) for key in STEP_MEMBERS})
    if step_type.creates:
        wrong += request_faults(step.arguments)
        if not step_type.job_kind and not wrong:  # the API is asked for it, and holds it to the service's model
            from pipeline.definition.service_check import argument_faults

            wrong += argument_faults(definition, step)
    faults = [*member_faults(step), *lacking(step.arguments, step_type.needs)]
    if step_type.rule and not wrong:
        faults += step_type.rule(step.arguments)
    yield from (f"Step '{step.name}': {fault}" for fault in wrong)
    yield from (f"Step '{step.name}' {fault}" for fault in faults)


def duplicates(noun: str, found: Iterable[Any]) -> Iterator[str]:
    """The names that several things have."""
    for name, count in Counter(name for name in found if isinstance(name, str)).items():
        if count > 1:
            yield f"{count} {noun} are named '{name}'."


def experiment_problems(definition: Definition) -> Iterator[str]:
    """What PipelineExperimentConfig refers to that does not exist, or has no value before any step has run."""
    config = "PipelineExperimentConfig"
    experiment = definition.content.get(config)
    if not isinstance(experiment, dict | None):
        yield f"{config} must be an object, but got {quoted(experiment)}."
        return
    for expression in expressions(list((experiment or {}).values())):
        try:
            found = references(expression)
        except PipelineError as error:
            yield f"{config} has an expression that cannot be read: {error}"
            continue
        for reference in found:
            yield from (f"{config} {fault}" for fault in missing_faults(definition, reference))
            if reference.root in ("Steps", config):
                yield f"{config} reads {reference.text}, which has no value before the first step."


def step_faults(step: Step) -> Iterator[str]:
    """What is wrong with a step's name, Arguments, dependencies and conditions."""
    name = step.definition.get("Name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        yield f"Name must be 1 to 64 letters, digits, dashes and underscores, but got {quoted(name)}."
    if not isinstance(step.definition.get("Arguments", {}), dict):
        yield f"Arguments must be an object, but got {quoted(step.definition['Arguments'])}."
    for number, (other, trigger) in enumerate(step.triggers):
        where = f"DependsOn[{number}]"
        if not isinstance(other, str):
            yield f"{where} must be a step's name or an object with Step and Trigger, but names {quoted(other)}."
        elif trigger not in TRIGGERS:
            near = did_you_mean(str(trigger), TRIGGERS)
            yield f"{where}.Trigger must be one of {listing(TRIGGERS)}, but got {quoted(trigger)}.{near}"
    if step.type == "Condition":
        conditions = step.arguments.get("Conditions")
        if not isinstance(conditions, list):
            yield f"Conditions must be a list, but got {kind_of(conditions)}."
        for condition in conditions if isinstance(conditions, list) else ():
            yield from condition_faults(condition)


def property_file_faults(step: Step) -> Iterator[str]:
    """What is wrong with property files: each is in one of the step's outputs, and has a name of its own."""
    files = step.objects("PropertyFiles")
    yield from duplicates("property files", [file.get("PropertyFileName") for file in files])
    outputs = [str(member(output, "OutputName")) for output in objects(member(step.arguments.get(OUTPUTS), "Outputs"))]
    for file in files:
        name, output = str(file.get("PropertyFileName")), str(file.get("OutputName"))
        if output not in outputs:
            has, hint = listing(outputs) if outputs else "none", did_you_mean(output, outputs)
            yield f"property file '{name}' is in output '{output}', but the step's outputs are {has}.{hint}"


def member_faults(step: Step) -> Iterator[str]:
    """The members of a step, beside its Arguments, that a run here could not use."""
    if step.type == "Lambda" and not isinstance(step.definition.get("FunctionArn"), str):
        yield f"needs the ARN of a function as FunctionArn, but has {quoted(step.definition.get('FunctionArn'))}."
    cache = step.definition.get("CacheConfig")
    expires = cache.get("ExpireAfter") if isinstance(cache, dict) else None
    if expires is not None and duration_seconds(expires) is None:
        duration = "an ISO 8601 duration such as P30D or PT2H"
        yield f"has {quoted(expires)} as CacheConfig.ExpireAfter, which is not {duration}."
    for key, operand in members(step.own):
        if key == "Std:JsonGet" and isinstance(operand, dict) and isinstance(operand.get("Path"), str):
            try:
                json_tokens(operand["Path"])
            except PathError as error:
                yield f"has a Std:JsonGet that cannot be read here: {error}"
    for number, policy in enumerate(step.objects("RetryPolicies")):
        for name, most in RETRY_LIMITS.items():
            value = policy.get(name, 1)
            if isinstance(value, bool) or not isinstance(value, int | float | None) or not 0 <= (value or 0) <= most:
                yield f"needs a number of at most {most} as RetryPolicies[{number}].{name}, but has {quoted(value)}."
        kinds = policy.get("ExceptionType")
        if not isinstance(kinds, str | list) or not all(isinstance(kind, str) for kind in kinds):
            yield f"needs a list of errors as RetryPolicies[{number}].ExceptionType, but has {quoted(kinds)}."
    for number, file in enumerate(step.objects("PropertyFiles")):
        if not isinstance(file.get("FilePath"), str):
            yield f"needs a text as PropertyFiles[{number}].FilePath, but has {quoted(file.get('FilePath'))}."
    for number, output in enumerate(step.objects("OutputParameters")):
        if not isinstance(output.get("OutputName"), str) or not isinstance(output.get("OutputType"), str):
            yield f"needs OutputName and OutputType in OutputParameters[{number}]."
