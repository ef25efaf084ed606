"""The checker of definitions, which `validate`, `run --definition` and the compiler share: every problem at once.

form       what no reader of the definition could make sense of: names, expressions, references, circles
service    what SageMaker would refuse beside that: requests, properties and limits, by its service model

A run needs the form. What SageMaker would refuse does not stop one: the installed model may be older than it.
The format around the requests (version 2020-12-01) is in botocore's model language in `format.json`. It is published
only in prose, as a JSON schema that refuses the SDK's own output, and in what the SDK emits; the limits are those of
all three. `document` stands for any JSON.

A step's properties are the response of its Describe operation, the outputs that a Lambda or Callback step declares, or
a Condition's outcome. Names in lists and keys of maps must be among those that the step's own request declares.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from pipeline.definition.expressions import (
    EXECUTION_VARIABLES,
    ROOTS,
    PathError,
    Reference,
    Token,
    condition_problems,
    expressions,
    format_path,
    is_expression,
    kind_of,
    listing,
    look_up,
    quoted,
    readable,
    references,
)
from pipeline.definition.schemas import SINGLE, Schema, annotated, child, differences, operation, schema_of
from pipeline.definition.steps import STEP_TYPES, Definition, Step, at, items, objects
from pipeline.errors import PipelineError
from pipeline.suggestion import did_you_mean

TRIGGERS = ("Completed", "Failed", "Stopped", "Any")
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_STEPS = 50  # those of branches included
MAX_CHARACTERS = 1_048_576  # PipelineDefinition of CreatePipeline
TAKE_EXPRESSIONS = ("FunctionArn", "SqsQueueUrl")  # members of a step beside its Arguments
TYPES = {"String": "string", "Integer": "integer", "Float": "number", "Boolean": "boolean"}  # of parameters, of outputs
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
        found = [*form_problems(definition, step), *(request_problems(definition, step) if service else ())]
        problems += [f"Step '{step.name}'{problem}" for problem in found]
    return list(dict.fromkeys([*problems, *definition.cycles()]))


def duplicates(noun: str, found: Iterable[Mapping[str, Any]], name: str) -> Iterator[str]:
    """Yield the names that several things have."""
    for text, count in Counter(each[name] for each in found if isinstance(each.get(name), str)).items():
        if count > 1:
            yield f"{count} {noun} are named '{text}'."


# the form; what is wrong with a step begins behind its name


def experiment_problems(definition: Definition) -> Iterator[str]:
    """Yield what PipelineExperimentConfig refers to that does not exist, or has no value before any step has run."""
    config = "PipelineExperimentConfig"
    fields = list(definition.experiment.values())
    if not isinstance(given := definition.content.get(config), dict | None):
        yield f"{config} must be an object, but got {quoted(given)}."
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
        elif other not in definition.steps:
            yield f" depends on '{other}', but no step has that name.{did_you_mean(other, definition.steps)}"
        elif definition.steps[other].type == "Fail":
            yield f" depends on '{other}', but nothing runs after a Fail step."
        if trigger not in TRIGGERS:
            near = did_you_mean(str(trigger), TRIGGERS)
            yield f": {where}.Trigger must be one of {listing(TRIGGERS)}, but got {quoted(trigger)}.{near}"
    if step.type == "Condition":
        conditions = step.arguments.get("Conditions")
        if not isinstance(conditions, list):
            yield f": Conditions must be a list, but got {kind_of(conditions)}."
        for condition in conditions if isinstance(conditions, list) else ():
            yield from (f": {problem}" for problem in condition_problems(condition))
    files = step.objects("PropertyFiles")
    yield from (f": {problem}" for problem in duplicates("property files", files, "PropertyFileName"))
    outputs = [str(at(output, "OutputName")) for output in items(step.arguments, "ProcessingOutputConfig.Outputs")]
    for file in files:
        output = str(file.get("OutputName"))
        if output not in outputs:
            has = f"the step's outputs are {listing(outputs) or 'none'}.{did_you_mean(output, outputs)}"
            yield f": property file '{file.get('PropertyFileName')}' is in output '{output}', but {has}"
    yield from (f" {problem}" for problem in reference_problems(definition, step.own))


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
    names: tuple[Collection[str], ...] = (
        definition.parameters, definition.steps, EXECUTION_VARIABLES, definition.experiment
    )  # fmt: skip
    root, known = reference.root, dict(zip(ROOTS, names, strict=True))[reference.root]
    if reference.name not in known:
        hint = did_you_mean(reference.name, known)
        return f"reads {root}.{reference.name}, but no {ROOTS[root]} has that name.{hint}"
    why = unread(definition.steps[reference.name], reference) if root == "Steps" else None
    return f"reads {reference.text}, but {why}" if why else None


def unread(target: Step, reference: Reference) -> str | None:
    """Return why a step has nothing of that kind; None where it has, or only the service's model tells."""
    properties = STEP_TYPES[target.type].properties if target.type in STEP_TYPES else None
    if reference.property_file is not None:
        noun, name = "property files", reference.property_file
        names = [str(file.get("PropertyFileName")) for file in target.objects("PropertyFiles")]
    elif target.type == "Fail":
        return "a Fail step has no properties."
    elif not reference.path:
        return "names none of the step's properties."
    elif not properties:
        return None
    elif properties == "Outcome":
        return None if reference.path == ("Outcome",) else f"a {target.type} step has only Outcome."
    elif reference.path[0] != properties or len(reference.path) != 2:
        return f"a {target.type} step has only OutputParameters['name']."
    else:
        noun, name, names = properties, str(reference.path[1]), list(target.declared_outputs)
    return None if name in names else f"its {noun} are {listing(names) or 'none'}.{did_you_mean(name, names)}"


