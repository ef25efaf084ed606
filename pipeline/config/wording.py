"""What a setting accepts, in words, from its JSON Schema; and the sentences about values that it does not accept."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import yaml
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails

from pipeline.config.sections import Config
from pipeline.config.yaml_source import Location
from pipeline.suggestion import did_you_mean

Schema = Mapping[str, Any]
NOUNS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}
NOUNS |= {"array": "a list", "null": "null"}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
BOUND_ERRORS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


class UntitledSchema(GenerateJsonSchema):
    """Gives no title to a setting that has none."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


LONGEST_SHOWN = 200  # characters
SHOWN = {dict: "a mapping", list: "a list", type(None): "nothing"}


def shown(value: Any, node: yaml.Node | None = None) -> str:
    """Return how messages show a value, a number as it is written."""
    if isinstance(value, str):
        return f"'{value}'" if len(value) < LONGEST_SHOWN else f"'{value[:LONGEST_SHOWN]}...'"
    written = node.value if isinstance(node, yaml.ScalarNode) else str(value).lower()
    return SHOWN.get(type(value), written)


def listing(words: Iterable[object]) -> str:
    """Return words as in a sentence: "a, b or c"."""
    *most, last = map(str, words)
    return f"{', '.join(most)} or {last}" if most else last


def accepted(schema: Schema, *, noun: bool = True) -> str:
    """Return what a schema accepts, in words; without `noun` only its bounds, where it has any."""
    if "title" in schema and "properties" not in schema:
        return f"a mapping {schema['title']}" if schema.get("type") == "object" else str(schema["title"])
    if "anyOf" in schema:
        ways = sorted(schema["anyOf"], key=lambda way: way.get("type") != "null" and "const" not in way)
        return ", or ".join(accepted(way, noun=noun) for way in ways)
    if "const" in schema or "enum" in schema:
        return listing(schema.get("enum", [schema.get("const")]))
    kind = NOUNS.get(schema.get("type", ""), "a mapping of settings")
    limits = " and ".join(f"{words} {schema[key]}" for key, words in BOUNDS.items() if key in schema)
    return (f"{kind}, {limits}" if noun else limits) if limits else kind


@cache
def whole_schema() -> Schema:
    """Return the JSON Schema of pipeline.yaml."""
    return Config.model_json_schema(schema_generator=UntitledSchema)


def schema_at(location: Location) -> Schema:
    """Return the schema of a setting as pydantic locates it; of a key, what its dictionary is named by."""
    schema = above = whole_schema()
    for part in location:
        if part == "[key]":
            return {"title": above.get("title", "")}
        ways = schema.get("discriminator", {}).get("mapping", {})
        by_pattern = next(iter(schema.get("patternProperties", {}).values()), None)
        below = schema.get("items") if isinstance(part, int) else schema.get("properties", {}).get(part, by_pattern)
        reference = {"$ref": ways[part]} if part in ways else None
        above, schema = schema, section_of(reference or below or schema.get("additionalProperties") or {})
    return schema


def section_of(schema: Schema) -> Schema:
    """Return the section that a schema refers to, perhaps beside null; else the schema."""
    named = next((way for way in schema.get("anyOf", []) if "$ref" in way), schema)
    return whole_schema()["$defs"][named["$ref"].rpartition("/")[2]] if "$ref" in named else schema


def problem(error: ErrorDetails, schema: Schema, node: yaml.Node | None) -> str:
    """Return the rest of a sentence about one of pydantic's errors; `node` is the value's."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        known = schema_at(error["loc"][:-1])["properties"]
        hint = did_you_mean(str(error["loc"][-1]), known) or f" Known here: {', '.join(known)}."
        return f"is not a known setting.{hint}"
    if kind == "missing":
        return "is missing."
    if kind == "value_error" and str(context["error"]).endswith((".", "?")):
        return str(context["error"])
    if kind.startswith("union_tag"):
        tag = context.get("tag")
        types = ("continuous", "integer", "categorical")
        return f"must have a type, {listing(types)}, but has {shown(tag)}.{did_you_mean(tag or '', types)}"
    if kind in ("too_long", "too_short"):
        limit = f"most {context['max_length']}" if kind == "too_long" else f"least {context['min_length']}"
        return f"must hold at {limit}, but holds {len(error['input']) or 'none'}."
    if kind == "string_too_long":
        return f"must be at most {context['max_length']} characters long, but has {len(value)}."
    words, remedy, hint = accepted(schema, noun=kind not in BOUND_ERRORS), "", ""
    is_quoted = isinstance(node, yaml.ScalarNode) and node.style and isinstance(value, str)
    if is_quoted and kind in ("int_type", "float_type") and re.fullmatch(r"[-+\d.eE]+", value):
        remedy = ", which is text; remove the quotes"
    elif kind == "string_type":
        words, remedy = "text", "" if isinstance(value, dict | list | None) else "; write it in quotes"
    elif isinstance(value, str):
        hint = did_you_mean(value, map(str, words_of(schema)))
    return f"must be {words}, but got {shown(value, node)}{remedy}.{hint}"


def words_of(schema: Schema) -> list[Any]:
    """Return the words that a schema accepts."""
    found = [schema["const"]] if "const" in schema else list(schema.get("enum", []))
    return found + [word for way in schema.get("anyOf", []) for word in words_of(way)]
