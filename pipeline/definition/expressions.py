"""Expressions of a pipeline definition, plain JSON values that stand for other values, and the conditions over them.

    {"Get": "Parameters.Epochs"}                            also Steps., Execution. and PipelineExperimentConfig.
    {"Std:Join": {"On": "/", "Values": [...]}}              the values as text, joined
    {"Std:JsonGet": {"PropertyFile": {"Get": "Steps.Eval.PropertyFiles.Report"}, "Path": "a.b[0]"}}
    {"Std:JsonGet": {"S3Uri": {...}, "Path": "a.b[0]"}}

A dict is an expression when its one key is `Get` with a text, or starts with `Std:`; everything else is data.
`references` says what a value refers to, for the graph and for the checker; `resolve` puts the values in.

    {"Type": "GreaterThanOrEqualTo", "LeftValue": {"Std:JsonGet": ...}, "RightValue": {"Get": "Parameters.MinAccuracy"}}
    {"Type": "In", "QueryValue": ..., "Values": [...]}
    {"Type": "Not", "Condition": {...}}        {"Type": "Or", "Conditions": [...]}

A list of conditions holds when all of them hold. Every operand is resolved, also where the outcome is already known, so
that a mistake shows whatever the values are. Values of different types do not compare: that fails the step, as in
SageMaker; integers and floats are both numbers.
"""

import contextlib
import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.definition.paths import LONGEST, PathError, Token, json_get, kind_of, listing, look_up, quoted, tokenize
from pipeline.errors import PipelineError
from pipeline.suggestion import did_you_mean

EXECUTION_VARIABLES = (
    *("StartDateTime", "CurrentDateTime", "PipelineName", "PipelineArn", "PipelineExecutionId", "PipelineExecutionArn"),
    *("TrainingJobName", "ProcessingJobName"),
)
ROOTS = {  # what a Get begins with, and the noun for what is named after it
    "Parameters": "parameter",
    "Steps": "step",
    "Execution": "execution variable",
    "PipelineExperimentConfig": "field of PipelineExperimentConfig",
}
PROPERTY_FILE = re.compile(r"Steps\.(?P<step>[^.\[]+)\.PropertyFiles(?:\.(?P<name>.+)|\['(?P<quoted>.+)'\])\Z")
Condition = Mapping[str, Any]
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "Equals": operator.eq,
    "GreaterThan": operator.gt,
    "GreaterThanOrEqualTo": operator.ge,
    "LessThan": operator.lt,
    "LessThanOrEqualTo": operator.le,
}
SIDES = ("LeftValue", "RightValue")
FIELDS = {
    **dict.fromkeys(COMPARISONS, SIDES),
    "In": ("QueryValue", "Values"),
    "Not": ("Condition",),
    "Or": ("Conditions",),
}
KINDS = {"string": "a string", "integer": "a number", "number": "a number", "boolean": "a boolean"}


class ExpressionError(PipelineError):
    """An expression or a condition is not well formed, has no value, or values that do not compare."""


@dataclass(frozen=True)
class Reference:
    """What one `Get` refers to: `root` is Parameters, Steps, Execution or PipelineExperimentConfig."""

    root: str
    name: str
    path: tuple[Token, ...] = ()  # the property below the step
    property_file: str | None = None  # its name, when the step is read through one
    text: str = field(default="", compare=False)  # as it is written


@dataclass(frozen=True)
class Scope:
    """Where the values of expressions come from.

    `parameters` are typed; `steps` holds the property document of each step that has ended (what its Describe operation
    returns); a variable that has no value yet is absent from `execution`. The readers raise a `PipelineError`.
    """

    parameters: Mapping[str, Any]
    steps: Mapping[str, Any]
    execution: Mapping[str, Any]
    read_property_file: Callable[[str, str], Any]  # (step name, property file name) -> parsed JSON
    read_json: Callable[[str], Any]  # (S3 URI) -> parsed JSON
    experiment: Mapping[str, Any] = field(default_factory=dict)  # PipelineExperimentConfig, itself of expressions