# what SageMaker would refuse


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


def format_differences(value: Any, shape: str, words: str, changed: Mapping[str, Any] | None = None) -> Differences:
    """Yield where a part of a definition differs from a shape of the format; sentences call it a `words`."""
    owner = f"{'an' if words[0] in 'AEIOU' else 'a'} {words}"
    return differences(value, schema_of(shape, {**FORMAT, **(changed or {})}, {}), owner)


def request_problems(definition: Definition, step: Step) -> Iterator[str]:
    """Yield what is wrong with a step whose form is right, as far as it is."""
    problems = [text for _, text in (*member_differences(definition, step), *argument_differences(definition, step))]
    for index, policy in enumerate(step.objects("RetryPolicies")):
        ends = [name for name in ("MaxAttempts", "ExpireAfterMin") if policy.get(name) is not None]
        if len(ends) != 1:
            has = "both" if ends else "neither"
            problems.append(f"RetryPolicies[{index}] must have either MaxAttempts or ExpireAfterMin, but has {has}.")
    if step.type == "Tuning":
        objective = at(step.arguments, "HyperParameterTuningJobConfig.HyperParameterTuningJobObjective.MetricName")
        defined = metric_definitions(step.arguments.get("TrainingJobDefinition"))
        metrics = [str(metric.get("Name")) for metric in objects(defined)]
        if defined and isinstance(objective, str) and objective not in metrics:
            has = f"MetricDefinitions has {listing(metrics)}.{did_you_mean(objective, metrics)}"
            problems.append(f"the objective is the metric '{objective}', but {has}")
    for condition in objects(step.arguments.get("Conditions")) if step.type == "Condition" else ():
        problems += condition_problems(condition, lambda expression: value_type(definition, expression)[0])
    yield from (f": {problem}" for problem in problems)
    waits = {str(name): "depends on" for name, _ in step.triggers}
    for name in step.dependencies:
        target = definition.steps.get(name)
        if target is not None and step.branch[: len(target.branch)] != target.branch:  # neither the same nor around it
            around, branch = target.branch[-1]
            where = f"runs only in {branch} of '{around}'; only steps of the same branch can rely on it."
            yield f" {waits.get(name, 'reads')} '{name}', which {where}"
    yield from (f" reads {problem}" for problem in property_problems(definition, step))


