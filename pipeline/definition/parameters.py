"""Runtime parameters: the values given at the start, parsed by the type that the definition declares.

On the wire every value is text (StartPipelineExecution's PipelineParameters); a default is JSON of the declared type.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.definition.expressions import listing, quoted
from pipeline.errors import ParameterError
from pipeline.suggestion import did_you_mean

MAX_VALUE_CHARACTERS = 1024  # of Parameter.Value, StartPipelineExecution
TYPES: dict[str, tuple[str, str, Callable[[str], Any], tuple[type, ...]]] = {  # noun, pattern, parser, JSON types
    "String": (f"text of at most {MAX_VALUE_CHARACTERS} characters", r"(?s).*", str, (str,)),
    "Integer": ("a whole number", r"[+-]?[0-9]+", int, (int,)),
    "Float": ("a number", r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", float, (int, float)),
    "Boolean": ("true or false", r"true|True|false|False", lambda text: text.lower() == "true", (bool,)),
}


def bind(declared: Sequence[Mapping[str, Any]] | None, given: Mapping[str, str]) -> dict[str, Any]:
    """Return the typed value of every parameter, given or by default; a ParameterError with every problem."""
    declared = declared or []
    if not isinstance(declared, list | tuple) or not all(isinstance(member, Mapping) for member in declared):
        raise ParameterError(["Parameters must be a list of objects with Name and Type."])
    names = [str(parameter.get("Name")) for parameter in declared]
    problems = [
        f"Parameter {quoted(name)} is not declared by the pipeline; it declares {listing(names) or 'none'}."
        f"{did_you_mean(name, names)}"
        for name in given
        if name not in names
    ]
    problems += [f"Parameter '{name}' is declared twice." for name in dict.fromkeys(names) if names.count(name) > 1]
    values = {}
    for name, parameter in zip(names, declared, strict=True):
        try:
            values[name] = value_of(parameter, given.get(name))
        except ValueError as error:
            problems.append(f"Parameter '{name}' {error}")
    if problems:
        raise ParameterError(problems)
    return values


def value_of(parameter: Mapping[str, Any], given: str | None) -> Any:
    """Return one parameter's value; a ValueError completes the sentence that begins with its name."""
    kind, accepted = parameter.get("Type"), parameter.get("EnumValues")
    value: Any = parameter.get("DefaultValue")
    if not isinstance(kind, str) or kind not in TYPES:
        raise ValueError(f"has type {quoted(kind)}; known are {listing(TYPES)}.")
    if given is None and value is None:
        raise ValueError(f"({kind}) has no default, so it needs a value.")
    noun, pattern, parse, types = TYPES[kind]
    got = f"{quoted(value)} by default" if given is None else quoted(given)
    if given is not None:
        value = parse(given) if len(given) <= MAX_VALUE_CHARACTERS and re.fullmatch(pattern, given) else None
    is_typed = isinstance(value, types) and isinstance(value, bool) == (kind == "Boolean")
    if not is_typed or (kind == "Float" and not math.isfinite(value)):
        raise ValueError(f"must be {noun}, but is {got}.")
    if isinstance(accepted, list) and accepted and value not in accepted:
        near = did_you_mean(str(value), [each for each in accepted if isinstance(each, str)])
        raise ValueError(f"must be one of {listing(accepted)}, but is {got}.{near}")
    return float(value) if kind == "Float" else value
