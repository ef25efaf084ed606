"""What the steps of a definition refer to: whether it exists, and its type as far as the definition tells.

A step's properties are the response of its Describe operation, the outputs that a Lambda or Callback step declares, or
a Condition's outcome. Names in lists and keys of maps must be among those that the step's own request declares.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from typing import Any

from pipeline.definition.expressions import (
    EXECUTION_VARIABLES,
    ROOTS,
    Reference,
    expressions,
    is_expression,
    readable,
    references,
)
from pipeline.definition.paths import PathError, Token, format_path, listing, look_up
from pipeline.definition.schemas import SINGLE, Schema, child, operation
from pipeline.definition.step_types import STEP_TYPES
from pipeline.definition.steps import Definition, Step, at, objects
from pipeline.errors import PipelineError
from pipeline.suggestion import did_you_mean

TYPES = {"String": "string", "Integer": "integer", "Float": "number", "Boolean": "boolean"}  # of parameters, of outputs


class UnknownProperty(LookupError):
    """A path leads to no property; the text completes "Step 'A' reads Steps.B.C, but ..."."""


def reference_problems(definition: Definition, value: Any) -> Iterator[str]:
    """Yield what the expressions in a value refer to that does not exist, without the subject of the sentence."""
    for expression in expressions(value):
        try:
            found = references(expression)
        except PipelineError as error:
            yield f"has an expression that cannot be read: {error}"
            continue
        yield from (problem for reference in found if (problem := missing(definition, reference)))
        if "Get" in expression and found[0].property_file is not None:
            yield f"reads {expression['Get']}, which only Std:JsonGet can read."


def missing(definition: Definition, reference: Reference) -> str | None:
    """Return why a reference leads to nothing, as far as the definition alone tells."""
    experiment = definition.content.get("PipelineExperimentConfig")
    names: dict[str, Collection[str]] = {
        "Parameters": definition.parameters,
        "Steps": definition.steps,
        "Execution": EXECUTION_VARIABLES,
        "PipelineExperimentConfig": experiment if isinstance(experiment, Mapping) else {},
    }
    known, root = names[reference.root], reference.root
    if reference.name not in known:
        hint = did_you_mean(reference.name, known)
        return f"reads {root}.{reference.name}, but no {ROOTS[root]} has that name.{hint}"
    why = unread(definition.steps[reference.name], reference) if root == "Steps" else None
    return f"reads {reference.text}, but {why}" if why else None


def unread(target: Step, reference: Reference) -> str | None:
    """Return why a step has nothing of that kind; None where it has, or only the service's model tells."""
    step_type = STEP_TYPES.get(target.type)
    if reference.property_file is not None:
        noun, name = "property files", reference.property_file
        names = [str(file.get("PropertyFileName")) for file in target.objects("PropertyFiles")]
    elif target.type == "Fail":
        return "a Fail step has no properties."
    elif not reference.path:
        return "names none of the step's properties."
    elif step_type is None or not step_type.properties:
        return None
    elif step_type.properties == "Outcome":
        return None if reference.path == ("Outcome",) else f"a {target.type} step has only Outcome."
    elif reference.path[0] != step_type.properties or len(reference.path) != 2:
        return f"a {target.type} step has only OutputParameters['name']."
    else:
        noun, name, names = step_type.properties, str(reference.path[1]), list(declared_outputs(target))
    hint = did_you_mean(name, names)
    return None if name in names else f"its {noun} are {listing(names) if names else 'none'}.{hint}"


def declared_outputs(step: Step) -> dict[str, Any]:
    """Return the outputs that a Lambda or Callback step declares, with their types."""
    return {str(output.get("OutputName")): output.get("OutputType") for output in step.objects("OutputParameters")}


def dependency_problems(definition: Definition, step: Step) -> Iterator[str]:
    """Yield the steps of DependsOn that do not exist, or after which nothing runs."""
    for name in [name for name, _ in step.triggers if isinstance(name, str)]:
        target = definition.steps.get(name)
        if target is None:
            yield f"depends on '{name}', but no step has that name.{did_you_mean(name, definition.steps)}"
        elif target.type == "Fail":
            yield f"depends on '{name}', but nothing runs after a Fail step."


def branch_problems(definition: Definition, step: Step) -> Iterator[str]:
    """Yield the steps of other branches, which may not run at all, that the step relies on."""
    waits = {str(name): "depends on" for name, _ in step.triggers}
    for name in step.dependencies:
        target = definition.steps.get(name)
        if target is not None and step.branch[: len(target.branch)] != target.branch:  # neither the same nor around it
            condition, branch = target.branch[-1]
            yield (
                f"{waits.get(name, 'reads')} '{name}', which runs only in {branch} of '{condition}'; "
                "only steps of the same branch can rely on it."
            )


