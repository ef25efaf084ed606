"""The Arguments of a step as the request that they become: text where the API has text, numbers where numbers are."""

import math
from typing import Any

from pipeline.definition.expressions import ExpressionError, is_expression, text_of
from pipeline.definition.schemas import LARGEST, Schema, annotated, child, differences, operation


def as_request(name: str, arguments: Any) -> Any:
    """Return the resolved Arguments of a step as the request to an operation.

    Raises:
        ExpressionError: they have no such form.
    """
    request, problems = converted(name, arguments)
    if problems:
        raise ExpressionError(" ".join(problems))
    return request


def converted(name: str, arguments: Any) -> tuple[Any, list[str]]:
    """Return Arguments in the types of an operation's request, and why some of them have no such form.

    SDK v3 puts `{"Get": "Parameters.Epochs"}` as it is among the hyperparameters, and the service makes "3" of it.
    Expressions and members that the model does not have stay as they are.
    """
    schema = operation(name, "input")
    request = coerced(arguments, schema)
    compared = annotated(request, lambda expression: (None, None))
    return request, [
        text for kind, text in differences(compared, schema, name) if kind in ("type", "minimum", "maximum")
    ]


def coerced(value: Any, schema: Schema) -> Any:
    """Return a value with text where the schema has text, numbers where it has numbers, and without nulls."""
    kind = schema.get("type")
    if kind is None or is_expression(value):
        return value
    if kind == "object" and isinstance(value, dict):
        present = {name: member for name, member in value.items() if member is not None}
        inner = {name: child(schema, name) for name in present}
        return {name: coerced(member, inner[name] or {}) for name, member in present.items()}
    if kind == "array" and isinstance(value, list):
        return [coerced(item, schema["items"]) for item in value]
    if kind == "string" and isinstance(value, bool | int | float):
        return text_of(value)
    if kind == "boolean" and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if kind in ("integer", "number") and isinstance(value, str | float):
        try:
            number = float(value)
        except ValueError:
            return value
        is_whole = math.isfinite(number) and number == int(number) and abs(number) <= LARGEST["long"]
        return int(number) if kind == "integer" and is_whole else number if math.isfinite(number) else value
    return value
