"""The shapes of botocore's service models: how a JSON value differs from one, and the request that it becomes.

The models' JSON is read without importing botocore (20 ms instead of 145): no client, no region, no credential.
"""

import contextlib
import gzip
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from pipeline.definition.expressions import ExpressionError, describe, is_expression, text_of
from pipeline.definition.paths import Token, format_path, listing, quoted
from pipeline.suggestion import did_you_mean

Tokens = tuple[Token, ...]
Model = Mapping[str, Mapping[str, Any]]  # all shapes, by name
WHOLE = {"integer": 2**31 - 1, "long": 2**63 - 1}  # with the largest
NUMBERS = (*WHOLE, "float", "double")
CONTAINERS = ("structure", "map", "list")
JSON_TYPES: dict[str, tuple[Any, str]] = {  # shape type -> Python's types, what sentences call it
    **dict.fromkeys(("structure", "map"), (dict, "an object")),
    "list": (list, "a list"),
    "string": (str, "a string"),
    "timestamp": ((str, int, float), "a time"),
    **dict.fromkeys(("float", "double"), ((int, float), "a number")),
    **dict.fromkeys(WHOLE, (int, "a whole number")),
    "boolean": ((), "true or false"),
    "blob": ((str, bytes), "bytes"),
}
MAX_LISTED = 12
UNKNOWN = "is not a member of"
NAME = "be letters, digits and dashes, at most {}, no dash first or last"
PATTERNS = {  # what a pattern means, by the name of its shape
    **dict.fromkeys(("EndpointName", "EndpointConfigName", "ModelName", "EntityName"), NAME.format(63)),
    "PipelineName": NAME.format(256),
    "Duration": "be a duration such as P30D",
    "FunctionArn": "be the ARN of a Lambda function",
    "IdentifierName": "be 1 to 64 letters, digits, dashes and underscores",
    "RoleArn": "be the ARN of a role",
    "S3Uri": "be a URI such as s3://bucket/prefix",
}


@dataclass(frozen=True, eq=False)
class Shape:
    """One shape of a model in botocore's language: a type with its members and limits."""

    name: str
    model: Model

    @property
    def content(self) -> Mapping[str, Any]:
        """The shape as the model has it."""
        return self.model[self.name]

    @property
    def type(self) -> str:
        """structure, map, list, string, timestamp, integer, long, float, double, boolean or blob."""
        return str(self.content["type"])

    @property
    def members(self) -> Mapping[str, Any]:
        """The members of a structure, by name."""
        return self.content.get("members") or {}

    def member(self, name: str) -> "Shape":
        """A member of a structure, `member` of a list, `key` or `value` of a map."""
        reference = self.members[name] if self.type == "structure" else self.content[name]
        return Shape(reference if isinstance(reference, str) else reference["shape"], self.model)

    def at(self, token: Token) -> "Shape | None":
        """Where one token of a path leads: a list is entered by index or, of objects, by name, a map by key."""
        if self.type == "structure":
            return self.member(str(token)) if token in self.members else None
        if self.type == "map":
            return self.member("value") if isinstance(token, str) else None
        inner = self.member("member") if self.type == "list" else None
        return inner if inner and (isinstance(token, int) or inner.type == "structure") else None


@cache
def service_model(service: str) -> Mapping[str, Any]:
    """The newest model of a service that is installed."""
    spec = find_spec("botocore")
    assert spec is not None and spec.submodule_search_locations, "botocore is installed with this project"
    file = max((Path(spec.submodule_search_locations[0]) / "data" / service).glob("*/service-2.json*"))
    content = file.read_bytes()
    model: Mapping[str, Any] = orjson.loads(gzip.decompress(content) if file.suffix == ".gz" else content)
    return model


def operation(name: str, side: str, service: str = "sagemaker") -> Shape:
    """Return the `input` or `output` of an operation; a KeyError if there is no such operation or side."""
    model = service_model(service)
    return Shape(model["operations"][name][side]["shape"], model["shapes"])


