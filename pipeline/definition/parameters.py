"""Runtime parameters: the values given at the start, parsed by the type that the definition declares.

On the wire every value is text (StartPipelineExecution's PipelineParameters); a default is JSON of the declared type.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.definition.paths import listing, quoted
from pipeline.errors import ParameterError
from pipeline.suggestion import did_you_mean

MAX_VALUE_CHARACTERS = 1024  # of Parameter.Value, StartPipelineExecution
NOUNS = {
    "String": f"text of at most {MAX_VALUE_CHARACTERS} characters",
    "Integer": "a whole number",
    "Float": "a number",
    "Boolean": "true or false",
}
NUMBERS = {"Integer": r"[+-]?[0-9]+", "Float": r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"}
SWITCHES = {"true": True, "True": True, "false": False, "False": False}


def bind(declared: Sequence[Mapping[str, Any]] | None, given: Mapping[str, str]) -> dict[str, Any]:
    """Return the typed value of every parameter of a definition, from the texts that are given and the defaults.

    Raises:
        ParameterError: with every problem.
    """
    declared = declared or []
    if not isinstance(declared, list | tuple) or not all(isinstance(member, Mapping) for member in declared):
        raise ParameterError(["Parameters must be a list of objects with Name and Type."])
    names = [str(parameter.get("Name")) for parameter in declared]
    known = f"it declares {listing(names)}" if names else "it declares none"
    problems = [
        f"Parameter {quoted(name)} is not declared by the pipeline; {known}.{did_you_mean(name, names)}"
        for name in given
        if name not in names
    ]
    problems += [f"Parameter '{name}' is declared twice." for name in dict.fromkeys(names) if names.count(name) > 1]
    values = {}
    for name, parameter in zip(names, declared, strict=True):
        try:
            values[name] = _value(parameter, given.get(name))
        except ValueError as error:
            problems.append(f"Parameter '{name}' {error}")
    if problems:
        raise ParameterError(problems)
    return values


def _value(parameter: Mapping[str, Any], given: str | None) -> Any:
    """One parameter's value; a ValueError completes the sentence that begins with its name."""
    parameter_type, default, accepted = (parameter.get(key) for key in ("Type", "DefaultValue", "EnumValues"))
    if not isinstance(parameter_type, str) or parameter_type not in NOUNS:
        raise ValueError(f"has type {quoted(parameter_type)}; known are {listing(NOUNS)}.")
    if given is None and default is None:
        raise ValueError(f"({parameter_type}) has no default, so it needs a value.")
    value = _checked(default if given is None else _parsed(given, parameter_type), parameter_type)
    if value is None:
        found = f"{quoted(default)} by default" if given is None else quoted(given)
        raise ValueError(f"must be {NOUNS[parameter_type]}, but is {found}.")
    if isinstance(accepted, list) and accepted and value not in accepted:
        near = did_you_mean(str(value), [each for each in accepted if isinstance(each, str)])
        raise ValueError(f"must be one of {listing(accepted)}, but is {quoted(value)}.{near}")
    return value


def _parsed(text: str, parameter_type: str) -> Any:
    """The value of a given text; None when it has none of that type."""
    if len(text) > MAX_VALUE_CHARACTERS:
        return None
    if parameter_type in NUMBERS:
        convert = int if parameter_type == "Integer" else float
        return convert(text) if re.fullmatch(NUMBERS[parameter_type], text) else None
    return SWITCHES.get(text) if parameter_type == "Boolean" else text


def _checked(value: Any, parameter_type: str) -> Any:
    """A value of that type; None when it is of another."""
    if parameter_type in ("String", "Boolean"):
        return value if isinstance(value, str if parameter_type == "String" else bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float if parameter_type == "Float" else int):
        return None
    if parameter_type == "Integer":
        return value
    return float(value) if math.isfinite(value) else None
