"""A JSON value against a shape of botocore's model language.

The shapes are those of SageMaker's requests, and those of `shapes` for what a definition adds around them.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pipeline.definition.expressions import describe, is_expression
from pipeline.definition.paths import Token, format_path, listing, quoted
from pipeline.definition.service_model import Shape
from pipeline.suggestion import did_you_mean

Path = tuple[Token, ...]
WHOLE = ("integer", "long")
NUMBERS = (*WHOLE, "float", "double")
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
CONTAINERS = ("structure", "map", "list")
# What a pattern means, by the name of its shape.
NAME = "be letters, digits and dashes, at most {}, no dash first or last"
PATTERNS = {
    **dict.fromkeys(("EndpointName", "EndpointConfigName", "ModelName", "EntityName"), NAME.format(63)),
    "PipelineName": NAME.format(256),
    "Duration": "be a duration such as P30D",
    "FunctionArn": "be the ARN of a Lambda function",
    "IdentifierName": "be 1 to 64 letters, digits, dashes and underscores",
    "RoleArn": "be the ARN of a role",
    "S3Uri": "be a URI such as s3://bucket/prefix",
}


@dataclass(frozen=True)
class ShapeCheck:
    """What every part of one comparison needs.

    `owner` is what sentences call the whole ("CreateTrainingJob"). `type_of` gives the type of an expression's value,
    as shapes name types, or None when it is not known; `default_of` the name and default of the parameter that it
    reads. `filled_in` is a member of the whole that the service fills in, so that it may be absent. Only the shapes
    named in `expression_shapes` take expressions; None is all.
    """

    owner: str
    type_of: Callable[[Any], str | None]
    default_of: Callable[[Any], tuple[str, Any] | None]
    filled_in: str | None = None
    expression_shapes: frozenset[str] | None = None
    got: str = "got"

    def problems(self, value: Any, shape: Shape, path: Path = ()) -> Iterator[str]:
        """Every difference between the value and the shape, as a sentence."""
        if shape.content.get("document"):
            return
        if is_expression(value) and (self.expression_shapes is None or shape.name in self.expression_shapes):
            yield from self.expression_problems(value, shape, path)
        elif not has_type(value, shape.type):
            yield f"{self.name(path)} must be {JSON_TYPES[shape.type][1]}, but {self.got} {quoted(value)}."
        elif shape.type in METHODS:
            yield from METHODS[shape.type](self, value, shape, path)

    def structure_problems(self, value: dict[str, Any], shape: Shape, path: Path) -> Iterator[str]:
        """An object's members; null stands for an absent one."""
        for key, member in value.items():
            if key not in shape.members:
                hint = did_you_mean(key, shape.members)
                yield f"{self.name((*path, key))} is not a member of {self.owner}.{hint}"
            elif member is not None:
                yield from self.problems(member, shape.member(key), (*path, key))
        for key in shape.content.get("required", ()):
            if value.get(key) is None and (path or key != self.filled_in):
                yield f"{self.name((*path, key))} is missing, but {self.owner} requires it."

    def list_problems(self, value: list[Any], shape: Shape, path: Path) -> Iterator[str]:
        """A list's length and items."""
        yield from self.size_problems(len(value), shape, path, unit="entries")
        for index, item in enumerate(value):
            yield from self.problems(item, shape.member("member"), (*path, index))

    def map_problems(self, value: dict[str, Any], shape: Shape, path: Path) -> Iterator[str]:
        """A map's size, keys and values."""
        yield from self.size_problems(len(value), shape, path, unit="entries")
        for key, item in value.items():
            yield from replace(self, got="is the key").string_problems(key, shape.member("key"), (*path, key))
            yield from self.problems(item, shape.member("value"), (*path, key))

    def string_problems(self, value: str, shape: Shape, path: Path) -> Iterator[str]:
        """A string's enum, length and pattern."""
        enum = shape.content.get("enum")
        pattern = compiled(shape.content.get("pattern"))
        if enum and value not in enum:
            hint = did_you_mean(value, enum) if len(enum) > 1 else ""
            yield f"{self.name(path)} must be {words_of(enum, shape.name)}, but {self.got} {quoted(value)}.{hint}"
        elif pattern and not pattern.fullmatch(value):
            meaning = PATTERNS.get(shape.name, f"match {pattern.pattern}")
            yield f"{self.name(path)} must {meaning}, but {self.got} {quoted(value)}."
        else:
            yield from self.size_problems(len(value), shape, path, unit="characters")

    def size_problems(self, size: int, shape: Shape, path: Path, *, unit: str) -> Iterator[str]:
        """The length of a string, list or map."""
        for bound in broken_bounds(size, shape):
            must = "not be empty" if bound == "at least 1" else f"have {bound} {unit}, but has {size}"
            yield f"{self.name(path)} must {must}."

    def number_problems(self, value: float, shape: Shape, path: Path) -> Iterator[str]:
        """A number's bounds."""
        for bound in broken_bounds(value, shape):
            yield f"{self.name(path)} must be {bound}, but {self.got} {value}."

    def expression_problems(self, value: Any, shape: Shape, path: Path) -> Iterator[str]:
        """An expression gives a value of a suitable type; a parameter's default is acceptable itself."""
        given = self.type_of(value)
        if given is None:
            return
        if not suits(given, shape.type):
            accepted, found = JSON_TYPES[shape.type][1], JSON_TYPES[given][1]
            yield f"{self.name(path)} must be {accepted}, but {describe(value)} is {found}."
            return
        parameter = self.default_of(value)
        if parameter and has_type(parameter[1], shape.type):
            by_default = replace(self, got=f"parameter '{parameter[0]}' is by default")
            yield from by_default.problems(parameter[1], shape, path)

    def name(self, path: Path) -> str:
        """How a sentence calls the member."""
        return format_path(path) or "Arguments"


METHODS: dict[str, Callable[..., Iterator[str]]] = {
    "structure": ShapeCheck.structure_problems,
    "list": ShapeCheck.list_problems,
    "map": ShapeCheck.map_problems,
    "string": ShapeCheck.string_problems,
    **dict.fromkeys(NUMBERS, ShapeCheck.number_problems),
}


def words_of(enum: list[str], shape_name: str) -> str:
    """The values of an enum in a sentence, unless there are too many."""
    if len(enum) > MAX_LISTED:
        return f"one of the {len(enum)} values of {shape_name}"
    return f"one of {listing(enum)}" if len(enum) > 1 else f"'{enum[0]}'"


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


def broken_bounds(value: float, shape: Shape) -> Iterator[str]:
    """The bounds of the shape that the value breaks."""
    least, most = shape.content.get("min"), shape.content.get("max")
    if least is not None and value < least:
        yield f"at least {least}"
    if most is not None and value > most:
        yield f"at most {most}"


@cache
def compiled(pattern: str | None) -> re.Pattern[str] | None:
    """A pattern of the model; the few with classes that Python does not know, such as \\p{L}, are not checked."""
    try:
        return re.compile(pattern) if pattern else None
    except re.error:
        return None
