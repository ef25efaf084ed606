"""The type of what a step reads from another, or why the service returns no such thing.

A step's properties are the response of its Describe operation, the outputs that a Lambda or Callback step declares, or
a Condition's outcome. Names in lists and keys of maps must be among those that the step's own request declares.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from pipeline.definition.expressions import Reference, is_expression, references
from pipeline.definition.paths import PathError, Token, format_path, look_up
from pipeline.definition.references import missing_faults, outputs_of, unread_fault
from pipeline.definition.service_model import Shape, operation
from pipeline.definition.shapes import TYPES
from pipeline.definition.step_types import STEP_TYPES
from pipeline.definition.steps import Definition, Step, objects
from pipeline.errors import PipelineError
from pipeline.suggestion import did_you_mean

CONTAINERS = ("structure", "map", "list")
Path = tuple[Token, ...]


class UnknownProperty(LookupError):
    """A path that leads to no property; the text completes "Step 'A' reads Steps.B.C, but ..."."""


def visibility_faults(definition: Definition, step: Step) -> Iterator[str]:
    """Steps of other branches, which may not run at all, that the step relies on."""
    waits = {str(name): "depends on" for name, _ in step.triggers}
    for name in step.dependencies:
        target = definition.steps.get(name)
        if target is not None and not step.sees(target):
            condition, branch = target.branch[-1]
            yield (
                f"{waits.get(name, 'reads')} '{name}', which runs only in {branch} of '{condition}'; "
                "only steps of the same branch can rely on it."
            )


def property_faults(definition: Definition, step: Step) -> Iterator[str]:
    """What the step reads that the service does not return, or that is no single value where one is needed."""
    for expression in step.expressions:
        is_operand = "Get" not in expression or not STEP_TYPES[step.type].creates if step.type in STEP_TYPES else True
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


def readable(expression: Any) -> list[Reference]:
    """What a well-formed expression refers to."""
    try:
        return references(expression)
    except PipelineError:
        return []


def property_type(step: Step, reference: Reference) -> str | None:
    """The type of an existing property, as shapes name types; None where only the run will tell.

    Raises:
        UnknownProperty: the service returns no such thing.
    """
    step_type = STEP_TYPES.get(step.type)
    if reference.property_file is not None or step_type is None or not reference.path:
        return None
    if step_type.reads:
        return response_type(step, reference.path)
    if step_type.properties == ("Outcome",):
        return "string"
    return TYPES.get(str(outputs_of(step).get(str(reference.path[-1])))) if step_type.properties else None


def response_type(step: Step, path: Path) -> str:
    """The type of a member of the Describe response."""
    shapes = property_shapes(step.type, path)
    for depth, shape in enumerate(shapes[:-1], start=1):
        declared = declared_entries(step, path[:depth]) if shape.type in ("list", "map") else None
        if declared is not None:
            try:
                look_up({str(path[depth - 1]): declared}, path[depth - 1 : depth + 1])
            except PathError as error:
                raise UnknownProperty(str(error)) from error
    return shapes[-1].type


def declared_entries(step: Step, path: Path) -> Any:
    """The list or map that the request declares where the response has this one; None when it declares none."""
    derived = DERIVED.get((step.type, path[-1]))
    if derived:
        return derived(step.arguments)
    try:
        found = look_up(step.arguments, path)
    except PathError:
        return None
    is_known = isinstance(found, dict | list) and not is_expression(found) and not any(map(is_expression, found))
    return found if is_known else None


def metric_definitions(arguments: dict[str, Any]) -> Any:
    """The metrics of a training job; a built-in algorithm has metrics that it does not declare."""
    algorithm = arguments.get("AlgorithmSpecification")
    found = algorithm.get("MetricDefinitions") if isinstance(algorithm, dict) else None
    return found if isinstance(found, list) else None


def searched_hyperparameters(arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The hyperparameters of all ranges of a tuning job."""
    config = arguments.get("HyperParameterTuningJobConfig")
    jobs = [arguments.get("TrainingJobDefinition"), *objects(arguments.get("TrainingJobDefinitions"))]
    groups = [config.get("ParameterRanges")] if isinstance(config, dict) else []
    groups += [job.get("HyperParameterRanges") for job in jobs if isinstance(job, dict)]
    kinds = [kind for group in groups if isinstance(group, dict) for kind in group.values() if isinstance(kind, list)]
    return {str(item["Name"]): item for kind in kinds for item in kind if isinstance(item, dict) and "Name" in item}


# Lists and maps of responses whose entries the request declares under another name.
DERIVED: dict[tuple[str, Token], Callable[[dict[str, Any]], Any]] = {
    ("Training", "FinalMetricDataList"): metric_definitions,
    ("Tuning", "TunedHyperParameters"): searched_hyperparameters,
}


def type_of(definition: Definition, expression: Any) -> str | None:
    """The type of an expression's value, as shapes name types; None where only the run will tell."""
    if "Std:Join" in expression:
        return "string"
    reference = next(iter(readable(expression)), None) if "Get" in expression else None
    if reference is None or any(missing_faults(definition, reference)):
        return None
    if reference.root == "Parameters":
        return TYPES.get(str(definition.parameters[reference.name].get("Type")))
    if reference.root != "Steps":
        return "string"
    try:
        return property_type(definition.steps[reference.name], reference)
    except UnknownProperty:
        return None


def default_of(definition: Definition, expression: Any) -> tuple[str, Any] | None:
    """The parameter that an expression reads, with its default."""
    reference = next(iter(readable(expression)), None) if "Get" in expression else None
    parameter = definition.parameters.get(reference.name, {}) if reference and reference.root == "Parameters" else {}
    return (str(parameter.get("Name")), parameter["DefaultValue"]) if "DefaultValue" in parameter else None


@cache
def responses(step_type: str) -> Mapping[str, Shape]:
    """The members of all responses about a step, those of the first operation before others of the same name."""
    outputs = [operation(name, "output") for name in reversed(STEP_TYPES[step_type].reads)]
    return {name: output.member(name) for output in outputs for name in output.members}


def property_shapes(step_type: str, path: tuple[Token, ...]) -> list[Shape]:
    """The shapes along a path below a step, one for each of its tokens."""
    shapes: list[Shape] = []
    for depth, token in enumerate(path):
        inner = _member(shapes[-1], token) if shapes else responses(step_type).get(str(token))
        if inner is None:
            raise UnknownProperty(_why_unknown(step_type, shapes, path[: depth + 1]))
        shapes.append(inner)
    return shapes


def _member(shape: Shape, token: Token) -> Shape | None:
    """Where one token of a path leads: a list of objects is entered by index or by name, a map by key."""
    if shape.type == "structure":
        return shape.member(str(token)) if token in shape.members else None
    if shape.type == "list":
        inner = shape.member("member")
        return inner if isinstance(token, int) or inner.type == "structure" else None
    return shape.member("value") if shape.type == "map" and isinstance(token, str) else None


def _why_unknown(step_type: str, shapes: list[Shape], path: tuple[Token, ...]) -> str:
    """What is the matter with the last token of the path."""
    reads, token = STEP_TYPES[step_type].reads[0], str(path[-1])
    if not shapes:
        return f"{reads} does not return {token}.{did_you_mean(token, responses(step_type))}"
    where = format_path(path[:-1])
    if shapes[-1].type == "structure":
        return f"{reads} returns no {token} in {where}.{did_you_mean(token, shapes[-1].members)}"
    return f"{where} has no members that {token!r} could name."