def is_expression(value: Any) -> bool:
    """Whether this JSON value stands for another one."""
    if not isinstance(value, dict) or len(value) != 1:
        return False
    key, operand = next(iter(value.items()))
    return isinstance(operand, str) if key == "Get" else key.startswith("Std:")


def is_single(value: Any) -> bool:
    """Whether it is, or stands for, a single value."""
    return is_expression(value) or isinstance(value, str | bool | int | float)


def expressions(value: Any) -> Iterator[dict[str, Any]]:
    """All outermost expressions in a JSON value, in order."""
    if is_expression(value):
        yield value
    elif isinstance(value, dict | list):
        for member in value.values() if isinstance(value, dict) else value:
            yield from expressions(member)


def references(value: Any) -> list[Reference]:
    """Everything that a JSON value refers to, in order; a PipelineError if an expression is not well formed."""
    found = []
    for expression in expressions(value):
        key, operand = _parts(expression)
        if key == "Get":
            found.append(parse_reference(operand))
        elif key == "Std:Join":
            found += references(_join_values(operand))
        else:
            source = _json_source(operand)
            found += [source] if isinstance(source, Reference) else references(source)
    return found


def readable(value: Any) -> list[Reference]:
    """Everything that a JSON value refers to, as far as its expressions can be read."""
    found = []
    for expression in expressions(value):
        with contextlib.suppress(PipelineError):
            found += references(expression)
    return found


def parse_reference(text: str) -> Reference:
    """Read the text of a `Get`."""
    if match := PROPERTY_FILE.match(text):
        return Reference("Steps", match["step"], property_file=match["name"] or match["quoted"], text=text)
    root, *rest = tokenize(text)
    if root not in ROOTS:
        near = did_you_mean(str(root), ROOTS)
        raise ExpressionError(f"Get {quoted(text)} does not start with one of {listing(ROOTS)}.{near}")
    if not rest or (len(rest) > 1 and root != "Steps"):
        raise ExpressionError(f"Get {quoted(text)} must name one {ROOTS[str(root)]} after '{root}.'.")
    return Reference(str(root), str(rest[0]), path=tuple(rest[1:]), text=text)


def resolve(value: Any, scope: Scope) -> Any:
    """The same JSON value with every expression replaced by what it stands for."""
    if is_expression(value):
        key, operand = _parts(value)
        return OPERATORS[key](operand, scope)
    if isinstance(value, dict):
        return {key: resolve(member, scope) for key, member in value.items()}
    if isinstance(value, list):
        return [resolve(member, scope) for member in value]
    return value


def describe(value: Any) -> str:
    """An operand in a few words, for error sentences: the path that it reads, or the literal."""
    if not is_expression(value):
        return brief(value)
    key, operand = _parts(value)
    if key == "Get":
        return str(operand)
    if key == "Std:JsonGet" and isinstance(operand, dict):
        return f"{operand.get('Path')!r} of {describe(operand.get('PropertyFile', operand.get('S3Uri')))}"
    return key


def brief(value: Any) -> str:
    """A value as JSON, cut off where it is long."""
    text = json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def text_of(value: Any) -> str:
    """A value as `Std:Join` and the string fields of a request carry it: numbers and booleans as JSON writes them."""
    if isinstance(value, dict | list | None):
        raise ExpressionError(f"Only text, numbers and booleans have a text form, but got {kind_of(value)}.")
    return value if isinstance(value, str) else json.dumps(value)


def _parts(expression: dict[str, Any]) -> tuple[str, Any]:
    key, operand = next(iter(expression.items()))
    if key not in OPERATORS:
        raise ExpressionError(f"Function {quoted(key)} is not known.{did_you_mean(key, OPERATORS)}")
    return key, operand


