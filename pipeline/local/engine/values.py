"""What expressions and conditions are worth while an execution runs.

Every operand of a condition is resolved, also where the outcome is already known, so that a mistake shows whatever the
values are.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.definition.expressions import (
    ROOTS,
    SIDES,
    Condition,
    ExpressionError,
    PathError,
    Reference,
    as_json,
    condition_problems,
    describe,
    is_expression,
    json_tokens,
    kind_of,
    look_up,
    parse,
    text_of,
    unequal,
)
from pipeline.suggestion import did_you_mean

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "Equals": operator.eq,
    "GreaterThan": operator.gt,
    "GreaterThanOrEqualTo": operator.ge,
    "LessThan": operator.lt,
    "LessThanOrEqualTo": operator.le,
}


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


def resolve(value: Any, scope: Scope) -> Any:
    """Return a JSON value with every expression replaced by what it stands for."""
    if isinstance(value, list):
        return [resolve(member, scope) for member in value]
    if not is_expression(value):
        return {key: resolve(member, scope) for key, member in value.items()} if isinstance(value, dict) else value
    function, source = parse(value)
    if function == "Get":
        return _resolve_reference(source, scope)
    operand = value[function]
    if function == "Std:Join":
        words = [(each, resolve(each, scope)) for each in source]
        for each, word in words:
            if isinstance(word, dict | list | None):
                found = f"{describe(each)} is {kind_of(word)}"
                raise ExpressionError(f"Std:Join takes text, numbers and booleans, but {found}.")
        return str(operand.get("On", "")).join(text_of(word) for _, word in words)
    if isinstance(source, Reference):
        where = f"property file '{source.property_file}' of step '{source.name}'"
        document = scope.read_property_file(source.name, str(source.property_file))
    else:
        where = text_of(resolve(source, scope))
        document = scope.read_json(where)
    path = operand.get("Path")
    try:
        return _not_null(look_up(document, json_tokens(path), root="$", by_name=False), f"{path!r} of {where}")
    except PathError as error:
        raise ExpressionError(f"In {where}, {error}") from error


def _resolve_reference(reference: Reference, scope: Scope) -> Any:
    name, root = reference.name, reference.root
    if reference.property_file is not None:
        raise ExpressionError(f"{reference.text} is a property file, which only Std:JsonGet can read.")
    values = dict(zip(ROOTS, (scope.parameters, scope.steps, scope.execution, scope.experiment), strict=True))[root]
    if name not in values:
        why = f", because step '{name}' has not run" if root == "Steps" else " here"
        raise ExpressionError(f"{reference.text} has no value{why}.{did_you_mean(name, values)}")
    if root != "Steps":
        return resolve(values[name], scope)  # a field of the experiment may be an expression
    return _not_null(look_up(values[name], reference.path, root=f"Steps.{name}"), reference.text)


def _not_null(value: Any, what: str) -> Any:
    if value is None:
        raise ExpressionError(f"{what} is null, which is not a value.")
    return value


def holds(condition: Condition | list[Condition], scope: Scope) -> bool:
    """Return whether a condition, or every condition of a list, is true.

    Raises:
        PipelineError: a condition is not well formed, or its operands have no value or do not compare.
    """
    conditions = condition if isinstance(condition, list) else [condition]
    if problems := [problem for each in conditions for problem in condition_problems(each)]:
        raise ExpressionError(" ".join(dict.fromkeys(problems)))
    return False not in [_holds(each, scope) for each in conditions]  # a list: none is skipped


def _holds(condition: Condition, scope: Scope) -> bool:
    """Return the outcome of a well-formed condition."""
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
            written, literal = describe(condition[name]), as_json(value)
            sides.append(f"{literal if written == literal else f'{written} = {literal}'} ({kind_of(value)})")
        raise ExpressionError(f"{unequal(condition_type, sides)} Convert one of them where it is written.")
    return bool(COMPARISONS[condition_type](left, right))


def _operand(condition: Condition, name: str, scope: Scope) -> Any:
    """Return the value of one side: a number, a string or, where equality is asked for, a boolean."""
    value = resolve(condition[name], scope)
    accepted = ["a number", "a string", *(["a boolean"] if condition["Type"] in ("Equals", "In") else [])]
    is_nan = isinstance(value, float) and math.isnan(value)
    if kind_of(value) not in accepted or is_nan:
        found = "not a number (NaN)" if is_nan else kind_of(value)
        takes = f"{condition['Type']} takes {', '.join(accepted[:-1])} or {accepted[-1]} as {name}"
        raise ExpressionError(f"{takes}, but {describe(condition[name])} is {found}.")
    return value
