"""JSON Schemas of the services' requests and responses, made of botocore's models as they are needed.

An `Expression` in a value stands for whatever it will resolve to; only its type is compared, and the default of the
parameter that it reads. The models' JSON is read without importing botocore: no client, no region, no credential.
"""

import contextlib
import gzip
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from pipeline.definition.expressions import describe, format_path, is_expression, listing, quoted
from pipeline.suggestion import did_you_mean

Schema = dict[str, Any]
LARGEST = {"integer": 2**31 - 1, "long": 2**63 - 1}
JSON_TYPES = {
    "structure": "object", "map": "object", "list": "array", "string": "string", "timestamp": ["string", "number"],
    "integer": "integer", "long": "integer", "float": "number", "double": "number", "boolean": "boolean",
}  # fmt: skip
LIMITS = {"list": "Items", "map": "Properties", "string": "Length"}  # after min and max, as JSON Schema calls them
NOUNS = {
    "object": "an object", "array": "a list", "string": "a string", "integer": "a whole number", "number": "a number",
    "boolean": "true or false",
}  # fmt: skip
SINGLE = ("string", "integer", "number", "boolean")
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


@cache
def service_model(service: str) -> Mapping[str, Any]:
    """Return the newest installed model of a service."""
    spec = find_spec("botocore")
    assert spec is not None and spec.submodule_search_locations, "botocore is installed with this project"
    file = max((Path(spec.submodule_search_locations[0]) / "data" / service).glob("*/service-2.json*"))
    content = file.read_bytes()
    model: Mapping[str, Any] = orjson.loads(gzip.decompress(content) if file.suffix == ".gz" else content)
    return model


@cache
def operation(name: str, side: str, service: str = "sagemaker") -> Schema:
    """Return the schema of an operation's `input` or `output`; a KeyError if there is no such operation or side."""
    model = service_model(service)
    return schema_of(model["operations"][name][side]["shape"], model["shapes"], {})


def schema_of(name: str, shapes: Mapping[str, Any], known: dict[str, Schema]) -> Schema:
    """Return the schema of a shape; `known` holds those already made, since shapes may hold themselves."""
    if name in known:
        return known[name]
    shape, schema = shapes[name], known.setdefault(name, {"title": name})
    kind = shape["type"]
    if shape.get("document") or kind == "blob":
        return schema
    schema["type"] = JSON_TYPES[kind]

    def inner(reference: Any) -> Schema:
        return schema_of(reference if isinstance(reference, str) else reference["shape"], shapes, known)

    if kind == "structure":
        schema["properties"] = {member: inner(reference) for member, reference in shape["members"].items()}
        schema["required"] = shape.get("required", [])
    elif kind == "list":
        schema["items"] = inner(shape["member"])
    elif kind == "map":
        schema |= {"propertyNames": inner(shape["key"]), "additionalProperties": inner(shape["value"])}
    if "enum" in shape:
        schema["enum"] = shape["enum"]
    elif "pattern" in shape:
        with contextlib.suppress(re.error):  # a few have classes that only Java knows, such as \\p{L}
            schema["pattern"] = re.compile(rf"^(?:{shape['pattern']})\Z").pattern
    low, high = (f"{each}{LIMITS.get(kind, 'imum')}" for each in ("min", "max"))
    bounds = {low: shape.get("min"), high: shape.get("max")}
    if kind in LARGEST:
        bounds = {low: shape.get("min", 0), high: shape.get("max", LARGEST[kind])}
        if name.endswith("InstanceCount"):
            bounds[low] = 1  # the model's 0 is for instance groups
    schema.update({key: value for key, value in bounds.items() if value is not None})
    return schema


class Expression(dict[str, Any]):
    """An expression in a value that is compared: its type, if the definition tells, and the parameter that it reads."""

    type: str = ""  # none if the definition does not tell
    parameter: Mapping[str, Any] | None = None


def annotated(value: Any, type_of: Callable[[Any], tuple[str | None, Any]]) -> Any:
    """Return a value with an `Expression` for each expression; `type_of` gives its type and parameter."""
    if is_expression(value):
        expression = Expression(value)
        known, expression.parameter = type_of(value)
        expression.type = known or ""
        return expression
    if isinstance(value, dict):
        return {key: annotated(member, type_of) for key, member in value.items()}
    return [annotated(item, type_of) for item in value] if isinstance(value, list) else value


def check_properties(validator: Any, properties: Schema, instance: Any, schema: Schema) -> Iterator[ValidationError]:
    """Compare the members of an object, in their order; null stands for an absent one."""
    for key, value in instance.items() if isinstance(instance, dict) else ():
        if key not in properties:
            yield ValidationError(UNKNOWN, validator="unknown", path=[key])
        elif value is not None:
            yield from validator.descend(value, properties[key], path=key)