def _get(text: str, scope: Scope) -> Any:
    reference = parse_reference(text)
    name, root = reference.name, reference.root
    if reference.property_file is not None:
        raise ExpressionError(f"{text} is a property file, which only Std:JsonGet can read.")
    values = dict(zip(ROOTS, (scope.parameters, scope.steps, scope.execution, scope.experiment), strict=True))[root]
    if name not in values:
        why = f", because step '{name}' has not run" if root == "Steps" else " here"
        raise ExpressionError(f"{text} has no value{why}.{did_you_mean(name, values)}")
    if root != "Steps":
        return resolve(values[name], scope)  # a field of the experiment may be an expression
    return _defined(look_up(values[name], reference.path, root=f"Steps.{name}"), text)


def _join(operand: Any, scope: Scope) -> str:
    words = []
    for value in _join_values(operand):
        resolved = resolve(value, scope)
        if isinstance(resolved, dict | list | None):
            found = f"{describe(value)} is {kind_of(resolved)}"
            raise ExpressionError(f"Std:Join takes text, numbers and booleans, but {found}.")
        words.append(text_of(resolved))
    return str(operand.get("On", "")).join(words)


def _join_values(operand: Any) -> list[Any]:
    """The Values of a well-formed `Std:Join`."""
    values = operand.get("Values") if isinstance(operand, dict) else None
    if not isinstance(values, list):
        raise ExpressionError(f"Std:Join needs On and a list of Values, but got {brief(operand)}.")
    if not isinstance(operand.get("On", ""), str):
        raise ExpressionError(f"Std:Join needs a text as On, but got {brief(operand['On'])}.")
    if others := [value for value in values if not is_single(value)]:
        raise ExpressionError(f"Std:Join takes text, numbers and booleans, but got {kind_of(others[0])}.")
    return values


def _json_get(operand: Any, scope: Scope) -> Any:
    source, path = _json_source(operand), operand.get("Path")
    if isinstance(source, Reference):
        root = f"property file '{source.property_file}' of step '{source.name}'"
        document = scope.read_property_file(source.name, str(source.property_file))
    else:
        root = text_of(resolve(source, scope))
        document = scope.read_json(root)
    try:
        return _defined(json_get(document, path, root="$"), f"{path!r} of {root}")
    except PathError as error:
        raise ExpressionError(f"In {root}, {error}") from error


def _json_source(operand: Any) -> Any:
    """What a well-formed `Std:JsonGet` reads: the Reference to a property file, or the S3Uri."""
    keys = [key for key in ("PropertyFile", "S3Uri") if isinstance(operand, dict) and key in operand]
    if len(keys) != 1 or not isinstance(operand.get("Path"), str | None):
        raise ExpressionError(f"Std:JsonGet needs a Path and a PropertyFile or an S3Uri, but got {brief(operand)}.")
    source = operand[keys[0]]
    if not is_single(source):
        raise ExpressionError(f"Std:JsonGet needs a text as {keys[0]}, but got {kind_of(source)}.")
    if keys == ["S3Uri"]:
        return source
    reference = parse_reference(source["Get"]) if is_expression(source) and "Get" in source else None
    if reference is None or reference.property_file is None:
        form = '{"Get": "Steps.<step>.PropertyFiles.<name>"}'
        raise ExpressionError(f"Std:JsonGet needs a PropertyFile of the form {form}, but got {brief(source)}.")
    return reference


def _defined(value: Any, what: str) -> Any:
    if value is None:
        raise ExpressionError(f"{what} is null, which is not a value.")
    return value


OPERATORS: dict[str, Callable[[Any, Scope], Any]] = {"Get": _get, "Std:Join": _join, "Std:JsonGet": _json_get}

# conditions


def holds(condition: Condition | list[Condition], scope: Scope) -> bool:
    """Whether a condition, or every condition of a list, is true.

    Raises:
        PipelineError: a condition is not well formed, or its operands have no value or do not compare.
    """
    conditions = condition if isinstance(condition, list) else [condition]
    if problems := [problem for each in conditions for problem in condition_problems(each)]:
        raise ExpressionError(" ".join(dict.fromkeys(problems)))
    return False not in [_holds(each, scope) for each in conditions]  # a list: none is skipped