@dataclass(frozen=True)
class ShapeCheck:
    """One comparison of a JSON value with a shape, in which an expression stands for a value of its type."""

    owner: str  # what sentences call the whole: CreateTrainingJob
    type_of: Callable[[Any], str | None] = lambda expression: None  # as shapes name it; None: not known
    parameter_of: Callable[[Any], Mapping[str, Any] | None] = lambda expression: None  # which an expression reads
    filled_in: str | None = None  # the member of the whole that the service fills in
    expression_shapes: frozenset[str] | None = None  # the shapes that take expressions; None: all
    got: str = "got"

    def problems(self, value: Any, shape: Shape, path: Tokens = ()) -> Iterator[str]:
        """Every difference between the value and the shape, as a sentence."""
        if shape.content.get("document"):
            return
        if is_expression(value) and (self.expression_shapes is None or shape.name in self.expression_shapes):
            yield from self._expression_problems(value, shape, path)
        elif not has_type(value, shape.type):
            yield f"{_name(path)} must be {JSON_TYPES[shape.type][1]}, but {self.got} {quoted(value)}."
        elif shape.type == "structure":
            yield from self._structure_problems(value, shape, path)
        elif shape.type == "string":
            yield from self._string_problems(value, shape, path)
        elif shape.type in NUMBERS:
            for bound in _broken_bounds(value, shape):
                yield f"{_name(path)} must be {bound}, but {self.got} {value}."
        elif shape.type in ("list", "map"):
            yield from _size_problems(value, shape, path, unit="entries")
            inner = shape.member("value" if shape.type == "map" else "member")
            for key, item in value.items() if shape.type == "map" else enumerate(value):
                if isinstance(key, str):
                    keys = replace(self, got="is the key")
                    yield from keys._string_problems(key, shape.member("key"), (*path, key))
                yield from self.problems(item, inner, (*path, key))

    def _structure_problems(self, value: dict[str, Any], shape: Shape, path: Tokens) -> Iterator[str]:
        """Differences of an object's members; null stands for an absent one."""
        for key, member in value.items():
            if key not in shape.members:
                yield f"{_name((*path, key))} {UNKNOWN} {self.owner}.{did_you_mean(key, shape.members)}"
            elif member is not None:
                yield from self.problems(member, shape.member(key), (*path, key))
        for key in shape.content.get("required", ()):
            if value.get(key) is None and (path or key != self.filled_in):
                yield f"{_name((*path, key))} is missing, but {self.owner} requires it."

    def _string_problems(self, value: str, shape: Shape, path: Tokens) -> Iterator[str]:
        """Differences from a string's values, pattern or length."""
        enum, pattern = shape.content.get("enum"), _compiled(shape.content.get("pattern"))
        if enum and value not in enum:
            one_of = f"one of {listing(enum)}" if len(enum) > 1 else f"'{enum[0]}'"
            words = one_of if len(enum) <= MAX_LISTED else f"one of the {len(enum)} values of {shape.name}"
            hint = did_you_mean(value, enum) if len(enum) > 1 else ""
            yield f"{_name(path)} must be {words}, but {self.got} {quoted(value)}.{hint}"
        elif pattern and not pattern.fullmatch(value):
            meaning = PATTERNS.get(shape.name, f"match {pattern.pattern}")
            yield f"{_name(path)} must {meaning}, but {self.got} {quoted(value)}."
        else:
            yield from _size_problems(value, shape, path, unit="characters")

    def _expression_problems(self, value: Any, shape: Shape, path: Tokens) -> Iterator[str]:
        """The type that an expression has, and what is wrong with the default of the parameter that it reads."""
        given, parameter = self.type_of(value), self.parameter_of(value) or {}
        if given is None:
            return
        if not suits(given, shape.type):
            accepted, found = JSON_TYPES[shape.type][1], JSON_TYPES[given][1]
            yield f"{_name(path)} must be {accepted}, but {describe(value)} is {found}."
        elif "DefaultValue" in parameter and has_type(parameter["DefaultValue"], shape.type):
            by_default = replace(self, got=f"parameter '{parameter.get('Name')}' is by default")
            yield from by_default.problems(parameter["DefaultValue"], shape, path)