def check_required(validator: Any, names: list[str], instance: Any, schema: Schema) -> Iterator[ValidationError]:
    """Find the members that are missing."""
    for name in names if isinstance(instance, dict) else ():
        if instance.get(name) is None:
            yield ValidationError("is missing", validator="required", path=[name])


def check_keys(validator: Any, key_schema: Schema, instance: Any, schema: Schema) -> Iterator[ValidationError]:
    """Compare the keys of a map."""
    for key in instance if isinstance(instance, dict) else ():
        for error in validator.descend(key, key_schema, path=key):
            error.cause = "is the key"
            yield error


def check_type(validator: Any, types: Any, instance: Any, schema: Schema) -> Iterator[ValidationError]:
    """Compare the type, of an expression too, and the default of the parameter that it reads."""
    if not isinstance(instance, Expression):
        yield from TYPE(validator, types, instance, schema) or ()
    elif instance.type:
        parameter = instance.parameter or {}
        accepted = SINGLE if "string" in types else ("integer", "number") if types == "number" else (types,)
        if instance.type not in accepted:  # text takes any single value
            yield ValidationError("has another type", validator="type")
        elif "DefaultValue" in parameter and not any(TYPE(validator, types, parameter["DefaultValue"], schema) or ()):
            for error in validator.descend(parameter["DefaultValue"], schema):
                error.cause = f"parameter '{parameter.get('Name')}' is by default"
                yield error


def unless_expression(keyword: Any) -> Any:
    """Return a keyword that passes expressions over."""

    def check(validator: Any, value: Any, instance: Any, schema: Schema) -> Iterator[ValidationError]:
        if not isinstance(instance, Expression):
            yield from keyword(validator, value, instance, schema) or ()

    return check


TYPE = Draft202012Validator.VALIDATORS["type"]
OWN = {"properties": check_properties, "required": check_required, "propertyNames": check_keys}
KEYWORDS = {**Draft202012Validator.VALIDATORS, **OWN}
RequestValidator: Any = extend(
    Draft202012Validator,
    {**{name: unless_expression(keyword) for name, keyword in KEYWORDS.items()}, "type": check_type},
)


def differences(value: Any, schema: Schema, owner: str) -> Iterator[tuple[str, str]]:
    """Yield where a value differs from a schema: the keyword of JSON Schema (or "unknown"), and a sentence.

    Args:
        owner: what sentences call the whole, such as CreateTrainingJob.
    """
    done: set[tuple[Any, ...]] = set()
    for error in RequestValidator(schema).iter_errors(value):
        path = tuple(error.absolute_path)
        if path not in done:  # of a text that is of a wrong form and of a wrong length, one is said
            yield str(error.validator), sentence(error, format_path(path) or "Arguments", owner)
        if error.validator == "type" or isinstance(error.instance, str):
            done.add(path)


def sentence(error: Any, name: str, owner: str) -> str:
    """Return a difference as a sentence."""
    instance, schema, kind, limit = error.instance, error.schema, str(error.validator), error.validator_value
    got, hint = f"{error.cause or 'got'} {quoted(instance)}", ""
    if kind == "unknown":
        return f"{name} {UNKNOWN} {owner}.{did_you_mean(str(error.path[-1]), schema['properties'])}"
    if kind == "required":
        return f"{name} is missing, but {owner} requires it."
    if kind == "type":
        must = f"be {'a time' if isinstance(limit, list) else NOUNS[limit]}"
        got = f"{describe(instance)} is {NOUNS[instance.type]}" if isinstance(instance, Expression) else got
    elif kind == "enum":
        listed = listing(limit) if len(limit) <= MAX_LISTED else f"the {len(limit)} values of {schema['title']}"
        must, hint = f"be {'one of ' * (len(limit) > 1)}{listed}", did_you_mean(instance, limit) * (len(limit) > 1)
    elif kind == "pattern":
        must = PATTERNS.get(schema["title"], f"match {limit[4:-3]}")
    else:
        bound = f"at {'least' if kind.startswith('min') else 'most'} {limit}"
        if kind in ("minimum", "maximum"):
            must = f"be {bound}"
        elif bound == "at least 1":
            return f"{name} must not be empty."
        else:
            must = f"have {bound} {'characters' if kind.endswith('Length') else 'entries'}"
            got = f"has {len(instance)}"
    return f"{name} must {must}, but {got}.{hint}"


def child(schema: Schema, token: str | int) -> Schema | None:
    """Return where one token of a path leads: a list is entered by index or, of objects, by name, a map by key."""
    if "properties" in schema:
        found = schema["properties"].get(token)
    elif schema.get("type") == "object":
        found = schema["additionalProperties"] if isinstance(token, str) else None
    else:
        items = schema.get("items")
        found = items if items and (isinstance(token, int) or items.get("type") == "object") else None
    return found if isinstance(found, dict) else None
