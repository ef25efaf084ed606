"""SageMaker's service model, as botocore ships it: the requests that steps become, and the responses about them.

Its JSON is read without importing botocore: 35 ms instead of 145. There is no client, no region, no credential.
"""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.definition.paths import Token, format_path
from pipeline.definition.step_types import STEP_TYPES
from pipeline.suggestion import did_you_mean


@dataclass(frozen=True, eq=False)
class Shape:
    """One shape of a model in botocore's language: a type with its members and limits."""

    name: str
    model: Mapping[str, Any]  # all shapes, by name

    @property
    def content(self) -> Mapping[str, Any]:
        """As the model has it."""
        found: Mapping[str, Any] = self.model[self.name]
        return found

    @property
    def type(self) -> str:
        """structure, map, list, string, timestamp, integer, long, float, double, boolean or blob."""
        return str(self.content["type"])

    @property
    def members(self) -> Mapping[str, Any]:
        """Those of a structure, by name."""
        found: Mapping[str, Any] = self.content.get("members") or {}
        return found

    def member(self, name: str) -> "Shape":
        """A member of a structure, `member` of a list, `key` or `value` of a map."""
        reference = self.members[name] if self.type == "structure" else self.content[name]
        return Shape(reference["shape"], self.model)


class UnknownProperty(LookupError):
    """A path that leads to no property; the text completes "Step 'A' reads Steps.B.C, but ..."."""


@cache
def service_model(service: str) -> Mapping[str, Any]:
    """The newest model of a service that is installed."""
    spec = find_spec("botocore")
    assert spec is not None and spec.submodule_search_locations, "botocore is installed with this project"
    file = max((Path(spec.submodule_search_locations[0]) / "data" / service).glob("*/service-2.json*"))
    content = file.read_bytes()
    model: Mapping[str, Any] = json.loads(gzip.decompress(content) if file.suffix == ".gz" else content)
    return model


def operation(name: str, side: str, service: str = "sagemaker") -> Shape:
    """The `input` or `output` of an operation.

    Raises:
        KeyError: there is no such operation, or it has no such side.
    """
    model = service_model(service)
    return Shape(model["operations"][name][side]["shape"], model["shapes"])


@cache
def responses(step_type: str) -> Mapping[str, Shape]:
    """The members of all responses about a step, those of the first operation before others of the same name."""
    outputs = [operation(name, "output") for name in reversed(STEP_TYPES[step_type].reads)]
    return {name: output.member(name) for output in outputs for name in output.members}


def property_shapes(step_type: str, path: tuple[Token, ...]) -> list[Shape]:
    """The shapes along a path below a step, one for each of its tokens."""
    shapes: list[Shape] = []
    for depth, token in enumerate(path):
        inner = _member(shapes[-1], token) if shapes else responses(step_type).get(str(token))
        if inner is None:
            raise UnknownProperty(_why_unknown(step_type, shapes, path[: depth + 1]))
        shapes.append(inner)
    return shapes


def _member(shape: Shape, token: Token) -> Shape | None:
    """Where one token of a path leads: a list of objects is entered by index or by name, a map by key."""
    if shape.type == "structure":
        return shape.member(str(token)) if token in shape.members else None
    if shape.type == "list":
        inner = shape.member("member")
        return inner if isinstance(token, int) or inner.type == "structure" else None
    return shape.member("value") if shape.type == "map" and isinstance(token, str) else None


def _why_unknown(step_type: str, shapes: list[Shape], path: tuple[Token, ...]) -> str:
    """What is the matter with the last token of the path."""
    reads, token = STEP_TYPES[step_type].reads[0], str(path[-1])
    if not shapes:
        return f"{reads} does not return {token}.{did_you_mean(token, responses(step_type))}"
    where = format_path(path[:-1])
    if shapes[-1].type == "structure":
        return f"{reads} returns no {token} in {where}.{did_you_mean(token, shapes[-1].members)}"
    return f"{where} has no members that {token!r} could name."
