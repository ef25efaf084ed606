"""Conditions of a Condition step, as plain data.

    {"Type": "GreaterThanOrEqualTo", "LeftValue": {"Std:JsonGet": ...}, "RightValue": {"Get": "Parameters.MinAccuracy"}}
    {"Type": "In", "QueryValue": ..., "Values": [...]}
    {"Type": "Not", "Condition": {...}}        {"Type": "Or", "Conditions": [...]}

A list of conditions holds when all of them hold. Every operand is resolved, also where the outcome is already known, so
that a mistake shows whatever the values are. Values of different types do not compare: that fails the step, as in
SageMaker; integers and floats are both numbers.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.definition.expressions import Scope, describe, is_expression, is_single, resolve
from pipeline.definition.paths import kind_of, listing, quoted
from pipeline.errors import PipelineError
from pipeline.suggestion import did_you_mean

Condition = Mapping[str, Any]
TypeOf = Callable[[Any], str | None]
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
ORDERED = ("a number", "a string")
COMPARABLE = (*ORDERED, "a boolean")
GROUPS = {  # the types of shapes as conditions compare them
    **dict.fromkeys(("string", "timestamp"), "a string"),
    **dict.fromkeys(("integer", "long", "float", "double"), "a number"),
    "boolean": "a boolean",
}


class ConditionError(PipelineError):
    """A condition is not well formed, or its operands do not compare."""


def holds(condition: Condition | list[Condition], scope: Scope) -> bool:
    """Whether a condition, or every condition of a list, is true.

    Raises:
        PipelineError: a condition is not well formed, or its operands have no value or do not compare.
    """
    conditions = condition if isinstance(condition, list) else [condition]
    if faults := [fault for each in conditions for fault in condition_faults(each)]:
        raise ConditionError(" ".join(dict.fromkeys(faults)))
    return False not in [_holds(each, scope) for each in conditions]  # a list: none is skipped


def condition_faults(condition: Any) -> Iterator[str]:
    """What is wrong with a condition's form, one sentence each; values are not looked at."""
    condition_type = condition.get("Type") if isinstance(condition, dict) else None
    if not isinstance(condition_type, str):
        yield f"A condition needs a Type, one of {listing(FIELDS)}."
    elif condition_type not in FIELDS:
        near = did_you_mean(condition_type, FIELDS)
        yield f"Condition type {quoted(condition_type)} is not known; known are {listing(FIELDS)}.{near}"
    elif missing := [name for name in FIELDS[condition_type] if name not in condition]:
        yield f"A condition of type {condition_type} lacks {listing(missing)}."
    elif not isinstance(condition.get(FIELDS[condition_type][-1]), list) and condition_type in ("In", "Or"):
        yield f"A condition of type {condition_type} needs a list as {FIELDS[condition_type][-1]}."
    elif condition_type in ("Not", "Or"):
        for member in _inner(condition):
            yield from condition_faults(member)
    else:
        sides = [condition[name] for name in SIDES] if condition_type in COMPARISONS else None
        for operand in sides or [condition["QueryValue"], *condition["Values"]]:
            if not is_single(operand):
                yield f"{condition_type} compares single values, but got {kind_of(operand)}."


def _inner(condition: Condition) -> list[Any]:
    """The conditions that a Not or an Or holds."""
    return {"Not": [condition.get("Condition")], "Or": condition.get("Conditions")}.get(condition["Type"]) or []


def type_faults(condition: Condition, type_of: TypeOf) -> Iterator[str]:
    """The comparisons in a well-formed condition whose operands have known types that differ."""
    for member in _inner(condition):
        yield from type_faults(member, type_of)
    if condition["Type"] in COMPARISONS:
        compared = [
            (operand, GROUPS.get(type_of(operand) or "") if is_expression(operand) else kind_of(operand))
            for operand in (condition[name] for name in SIDES)
        ]
        groups = {group for _, group in compared}
        if None not in groups and len(groups) > 1:
            sides = " with ".join(f"{describe(operand)} ({group})" for operand, group in compared)
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
        raise ConditionError(
            f"{condition_type} compares {' with '.join(sides)}, but both must be of the same type. "
            "Convert one of them where it is written."
        )
    return bool(COMPARISONS[condition_type](left, right))


def _operand(condition: Condition, name: str, scope: Scope) -> Any:
    """The value of one side, which must be a number, a string or, where equality is asked for, a boolean."""
    value = resolve(condition[name], scope)
    accepted = COMPARABLE if condition["Type"] in ("Equals", "In") else ORDERED
    is_undefined = isinstance(value, float) and math.isnan(value)
    if kind_of(value) not in accepted or is_undefined:
        found = "not a number (NaN)" if is_undefined else kind_of(value)
        raise ConditionError(
            f"{condition['Type']} takes {', '.join(accepted[:-1])} or {accepted[-1]} as {name}, "
            f"but {describe(condition[name])} is {found}."
        )
    return value