def as_request(name: str, arguments: Any) -> Any:
    """The Arguments of a step as the request to the operation of that name; an ExpressionError if they are none."""
    faults: list[str] = []
    request = converted(arguments, operation(name, "input"), faults)
    if faults:
        raise ExpressionError(" ".join(faults))
    return request


def converted(value: Any, shape: Shape, faults: list[str], path: Tokens = ()) -> Any:
    """The value with text where the model has text, numbers where it has numbers, and without nulls.

    SDK v3 puts `{"Get": "Parameters.Epochs"}` as it is among the hyperparameters, and the service makes "3" of it. What
    has no such form is added to the faults; expressions and members that the model does not have stay as they are.
    """
    if is_expression(value) or shape.content.get("document"):
        return value
    try:
        if shape.type not in CONTAINERS:
            return _single(value, shape)
        if not has_type(value, shape.type):
            raise ValueError(JSON_TYPES[shape.type][1])
    except ValueError as accepted:
        faults.append(f"{_name(path)} must be {accepted}, but got {quoted(value)}.")
        return value
    if isinstance(value, list):
        inner = shape.member("member")
        return [converted(item, inner, faults, (*path, index)) for index, item in enumerate(value)]
    present = {name: member for name, member in value.items() if member is not None}
    return {
        name: converted(member, known, faults, (*path, name)) if (known := shape.at(name)) else member
        for name, member in present.items()
    }


def _single(value: Any, shape: Shape) -> Any:
    """A value of a type that is no container; a ValueError with what is accepted if it has no such form."""
    if shape.type == "string" and isinstance(value, str | bool | int | float):
        return text_of(value)
    if shape.type == "boolean" and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if shape.type in NUMBERS and isinstance(value, str | int | float) and not isinstance(value, bool):
        return _number(value, shape)
    if shape.type in ("timestamp", "blob"):
        return value
    raise ValueError(JSON_TYPES[shape.type][1])


def _number(value: str | float, shape: Shape) -> float:
    """A number, also one that is written as text."""
    is_whole, number = shape.type in WHOLE, math.nan
    with contextlib.suppress(ValueError):
        number = float(value) if isinstance(value, str) else value
    if not math.isfinite(number) or (is_whole and number != int(number)):
        raise ValueError(JSON_TYPES[shape.type][1])
    least = shape.content.get("min", 0 if is_whole else -math.inf)
    if shape.name.endswith("InstanceCount"):
        least = 1  # the model's 0 is for instance groups
    if number < least:
        raise ValueError(f"at least {least}")
    if number > WHOLE.get(shape.type, math.inf):
        raise ValueError(f"at most {WHOLE[shape.type]}")
    return int(number) if is_whole else number


def _name(path: Tokens) -> str:
    return format_path(path) or "Arguments"


def has_type(value: Any, type_name: str) -> bool:
    """Whether a JSON value is of the shape's type."""
    if isinstance(value, bool):
        return type_name == "boolean"
    return isinstance(value, JSON_TYPES[type_name][0])


def suits(given: str, type_name: str) -> bool:
    """Whether a member of a type takes an expression whose value has the given one: a string takes any single value."""
    if type_name in ("string", "timestamp"):
        return given not in CONTAINERS
    if type_name in NUMBERS:
        return given in (WHOLE if type_name in WHOLE else NUMBERS)
    return given == type_name


def _size_problems(value: Any, shape: Shape, path: Tokens, *, unit: str) -> Iterator[str]:
    for bound in _broken_bounds(len(value), shape):
        must = "not be empty" if bound == "at least 1" else f"have {bound} {unit}, but has {len(value)}"
        yield f"{_name(path)} must {must}."


def _broken_bounds(value: float, shape: Shape) -> Iterator[str]:
    least, most = shape.content.get("min"), shape.content.get("max")
    if least is not None and value < least:
        yield f"at least {least}"
    if most is not None and value > most:
        yield f"at most {most}"


@cache
def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    """A pattern of the model; the few with classes that Python does not know, such as \\p{L}, are not checked."""
    try:
        return re.compile(pattern) if pattern else None
    except re.error:
        return None