def property_problems(definition: Definition, step: Step) -> Iterator[str]:
    """Yield what the step reads that the service does not return, or that is no single value where one is needed."""
    for expression in expressions(step.own):
        is_operand = "Get" not in expression or step.type not in STEP_TYPES or not STEP_TYPES[step.type].creates
        for reference in readable(expression):
            target = definition.steps.get(reference.name) if reference.root == "Steps" else None
            if target is None or unread(target, reference):
                continue
            try:
                found = property_type(target, reference)
            except UnknownProperty as error:
                yield f"reads {reference.text}, but {error}"
                continue
            if is_operand and found is not None and found not in SINGLE:
                kind = "a list" if found == "array" else "an object"
                yield f"reads {reference.text}, which is {kind}, but a single value is needed."


def type_of(definition: Definition, expression: Any) -> str | None:
    """Return the type of an expression's value as JSON Schema names it; None where only the run will tell."""
    if "Std:Join" in expression:
        return "string"
    found = readable(expression) if "Get" in expression else []
    if not found or missing(definition, found[0]):
        return None
    if parameter := parameter_of(definition, expression):
        return TYPES.get(str(parameter.get("Type")))
    try:
        return property_type(definition.steps[found[0].name], found[0]) if found[0].root == "Steps" else "string"
    except UnknownProperty:
        return None


def parameter_of(definition: Definition, expression: Any) -> Mapping[str, Any] | None:
    """Return the declaration of the parameter that an expression reads."""
    found = readable(expression) if "Get" in expression else []
    return definition.parameters.get(found[0].name) if found and found[0].root == "Parameters" else None


def property_type(step: Step, reference: Reference) -> str | None:
    """Return the type of an existing property; None where only the run will tell.

    Raises:
        UnknownProperty: the service returns no such thing.
    """
    step_type, path = STEP_TYPES.get(step.type), reference.path
    if reference.property_file is not None or step_type is None or not path:
        return None
    if step_type.properties:
        output_type = declared_outputs(step).get(str(path[-1]))
        return "string" if step_type.properties == "Outcome" else TYPES.get(str(output_type))
    if not step_type.reads:
        return None
    schema = response(step.type)
    for depth, token in enumerate(path):
        inner, word = child(schema, token), str(token)
        if inner is None:
            where, hint = format_path(path[:depth]), did_you_mean(word, schema.get("properties", ()))
            if not where:
                raise UnknownProperty(f"{step_type.reads[0]} does not return {word}.{hint}")
            if "properties" in schema:
                raise UnknownProperty(f"{step_type.reads[0]} returns no {word} in {where}.{hint}")
            raise UnknownProperty(f"{where} has no members that {word!r} could name.")
        declared = None if "properties" in schema else declared_entries(step, path[:depth])
        if declared is not None:
            try:
                look_up({str(path[depth - 1]): declared}, path[depth - 1 : depth + 1])
            except PathError as error:
                raise UnknownProperty(str(error)) from error
        schema = inner
    kind = schema.get("type", "string")
    return "string" if isinstance(kind, list) else str(kind)  # a time is compared as text


@cache
def response(step_type: str) -> Schema:
    """Return one schema of all responses about a step; of members of one name, the first operation's counts."""
    outputs = [operation(name, "output")["properties"] for name in reversed(STEP_TYPES[step_type].reads)]
    return {"type": "object", "properties": {name: schema for output in outputs for name, schema in output.items()}}


def declared_entries(step: Step, path: tuple[Token, ...]) -> Any:
    """Return the list or map that the request declares where the response has this one; None if it declares none."""
    if derived := DERIVED.get((step.type, path[-1])):
        return derived(step.arguments)
    try:
        found = look_up(step.arguments, path)
    except PathError:
        return None
    is_known = isinstance(found, dict | list) and not is_expression(found) and not any(map(is_expression, found))
    return found if is_known else None


def metric_definitions(arguments: Any) -> list[Any] | None:
    """Return the metrics of a training job; a built-in algorithm has metrics that it does not declare."""
    found = at(arguments, "AlgorithmSpecification.MetricDefinitions")
    return found if isinstance(found, list) else None


def searched_hyperparameters(arguments: Any) -> dict[str, Any]:
    """Return the hyperparameters of all ranges of a tuning job."""
    jobs = [at(arguments, "TrainingJobDefinition"), *objects(at(arguments, "TrainingJobDefinitions"))]
    groups = [at(arguments, "HyperParameterTuningJobConfig.ParameterRanges")]
    groups += [at(job, "HyperParameterRanges") for job in jobs]
    ranges = [each for group in groups if isinstance(group, dict) for kind in group.values() for each in objects(kind)]
    return {str(item["Name"]): item for item in ranges if "Name" in item}


# Lists and maps of responses whose entries the request declares under another name.
DERIVED: dict[tuple[str, Token], Callable[[Any], Any]] = {
    ("Training", "FinalMetricDataList"): metric_definitions,
    ("Tuning", "TunedHyperParameters"): searched_hyperparameters,
}
