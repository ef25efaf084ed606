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
from pipeline.definition.shapes import CONTAINERS, Shape, operation
from pipeline.definition.step_types import STEP_TYPES
from pipeline.definition.steps import Definition, Step, at, objects
from pipeline.errors import PipelineError
from pipeline.suggestion import did_you_mean

TYPES = {"String": "string", "Integer": "integer", "Float": "double", "Boolean": "boolean"}  # of parameters, of outputs


class UnknownProperty(LookupError):
    """A path leads to no property; the text completes "Step 'A' reads Steps.B.C, but ..."."""


def reading_faults(definition: Definition, value: Any) -> Iterator[str]:
    """What the expressions in a value refer to that does not exist; the step's name is the subject of each sentence."""
    for expression in expressions(value):
        try:
            found = references(expression)
        except PipelineError as error:
            yield f"has an expression that cannot be read: {error}"
            continue
        for reference in found:
            yield from missing_faults(definition, reference)
        if "Get" in expression and found[0].property_file is not None:
            yield f"reads {expression['Get']}, which only Std:JsonGet can read."


def dependency_faults(definition: Definition, step: Step) -> Iterator[str]:
    """The steps of DependsOn that do not exist, or after which nothing runs."""
    for name in [name for name, _ in step.triggers if isinstance(name, str)]:
        target = definition.steps.get(name)
        if target is None:
            yield f"depends on '{name}', but no step has that name.{did_you_mean(name, definition.steps)}"
        elif target.type == "Fail":
            yield f"depends on '{name}', but nothing runs after a Fail step."


def missing_faults(definition: Definition, reference: Reference) -> Iterator[str]:
    """Why a reference leads to nothing, as far as the definition alone tells."""
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
        yield f"reads {root}.{reference.name}, but no {ROOTS[root]} has that name.{hint}"
    elif root == "Steps" and (fault := unread_fault(definition.steps[reference.name], reference)):
        yield f"reads {reference.text}, but {fault}"


def unread_fault(target: Step, reference: Reference) -> str | None:
    """Why a step has nothing of that kind; None where it has, or only the service's model will tell."""
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
    """Name -> type of the outputs that a Lambda or Callback step declares."""
    return {str(output.get("OutputName")): output.get("OutputType") for output in step.objects("OutputParameters")}


def visibility_faults(definition: Definition, step: Step) -> Iterator[str]:
    """Steps of other branches, which may not run at all, that the step relies on."""
    waits = {str(name): "depends on" for name, _ in step.triggers}
    for name in step.dependencies:
        target = definition.steps.get(name)
        if target is not None and step.branch[: len(target.branch)] != target.branch:  # neither the same nor around it
            condition, branch = target.branch[-1]
            yield (
                f"{waits.get(name, 'reads')} '{name}', which runs only in {branch} of '{condition}'; "
                "only steps of the same branch can rely on it."
            )


def property_faults(definition: Definition, step: Step) -> Iterator[str]:
    """What the step reads that the service does not return, or that is no single value where one is needed."""
    for expression in expressions(step.own):
        is_operand = "Get" not in expression or step.type not in STEP_TYPES or not STEP_TYPES[step.type].creates
        for reference in readable(expression):
            target = definition.steps.get(reference.name) if reference.root == "Steps" else None
            if target is None or unread_fault(target, reference):
                continue
            try:
                found = property_type(target, reference)
            except UnknownProperty as error:
                yield f"reads {reference.text}, but {error}"
                continue
            if is_operand and found in CONTAINERS:
                kind = "a list" if found == "list" else "an object"
                yield f"reads {reference.text}, which is {kind}, but a single value is needed."


def type_of(definition: Definition, expression: Any) -> str | None:
    """The type of an expression's value, as shapes name types; None where only the run will tell."""
    if "Std:Join" in expression:
        return "string"
    found = readable(expression) if "Get" in expression else []
    if not found or any(missing_faults(definition, found[0])):
        return None
    if parameter := parameter_of(definition, expression):
        return TYPES.get(str(parameter.get("Type")))
    try:
        return property_type(definition.steps[found[0].name], found[0]) if found[0].root == "Steps" else "string"
    except UnknownProperty:
        return None


def parameter_of(definition: Definition, expression: Any) -> Mapping[str, Any] | None:
    """The parameter that an expression reads, as it is declared."""
    found = readable(expression) if "Get" in expression else []
    return definition.parameters.get(found[0].name) if found and found[0].root == "Parameters" else None


def property_type(step: Step, reference: Reference) -> str | None:
    """The type of an existing property, as shapes name types; None where only the run will tell.

    Raises:
        UnknownProperty: the service returns no such thing.
    """
    step_type = STEP_TYPES.get(step.type)
    if reference.property_file is not None or step_type is None or not reference.path:
        return None
    if step_type.properties:
        output_type = declared_outputs(step).get(str(reference.path[-1]))
        return "string" if step_type.properties == "Outcome" else TYPES.get(str(output_type))
    return response_type(step, reference.path) if step_type.reads else None


def response_type(step: Step, path: tuple[Token, ...]) -> str:
    """The type of a member of the Describe response: a list is entered by index or, of objects, by name."""
    shape: Shape | None = None
    for depth, token in enumerate(path):
        known: Collection[str] = response_members(step.type) if shape is None else shape.members
        inner = response_members(step.type).get(str(token)) if shape is None else shape.at(token)
        if inner is None:
            where, reads, word = format_path(path[:depth]), STEP_TYPES[step.type].reads[0], str(token)
            if shape is None:
                raise UnknownProperty(f"{reads} does not return {word}.{did_you_mean(word, known)}")
            if shape.type == "structure":
                raise UnknownProperty(f"{reads} returns no {word} in {where}.{did_you_mean(word, known)}")
            raise UnknownProperty(f"{where} has no members that {word!r} could name.")
        declared = declared_entries(step, path[:depth]) if shape is not None and shape.type in ("list", "map") else None
        if declared is not None:
            try:
                look_up({str(path[depth - 1]): declared}, path[depth - 1 : depth + 1])
            except PathError as error:
                raise UnknownProperty(str(error)) from error
        shape = inner
    return shape.type if shape else ""


@cache
def response_members(step_type: str) -> Mapping[str, Shape]:
    """The members of all responses about a step, those of the first operation before others of the same name."""
    outputs = [operation(name, "output") for name in reversed(STEP_TYPES[step_type].reads)]
    return {name: output.member(name) for output in outputs for name in output.members}


def declared_entries(step: Step, path: tuple[Token, ...]) -> Any:
    """The list or map that the request declares where the response has this one; None when it declares none."""
    if derived := DERIVED.get((step.type, path[-1])):
        return derived(step.arguments)
    try:
        found = look_up(step.arguments, path)
    except PathError:
        return None
    is_known = isinstance(found, dict | list) and not is_expression(found) and not any(map(is_expression, found))
    return found if is_known else None


def metric_definitions(arguments: Any) -> list[Any] | None:
    """The metrics of a training job; a built-in algorithm has metrics that it does not declare."""
    found = at(arguments, "AlgorithmSpecification.MetricDefinitions")
    return found if isinstance(found, list) else None


def searched_hyperparameters(arguments: Any) -> dict[str, Any]:
    """The hyperparameters of all ranges of a tuning job."""
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
