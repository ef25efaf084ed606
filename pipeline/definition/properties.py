"""The type of what an expression reads from a step, or why there is no such thing.

A step's properties are the response of its Describe operation, the outputs that a Lambda or Callback step declares, or
a Condition's outcome. Names in lists and keys of maps must be among those that the step's own request declares.
"""

from collections.abc import Callable
from typing import Any

from botocore.model import ListShape, MapShape

from pipeline.definition.expressions import Reference, is_expression
from pipeline.definition.paths import PathError, Token, listing, look_up
from pipeline.definition.placed_step import PlacedStep
from pipeline.definition.service_model import STEP_MODELS, UnknownProperty, property_shapes
from pipeline.definition.shapes import DEFAULT_TYPES
from pipeline.suggestion import did_you_mean

Path = tuple[Token, ...]


def property_type(step: PlacedStep, reference: Reference) -> str | None:
    """The type, as shapes name types; None where only the run will tell. Raises UnknownProperty."""
    if reference.property_file is not None:
        require_property_file(step, reference.property_file)
        return None
    if not reference.path and step.type != "Fail":
        raise UnknownProperty("names none of the step's properties.")
    if step.type in STEP_MODELS:
        return response_type(step, reference.path)
    read = PROPERTIES.get(step.type)
    return read(step, reference.path) if read else None


def response_type(step: PlacedStep, path: Path) -> str:
    """The type of a member of the Describe response."""
    shapes = property_shapes(step.type, path)
    for depth, shape in enumerate(shapes[:-1], start=1):
        declared = declared_entries(step, path[:depth]) if isinstance(shape, ListShape | MapShape) else None
        if declared is not None:
            try:
                look_up({str(path[depth - 1]): declared}, path[depth - 1 : depth + 1])
            except PathError as error:
                raise UnknownProperty(str(error)) from error
    return str(shapes[-1].type_name)


def declared_entries(step: PlacedStep, path: Path) -> Any:
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
    jobs = [arguments.get("TrainingJobDefinition"), *(arguments.get("TrainingJobDefinitions") or [])]
    groups = [config.get("ParameterRanges")] if isinstance(config, dict) else []
    groups += [job.get("HyperParameterRanges") for job in jobs if isinstance(job, dict)]
    kinds = [kind for group in groups if isinstance(group, dict) for kind in group.values() if isinstance(kind, list)]
    return {str(item["Name"]): item for kind in kinds for item in kind if isinstance(item, dict) and "Name" in item}


# Lists and maps of responses whose entries the request declares under another name.
DERIVED: dict[tuple[str, Token], Callable[[dict[str, Any]], Any]] = {
    ("Training", "FinalMetricDataList"): metric_definitions,
    ("Tuning", "TunedHyperParameters"): searched_hyperparameters,
}


def output_type(step: PlacedStep, path: Path) -> str | None:
    """The declared type of OutputParameters['name']."""
    declared = step.objects("OutputParameters")
    outputs = {str(output.get("OutputName")): output.get("OutputType") for output in declared}
    if path[0] != "OutputParameters" or len(path) != 2:
        raise UnknownProperty(f"a {step.type} step has only OutputParameters['name'].")
    if path[1] not in outputs:
        has = listing(outputs) if outputs else "none"
        raise UnknownProperty(f"its OutputParameters are {has}.{did_you_mean(str(path[1]), outputs)}")
    return DEFAULT_TYPES.get(str(outputs[path[1]]))


def outcome_type(step: PlacedStep, path: Path) -> str:
    """The outcome of a Condition is the text True or False."""
    if path != ("Outcome",):
        raise UnknownProperty("a Condition step has only Outcome.")
    return "string"


def no_type(step: PlacedStep, path: Path) -> None:
    """A Fail step leaves nothing."""
    raise UnknownProperty("a Fail step has no properties.")


PROPERTIES: dict[str, Callable[[PlacedStep, Path], str | None]] = {
    "Lambda": output_type,
    "Callback": output_type,
    "Condition": outcome_type,
    "Fail": no_type,
}


def require_property_file(step: PlacedStep, name: str) -> None:
    """Refuses a property file that the step does not declare."""
    files = [str(file.get("PropertyFileName")) for file in step.objects("PropertyFiles")]
    if name not in files:
        has = listing(files) if files else "none"
        raise UnknownProperty(f"its property files are {has}.{did_you_mean(name, files)}")