def condition_problems(condition: Any) -> Iterator[str]:
    """What is wrong with a condition's form, one sentence each; values are not looked at."""
    condition_type = condition.get("Type") if isinstance(condition, dict) else None
    if not isinstance(condition_type, str):
        yield f"A condition needs a Type, one of {listing(FIELDS)}."
    elif condition_type not in FIELDS:
        near = did_you_mean(condition_type, FIELDS)
        yield f"Condition type {quoted(condition_type)} is not known; known are {listing(FIELDS)}.{near}"
    elif missing := [name for name in FIELDS[condition_type] if name not in condition]:
        yield f"A condition of type {condition_type} lacks {listing(missing)}."
    elif condition_type in ("In", "Or") and not isinstance(condition[FIELDS[condition_type][-1]], list):
        yield f"A condition of type {condition_type} needs a list as {FIELDS[condition_type][-1]}."
    elif condition_type in ("Not", "Or"):
        for inner in inner_conditions(condition):
            yield from condition_problems(inner)
    else:
        values = [condition[name] for name in FIELDS[condition_type]]
        for operand in [values[0], *values[1]] if condition_type == "In" else values:
            if not is_single(operand):
                yield f"{condition_type} compares single values, but got {kind_of(operand)}."


def inner_conditions(condition: Condition) -> list[Any]:
    """The conditions that a Not or an Or holds."""
    return {"Not": [condition.get("Condition")], "Or": condition.get("Conditions")}.get(condition["Type"]) or []


def type_problems(condition: Condition, type_of: Callable[[Any], str | None]) -> Iterator[str]:
    """The comparisons in a well-formed condition whose operands have known types that differ."""
    for inner in inner_conditions(condition):
        yield from type_problems(inner, type_of)
    if condition["Type"] in COMPARISONS:
        operands = [condition[name] for name in SIDES]
        kinds = [KINDS.get(type_of(each) or "") if is_expression(each) else kind_of(each) for each in operands]
        if None not in kinds and kinds[0] != kinds[1]:
            sides = " with ".join(f"{describe(each)} ({kind})" for each, kind in zip(operands, kinds, strict=True))
            yield f"{condition['Type']} compares {sides}, but both must be of the same type."


def _holds(condition: Condition, scope: Scope) -> bool:
    """The outcome of a well-formed condition."""
    condition_type = condition["Type"]
    if condition_type == "Not":
        return not _holds(condition["Condition"], scope)
    if condition_type == "Or":
        return True in [_holds(each, scope) for each in condition["Conditions"]]
    if condition_type == "In":
        query = _operand(condition, "QueryValue", scope)
        values = resolve(condition["Values"], scope)
        return any(kind_of(value) == kind_of(query) and value == query for value in values)
    left, right = (_operand(condition, name, scope) for name in SIDES)
    if kind_of(left) != kind_of(right):
        sides = []
        for name, value in zip(SIDES, (left, right), strict=True):
            written, literal = describe(condition[name]), describe(value)
            sides.append(f"{literal if written == literal else f'{written} = {literal}'} ({kind_of(value)})")
        raise ExpressionError(
            f"{condition_type} compares {' with '.join(sides)}, but both must be of the same type. "
            "Convert one of them where it is written."
        )
    return bool(COMPARISONS[condition_type](left, right))


def _operand(condition: Condition, name: str, scope: Scope) -> Any:
    """The value of one side, which must be a number, a string or, where equality is asked for, a boolean."""
    value = resolve(condition[name], scope)
    accepted = ["a number", "a string", *(["a boolean"] if condition["Type"] in ("Equals", "In") else [])]
    is_undefined = isinstance(value, float) and math.isnan(value)
    if kind_of(value) not in accepted or is_undefined:
        found = "not a number (NaN)" if is_undefined else kind_of(value)
        raise ExpressionError(
            f"{condition['Type']} takes {', '.join(accepted[:-1])} or {accepted[-1]} as {name}, "
            f"but {describe(condition[name])} is {found}."
        )
    return value
