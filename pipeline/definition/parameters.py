"""Runtime parameters: the values given at the start, parsed by the type that the definition declares.

On the wire every value is text (StartPipelineExecution's PipelineParameters); a default is JSON of the declared type.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.definition.paths import listing
from pipeline.errors import ParameterError
from pipeline.suggestion import did_you_mean

MAX_VALUE_CHARACTERS = 1024  # of Parameter.Value, StartPipelineExecution


def bind(declared: Sequence[Mapping[str, Any]] | None, given: Mapping[str, str]) -> dict[str, Any]:
    """The typed value of every declared parameter; all problems are reported at once.

    Args:
        declared: `Parameters` of the definition: Name, Type, and optionally DefaultValue and EnumValues.
        given: parameter name -> value as text.
    """
    declared = declared or []
    if not isinstance(declared, list | tuple) or not all(isinstance(member, Mapping) for member in declared):
        raise ParameterError([f"Parameters must be a list of objects with Name and Type, but is {_quoted(declared)}."])
    names = [str(parameter.get("Name")) for parameter in declared]
    problems = [_unknown(name, names) for name in given if name not in names]
    problems += [f"Parameter '{name}' is declared twice." for name in dict.fromkeys(names) if names.count(name) > 1]
    values = {}
    for name, parameter in zip(names, declared, strict=True):
        try:
            values[name] = _value(name, parameter, given)
        except _UnusableError as error:
            problems.append(str(error))
    if problems:
        raise ParameterError(problems)
    return values


class _UnusableError(ValueError):
    """One parameter has no acceptable value; the sentence says why."""


def _unknown(name: str, names: list[str]) -> str:
    declared = f"it declares {listing(names)}" if names else "it declares none"
    return f"Parameter '{name}' is not declared by the pipeline; {declared}.{did_you_mean(name, names)}"


def _value(name: str, parameter: Mapping[str, Any], given: Mapping[str, str]) -> Any:
    parameter_type = parameter.get("Type")
    if parameter_type not in _TYPES:
        raise _UnusableError(f"Parameter '{name}' has type {parameter_type!r}; known are {listing(_TYPES)}.")
    if name in given:
        value = _TYPES[parameter_type].parse(given[name])
        found = given[name]
    elif parameter.get("DefaultValue") is not None:
        found = parameter["DefaultValue"]
        value = _TYPES[parameter_type].check(found)
    else:
        raise _UnusableError(f"Parameter '{name}' ({parameter_type}) has no default, so it needs a value.")
    if value is None:
        by = "" if name in given else " by default"
        raise _UnusableError(f"Parameter '{name}' must be {_TYPES[parameter_type].noun}, but is {_quoted(found)}{by}.")
    accepted = parameter.get("EnumValues")
    if accepted and value not in accepted:
        raise _UnusableError(
            f"Parameter '{name}' must be one of {listing(accepted)}, but is {_quoted(found)}."
            f"{did_you_mean(str(value), accepted)}"
        )
    return value


def _quoted(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


@dataclass(frozen=True)
class _Type:
    noun: str
    parse: Callable[[str], Any]  # a given text -> the value, or None
    check: Callable[[Any], Any]  # a default -> the value, or None


def _parse_string(text: str) -> str | None:
    return text if len(text) <= MAX_VALUE_CHARACTERS else None


def _parse_integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[+-]?[0-9]+", text) else None


def _parse_float(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text) else None


def _parse_boolean(text: str) -> bool | None:
    return {"true": True, "True": True, "false": False, "False": False}.get(text)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES = {
    "String": _Type(
        f"text of at most {MAX_VALUE_CHARACTERS} characters",
        _parse_string,
        lambda value: value if isinstance(value, str) else None,
    ),
    "Integer": _Type(
        "a whole number",
        _parse_integer,
        lambda value: value if _is_number(value) and isinstance(value, int) else None,
    ),
    "Float": _Type("a number", _parse_float, lambda value: float(value) if _is_number(value) else None),
    "Boolean": _Type("true or false", _parse_boolean, lambda value: value if isinstance(value, bool) else None),
}
