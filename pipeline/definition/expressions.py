"""Expressions of a pipeline definition: plain JSON values that stand for other values.

    {"Get": "Parameters.Epochs"}                            also Steps., Execution. and PipelineExperimentConfig.
    {"Std:Join": {"On": "/", "Values": [...]}}              the values as text, joined
    {"Std:JsonGet": {"PropertyFile": {"Get": "Steps.Eval.PropertyFiles.Report"}, "Path": "a.b[0]"}}
    {"Std:JsonGet": {"S3Uri": {...}, "Path": "a.b[0]"}}

`references` says what a value refers to, for the graph and for validation; `resolve` puts the values in. Both walk any
JSON. A dict is an expression when its one key is `Get` with a text, or starts with `Std:`; everything else is data.
"""

import json
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
_PROPERTY_FILE = re.compile(r"Steps\.(?P<step>[^.\[]+)\.PropertyFiles(?:\.(?P<name>.+)|\['(?P<quoted>.+)'\])\Z")


class ExpressionError(PipelineError):
    """An expression is not well formed, or has no value."""


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
    """Everything that a JSON value refers to, in order.

    Raises:
        PipelineError: an expression is not well formed.
    """
    found = []
    for expression in expressions(value):
        key, operand = _parts(expression)
        if key == "Get":
            found.append(parse_reference(operand))
        elif key == "Std:Join":
            found += references(_join_values(operand))
        else:
            source = _json_source(operand)
            found += [parse_property_file(source)] if "PropertyFile" in operand else references(source)
    return found


def parse_reference(text: str) -> Reference:
    """Read the text of a `Get`."""
    if match := _PROPERTY_FILE.match(text):
        return Reference("Steps", match["step"], property_file=match["name"] or match["quoted"], text=text)
    root, *rest = tokenize(text)
    if root not in ROOTS:
        near = did_you_mean(str(root), ROOTS)
        raise ExpressionError(f"Get {quoted(text)} does not start with one of {listing(ROOTS)}.{near}")
    if not rest or (len(rest) > 1 and root != "Steps"):
        raise ExpressionError(f"Get {quoted(text)} must name one {ROOTS[str(root)]} after '{root}.'.")
    return Reference(str(root), str(rest[0]), path=tuple(rest[1:]), text=text)


def parse_property_file(source: Any) -> Reference:
    """Read the operand of `PropertyFile`: {"Get": "Steps.<step>.PropertyFiles.<name>"}."""
    reference = parse_reference(source["Get"]) if is_expression(source) and "Get" in source else None
    if reference is None or reference.property_file is None:
        form = '{"Get": "Steps.<step>.PropertyFiles.<name>"}'
        raise ExpressionError(f"Std:JsonGet needs a PropertyFile of the form {form}, but got {brief(source)}.")
    return reference


def resolve(value: Any, scope: Scope) -> Any:
    """The same JSON value with every expression replaced by what it stands for."""
    if is_expression(value):
        key, operand = _parts(value)
        return _OPERATORS[key](operand, scope)
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
        source = operand.get("PropertyFile", operand.get("S3Uri"))
        return f"{operand.get('Path')!r} of {describe(source)}"
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
    if key not in _OPERATORS:
        raise ExpressionError(f"Function {quoted(key)} is not known.{did_you_mean(key, _OPERATORS)}")
    return key, operand


def _get(text: str, scope: Scope) -> Any:
    reference = parse_reference(text)
    name, root = reference.name, reference.root
    if reference.property_file is not None:
        raise ExpressionError(f"{text} is a property file, which only Std:JsonGet can read.")
    values = dict(zip(ROOTS, (scope.parameters, scope.steps, scope.execution, scope.experiment), strict=True))
    if name not in values[root]:
        why = f", because step '{name}' has not run" if root == "Steps" else " here"
        raise ExpressionError(f"{text} has no value{why}.{did_you_mean(name, values[root])}")
    if root != "Steps":
        return resolve(values[root][name], scope)  # a field of the experiment may be an expression
    return _defined(look_up(values[root][name], reference.path, root=f"Steps.{name}"), text)


def _join(operand: Any, scope: Scope) -> str:
    words = []
    for value in _join_values(operand):
        resolved = resolve(value, scope)
        if isinstance(resolved, dict | list) or resolved is None:
            accepted = "text, numbers and booleans"
            raise ExpressionError(f"Std:Join takes {accepted}, but {describe(value)} is {kind_of(resolved)}.")
        words.append(text_of(resolved))
    return str(operand.get("On", "")).join(words)


def _join_values(operand: Any) -> list[Any]:
    values = operand.get("Values") if isinstance(operand, dict) else None
    if not isinstance(values, list):
        raise ExpressionError(f"Std:Join needs On and a list of Values, but got {brief(operand)}.")
    if not isinstance(operand.get("On", ""), str):
        raise ExpressionError(f"Std:Join needs a text as On, but got {brief(operand['On'])}.")
    if others := [value for value in values if not is_single(value)]:
        raise ExpressionError(f"Std:Join takes text, numbers and booleans, but got {kind_of(others[0])}.")
    return values


def _json_get(operand: Any, scope: Scope) -> Any:
    source = _json_source(operand)
    path = operand.get("Path")
    if "PropertyFile" in operand:
        reference = parse_property_file(source)
        root = f"property file '{reference.property_file}' of step '{reference.name}'"
        document = scope.read_property_file(reference.name, str(reference.property_file))
    else:
        root = text_of(resolve(source, scope))
        document = scope.read_json(root)
    try:
        value = json_get(document, path, root="$")
    except PathError as error:
        raise ExpressionError(f"In {root}, {error}") from error
    return _defined(value, f"{path!r} of {root}")


def _json_source(operand: Any) -> Any:
    """The PropertyFile or S3Uri of a well-formed `Std:JsonGet`."""
    keys = [key for key in ("PropertyFile", "S3Uri") if isinstance(operand, dict) and key in operand]
    if len(keys) != 1 or not isinstance(operand.get("Path"), str | None):
        raise ExpressionError(f"Std:JsonGet needs a Path and a PropertyFile or an S3Uri, but got {brief(operand)}.")
    source = operand[keys[0]]
    if not is_single(source):
        raise ExpressionError(f"Std:JsonGet needs a text as {keys[0]}, but got {kind_of(source)}.")
    return source


def _defined(value: Any, what: str) -> Any:
    if value is None:
        raise ExpressionError(f"{what} is null, which is not a value.")
    return value


_OPERATORS: dict[str, Callable[[Any, Scope], Any]] = {"Get": _get, "Std:Join": _join, "Std:JsonGet": _json_get}
