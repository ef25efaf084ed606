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
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.definition.expressions import Scope, describe, resolve
from pipeline.definition.paths import kind_of, listing
from pipeline.errors import PipelineError
from pipeline.suggestion import did_you_mean

Condition = Mapping[str, Any]

_ORDERED = ("a number", "a string")
_COMPARABLE = (*_ORDERED, "a boolean")


class ConditionError(PipelineError):
    """A condition is not well formed, or its operands do not compare."""


def holds(condition: Condition | list[Condition], scope: Scope) -> bool:
    """Whether a condition, or every condition of a list, is true."""
    if isinstance(condition, list):
        return all(_outcomes(condition, scope))
    faults = condition_faults(condition)
    if faults:
        raise ConditionError(" ".join(faults))
    return _CONDITIONS[condition["Type"]](condition, scope)


def _outcomes(conditions: list[Condition], scope: Scope) -> list[bool]:
    """The outcome of every condition: none is skipped."""
    return [holds(condition, scope) for condition in conditions]


def condition_faults(condition: Any) -> list[str]:
    """What is wrong with a condition's form, one sentence each; values are not looked at."""
    if not isinstance(condition, dict) or not isinstance(condition.get("Type"), str):
        return [f"A condition needs a Type, one of {listing(_FIELDS)}."]
    condition_type = condition["Type"]
    if condition_type not in _FIELDS:
        known = f"known are {listing(_FIELDS)}"
        return [f"Condition type {condition_type!r} is not known; {known}.{did_you_mean(condition_type, _FIELDS)}"]
    missing = [name for name in _FIELDS[condition_type] if name not in condition]
    if missing:
        return [f"A condition of type {condition_type} lacks {listing(missing)}."]
    lists = [name for name in ("Values", "Conditions") if name in _FIELDS[condition_type]]
    if any(not isinstance(condition[name], list) for name in lists):
        return [f"A condition of type {condition_type} needs a list as {lists[0]}."]
    nested = [condition["Condition"]] if condition_type == "Not" else condition.get("Conditions", [])
    return [fault for member in nested for fault in condition_faults(member)]


def _equals(condition: Condition, scope: Scope) -> bool:
    left, right = _operands(condition, scope, accepted=_COMPARABLE)
    return bool(left == right)


def _ordering(compare: Callable[[Any, Any], Any]) -> Callable[[Condition, Scope], bool]:
    def ordered(condition: Condition, scope: Scope) -> bool:
        left, right = _operands(condition, scope, accepted=_ORDERED)
        return bool(compare(left, right))

    return ordered


def _is_in(condition: Condition, scope: Scope) -> bool:
    query = _operand(condition, "QueryValue", scope, accepted=_COMPARABLE)
    values = resolve(condition["Values"], scope)
    return any(kind_of(value) == kind_of(query) and value == query for value in values)


def _not(condition: Condition, scope: Scope) -> bool:
    return not holds(condition["Condition"], scope)


def _or(condition: Condition, scope: Scope) -> bool:
    return any(_outcomes(condition["Conditions"], scope))


def _operands(condition: Condition, scope: Scope, *, accepted: tuple[str, ...]) -> tuple[Any, Any]:
    """Both sides of a comparison, of one type."""
    left, right = (_operand(condition, name, scope, accepted=accepted) for name in ("LeftValue", "RightValue"))
    if kind_of(left) != kind_of(right):
        sides = (_side(condition[name], value) for name, value in (("LeftValue", left), ("RightValue", right)))
        raise ConditionError(
            f"{condition['Type']} compares {' with '.join(sides)}, but both must be of the same type. "
            "Convert one of them where it is written."
        )
    return left, right


def _operand(condition: Condition, name: str, scope: Scope, *, accepted: tuple[str, ...]) -> Any:
    value = resolve(condition[name], scope)
    is_undefined = isinstance(value, float) and math.isnan(value)
    if kind_of(value) not in accepted or is_undefined:
        found = "not a number (NaN)" if is_undefined else kind_of(value)
        raise ConditionError(
            f"{condition['Type']} takes {', '.join(accepted[:-1])} or {accepted[-1]} as {name}, "
            f"but {describe(condition[name])} is {found}."
        )
    return value


def _side(expression: Any, value: Any) -> str:
    """An operand with what it stands for: `Parameters.MinAccuracy = 0.8 (a number)`."""
    written, literal = describe(expression), describe(value)
    return f"{literal if written == literal else f'{written} = {literal}'} ({kind_of(value)})"


_COMPARISON = ("LeftValue", "RightValue")
_FIELDS: dict[str, tuple[str, ...]] = {
    "Equals": _COMPARISON,
    "GreaterThan": _COMPARISON,
    "GreaterThanOrEqualTo": _COMPARISON,
    "LessThan": _COMPARISON,
    "LessThanOrEqualTo": _COMPARISON,
    "In": ("QueryValue", "Values"),
    "Not": ("Condition",),
    "Or": ("Conditions",),
}
_CONDITIONS: dict[str, Callable[[Condition, Scope], bool]] = {
    "Equals": _equals,
    "GreaterThan": _ordering(operator.gt),
    "GreaterThanOrEqualTo": _ordering(operator.ge),
    "LessThan": _ordering(operator.lt),
    "LessThanOrEqualTo": _ordering(operator.le),
    "In": _is_in,
    "Not": _not,
    "Or": _or,
}
