"""The outputs of a Lambda step: what the function answered, in the types that the step declares."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.definition.expressions import text_of
from pipeline.errors import PipelineError


class OutputError(PipelineError):
    """A function's answer is not what the step declares."""


def typed_outputs(declared: Sequence[Mapping[str, Any]], answer: Any) -> dict[str, Any]:
    """The declared outputs of an answer, each a value of its OutputType; others are ignored.

    Raises:
        OutputError: one is missing or of another type.
    """
    names = [str(output.get("OutputName")) for output in declared]
    missing = [name for name in names if not isinstance(answer, dict) or name not in answer]
    if missing:
        raise OutputError(
            f"The function's answer lacks the output parameter {missing[0]!r}; it must be a dictionary with "
            f"{', '.join(names)}."
        )
    return {name: typed(output, answer[name]) for name, output in zip(names, declared, strict=True)}


def typed(output: Mapping[str, Any], value: Any) -> Any:
    """One value. Text that reads as the type is taken for it; a nested value becomes JSON text, as the service does.

    Raises:
        OutputError: it is of another type.
    """
    wanted = str(output.get("OutputType", "String"))
    flat = json.dumps(value) if isinstance(value, dict | list) else value
    convert: Callable[[Any], Any] = CONVERSIONS.get(wanted, as_string)
    converted = None if flat is None else convert(flat)
    if converted is None:
        found = repr(value) if isinstance(value, str) else json.dumps(value)
        raise OutputError(f"The function's output parameter {output['OutputName']!r} must be {wanted}, but is {found}.")
    return converted


def as_string(value: Any) -> str | None:
    """Text."""
    return text_of(value)


def as_integer(value: Any) -> int | None:
    """A whole number."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"[+-]?[0-9]+", value) else None
    return int(value) if float(value).is_integer() else None


def as_float(value: Any) -> float | None:
    """A number."""
    try:
        return None if isinstance(value, bool) else float(value)
    except ValueError:
        return None


def as_boolean(value: Any) -> bool | None:
    """true or false."""
    return value if isinstance(value, bool) else {"true": True, "false": False}.get(str(value).lower())


CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "String": as_string,
    "Integer": as_integer,
    "Float": as_float,
    "Boolean": as_boolean,
}