def with_expressions(definition: Definition, value: Any) -> Any:
    """Return a value whose expressions are compared by their types."""
    return annotated(value, partial(value_type, definition))


def member_differences(definition: Definition, step: Step, shape: str = "") -> Differences:
    """Compare the members of a step with a shape of the format; ExceptionType may be one text instead of a list."""
    members = dict(step.definition)
    members |= {key: with_expressions(definition, members[key]) for key in TAKE_EXPRESSIONS if key in members}
    if isinstance(policies := members.get("RetryPolicies"), list):
        members["RetryPolicies"] = [
            {**policy, "ExceptionType": [kind]} if isinstance(kind := at(policy, "ExceptionType"), str) else policy
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
    value = arguments if step.type == "Condition" else with_expressions(definition, arguments)
    if step_type.creates:
        schema = operation(step_type.creates, "input")
        required = [name for name in schema["required"] if name != step_type.name_member]
        yield from differences(value, {**schema, "required": required}, step_type.creates)
    elif f"{step.type}Arguments" in FORMAT:
        yield from format_differences(value, f"{step.type}Arguments", f"{step.type} step")


# the properties of steps


def property_problems(definition: Definition, step: Step) -> Iterator[str]:
    """Yield what the step reads that the service does not return, or that is no single value where one is needed."""
    for expression in expressions(step.own):
        is_operand = "Get" not in expression or step.type not in STEP_TYPES or not STEP_TYPES[step.type].creates
        for reference in readable(expression):
            if reference.root != "Steps" or missing(definition, reference):
                continue
            try:
                found = property_type(definition.steps[reference.name], reference)
            except PathError as error:
                yield f"{reference.text}, but {error}"
                continue
            if is_operand and found is not None and found not in SINGLE:
                kind = "a list" if found == "array" else "an object"
                yield f"{reference.text}, which is {kind}, but a single value is needed."


def value_type(definition: Definition, expression: Any) -> tuple[str | None, Mapping[str, Any] | None]:
    """Return the type of an expression's value as JSON Schema names it, if it is known, and its parameter."""
    if "Std:Join" in expression:
        return "string", None
    found = readable(expression) if "Get" in expression else []
    if not found or missing(definition, found[0]):
        return None, None
    if found[0].root == "Parameters":
        parameter = definition.parameters[found[0].name]
        return TYPES.get(str(parameter.get("Type"))), parameter
    try:
        return property_type(definition.steps[found[0].name], found[0]) if found[0].root == "Steps" else "string", None
    except PathError:
        return None, None


def property_type(step: Step, reference: Reference) -> str | None:
    """Return the type of an existing property; None where only the run will tell.

    Raises:
        PathError: the service returns no such thing.
    """
    step_type, path = STEP_TYPES.get(step.type), reference.path
    if reference.property_file is not None or step_type is None or not path:
        return None
    if step_type.properties:
        output_type = step.declared_outputs.get(str(path[-1]))
        return "string" if step_type.properties == "Outcome" else TYPES.get(str(output_type))
    if not step_type.reads:
        return None
    schema = response(step.type)
    for depth, token in enumerate(path):
        inner = child(schema, token)
        if inner is None:
            where, hint = format_path(path[:depth]), did_you_mean(str(token), schema.get("properties", ()))
            if where and "properties" not in schema:
                raise PathError(f"{where} has no members that {str(token)!r} could name.")
            raise PathError(f"{step_type.reads[0]} returns no {token}{f' in {where}' if where else ''}.{hint}")
        declared = None if "properties" in schema else declared_entries(step, path[:depth])
        if declared is not None:
            look_up({str(path[depth - 1]): declared}, path[depth - 1 : depth + 1])
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
    if (step.type, path[-1]) == ("Training", "FinalMetricDataList"):
        return metric_definitions(step.arguments)
    if (step.type, path[-1]) == ("Tuning", "TunedHyperParameters"):
        return searched_hyperparameters(step.arguments)
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
