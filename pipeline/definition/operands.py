"""The operands of conditions and of Std:Join: single values, and where two are compared, of one type.

Values of different types do not compare: the service fails such a step when it runs.
"""

from collections.abc import Callable, Iterator
from typing import Any

from pipeline.definition.expressions import describe, is_expression
from pipeline.definition.paths import kind_of

COMPARISONS = ("Equals", "GreaterThan", "GreaterThanOrEqualTo", "LessThan", "LessThanOrEqualTo")
OPERANDS = ("LeftValue", "RightValue", "QueryValue")
TypeOf = Callable[[Any], str | None]
# The types of shapes as conditions compare them.
GROUPS = {
    "string": "a string",
    "timestamp": "a string",
    "integer": "a number",
    "long": "a number",
    "float": "a number",
    "double": "a number",
    "boolean": "a boolean",
}


def condition_operand_faults(condition: Any, type_of: TypeOf) -> Iterator[str]:
    """What is wrong with the operands of a condition and of those within it."""
    if not isinstance(condition, dict):
        return
    nested = condition.get("Conditions")
    for inner in [condition.get("Condition"), *(nested if isinstance(nested, list) else [])]:
        yield from condition_operand_faults(inner, type_of)
    given = [condition[name] for name in OPERANDS if name in condition]
    values = condition.get("Values")
    for operand in [*given, *(values if isinstance(values, list) else [])]:
        if not is_single(operand):
            yield f"{condition.get('Type')} compares single values, but got {kind_of(operand)}."
    yield from type_faults(condition, given, type_of)


def type_faults(condition: dict[str, Any], operands: list[Any], type_of: TypeOf) -> Iterator[str]:
    """Two operands whose types are known and differ."""
    groups = [group_of(operand, type_of) for operand in operands]
    if condition.get("Type") in COMPARISONS and None not in groups and len(set(groups)) > 1:
        sides = " with ".join(f"{describe(operand)} ({group})" for operand, group in zip(operands, groups, strict=True))
        yield f"{condition['Type']} compares {sides}, but both must be of the same type."


def group_of(operand: Any, type_of: TypeOf) -> str | None:
    """How conditions compare the operand; None when only the run will tell, or when it is no single value."""
    if is_expression(operand):
        return GROUPS.get(type_of(operand) or "")
    return kind_of(operand) if is_single(operand) else None


def join_faults(expression: Any) -> Iterator[str]:
    """The values of a Std:Join, here or within the expression, that have no text."""
    if isinstance(expression, dict | list):
        for member in expression.values() if isinstance(expression, dict) else expression:
            yield from join_faults(member)
    join = expression.get("Std:Join") if isinstance(expression, dict) else None
    values = join.get("Values") if isinstance(join, dict) else None
    for value in values if isinstance(values, list) else []:
        if not is_single(value):
            yield f"Std:Join takes text, numbers and booleans, but got {kind_of(value)}."


def is_single(value: Any) -> bool:
    """Whether it is, or stands for, a single value."""
    return is_expression(value) or isinstance(value, str | bool | int | float)
