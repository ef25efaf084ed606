"""Expressions of a pipeline definition, which stand for other values; property paths; and conditions.

    {"Get": "Steps.Prep.ProcessingOutputConfig.Outputs['train'].S3Output.S3Uri"}    or Parameters., Execution., ...
    {"Std:Join": {"On": "/", "Values": [...]}}
    {"Std:JsonGet": {"PropertyFile": {"Get": "Steps.Eval.PropertyFiles.Report"}, "Path": "a.b[0]"}}    or "S3Uri"

A dict is an expression when its one key is `Get` with a text, or starts with `Std:`; everything else is data. A list of
named objects is entered by name or index in a step's properties, by index only in the JSON of a Std:JsonGet.

    {"Type": "GreaterThanOrEqualTo", "LeftValue": {"Std:JsonGet": ...}, "RightValue": {"Get": "Parameters.MinAccuracy"}}
    {"Type": "In", "QueryValue": ..., "Values": [...]}
    {"Type": "Not", "Condition": {...}}        {"Type": "Or", "Conditions": [...]}

Values of different types do not compare, as in SageMaker; integers and floats are both numbers.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import PipelineError
from pipeline.suggestion import did_you_mean

Token = str | int
Condition = Mapping[str, Any]
LONGEST = 100  # characters of a value in a sentence
EXECUTION_VARIABLES = (
    *("StartDateTime", "CurrentDateTime", "PipelineName", "PipelineArn", "PipelineExecutionId", "PipelineExecutionArn"),
    *("TrainingJobName", "ProcessingJobName"),
)
ROOTS = {  # what a Get begins with, and the noun for what is named after it
    "Parameters": "parameter",
    "Steps": "step",
    "Execution": "execution variable",
    "PipelineExperimentConfig": "field of PipelineExperimentConfig",
}
FUNCTIONS = ("Get", "Std:Join", "Std:JsonGet")
PROPERTY_FILE = re.compile(r"Steps\.(?P<step>[^.\[]+)\.PropertyFiles(?:\.(?P<name>.+)|\['(?P<quoted>.+)'\])\Z")
# A quote ends a bracket only before ']' and a separator, so ['it's'] (the SDK escapes nothing) is one name.
PATH_PART = re.compile(
    r"""\.?\[(?P<index>\d{1,9})\]
      | \.?\['(?P<single>.+?)'\](?=$|[.\[])
      | \.?\["(?P<double>.+?)"\](?=$|[.\[])
      | \.?(?P<name>[^.\[\]]+)""",
    re.VERBOSE,
)
# The member that names an object of a list, in the Describe* responses of SageMaker; the first one that it has counts.
NAMING_KEYS = """
    OutputName InputName MetricName ChannelName Name TrainingJobName RuleConfigurationName CollectionName DefinitionName
    VariantName InstanceGroupName ContainerHostname AlgorithmName ProfileName AlarmName HyperParameterTuningJobName
""".split()  # noqa: SIM905
JSON_KINDS = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string"}
SCHEMA_KINDS = {"string": "a string", "integer": "a number", "number": "a number", "boolean": "a boolean"}
COMPARISONS = ("Equals", "GreaterThan", "GreaterThanOrEqualTo", "LessThan", "LessThanOrEqualTo")
SIDES = ("LeftValue", "RightValue")
FIELDS = {
    **dict.fromkeys(COMPARISONS, SIDES),
    "In": ("QueryValue", "Values"),
    "Not": ("Condition",),
    "Or": ("Conditions",),
}


class ExpressionError(PipelineError):
    """An expression or a condition is not well formed, has no value, or values that do not compare."""


class PathError(PipelineError):
    """A path is not well formed, or leads to nothing in the document it is applied to."""


# values in sentences


def kind_of(value: Any) -> str:
    """Return what JSON calls a value, with its article."""
    return JSON_KINDS.get(type(value), "an object" if isinstance(value, dict) else "a list")


def quoted(value: Any) -> str:
    """Return a wrong value for a sentence: text in quotes, an object or a list by its kind, all else as JSON."""
    if isinstance(value, dict | list | None):
        return kind_of(value)
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:60]}... ({len(text)} characters)"


def listing(names: Iterable[str], *, limit: int = 12) -> str:
    """Return 'a', 'b' and 'c': in quotes, cut off after `limit`."""
    words = [quoted(name) for name in names]
    if len(words) > limit:
        words[limit:] = [f"{len(words) - limit} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def as_json(value: Any) -> str:
    """Return a value as JSON, cut off where it is long."""
    text = json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def text_of(value: Any) -> str:
    """Return a value as `Std:Join` and the string fields of a request carry it: as JSON writes it."""
    if isinstance(value, dict | list | None):
        raise ExpressionError(f"Only text, numbers and booleans have a text form, but got {kind_of(value)}.")
    return value if isinstance(value, str) else json.dumps(value)


# paths


def tokenize(path: str) -> tuple[Token, ...]:
    """Split a path into member names (str) and indexes (int)."""
    tokens: list[Token] = []
    position = 0
    while position < len(path):
        match = PATH_PART.match(path, position)
        separated = path[position] in ".[" if position else path[0] != "."
        if match is None or not separated:
            raise PathError(
                f"Path {quoted(path)} cannot be read from character {position + 1}: {quoted(path[position:])}. "
                "Accepted are names joined by dots, [0] and ['any name']."
            )
        index, *names = match.group("index", "single", "double", "name")
        tokens.append(int(index) if index is not None else next(filter(None, names)))
        position = match.end()
    if not tokens:
        raise PathError("A path must name something, but it is empty.")
    return tuple(tokens)


def format_path(tokens: Sequence[Token], *, root: str = "") -> str:
    """Write tokens as a path again, below `root`."""
    text = root
    for token in tokens:
        if isinstance(token, str) and re.fullmatch(r"[A-Za-z_][\w-]*", token):
            text += f".{token}" if text else token
        else:
            text += f"[{token}]" if isinstance(token, int) else f"['{token}']"
    return text


def look_up(document: Any, tokens: Sequence[Token], *, root: str = "", by_name: bool = True) -> Any:
    """Return what a path leads to, in a list also by name; `root` stands before the path in error sentences."""
    for depth, token in enumerate(tokens):
        found: dict[Any, Any] = document if isinstance(document, dict) else {}
        if isinstance(document, list):
            found = dict(enumerate(document))
            for item in [item for item in document if by_name and isinstance(item, dict)]:
                name = next((item[key] for key in NAMING_KEYS if isinstance(item.get(key), str)), None)
                if name is not None:
                    found.setdefault(name, item)
        if token not in found:
            parent = format_path(tokens[:depth], root=root)
            names = [name for name in found if isinstance(name, str)]
            if not isinstance(document, dict | list):
                has = f"is {kind_of(document)}, which has no members."
            elif not document:
                has = "is empty."
            elif isinstance(document, list) and (isinstance(token, int) or not names):
                last = len(document) - 1
                has = f"has {last + 1} members, [0] to [{last}]." if last else "has one member, [0]."
            else:
                has = f"has {listing(names)}.{did_you_mean(str(token), names)}"
            raise PathError(f"{format_path([token], root=parent)} was not found: {parent or 'The document'} {has}")
        document = found[token]
    return document


def json_tokens(path: str | None) -> tuple[Token, ...]:
    """Return the tokens of a path of `Std:JsonGet`; none for no path, `$` and ``, which mean the whole document."""
    steps = re.sub(r"\A\$\.?", "", path or "")
    return tokenize(steps) if steps else ()


# expressions


@dataclass(frozen=True)
class Reference:
    """What one `Get` refers to: `root` is Parameters, Steps, Execution or PipelineExperimentConfig."""

    root: str
    name: str
    path: tuple[Token, ...] = ()  # the property below the step
    property_file: str | None = None  # its name, when the step is read through one
    text: str = field(default="", compare=False)  # as it is written


def is_expression(value: Any) -> bool:
    """Return whether a JSON value stands for another one."""
    if not isinstance(value, dict) or len(value) != 1:
        return False
    key, operand = next(iter(value.items()))
    return isinstance(operand, str) if key == "Get" else key.startswith("Std:")


def is_single(value: Any) -> bool:
    """Return whether a value is, or stands for, text, a number or a boolean."""
    return is_expression(value) or isinstance(value, str | bool | int | float)


def expressions(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all outermost expressions in a JSON value, in order."""
    if is_expression(value):
        yield value
    elif isinstance(value, dict | list):
        for member in value.values() if isinstance(value, dict) else value:
            yield from expressions(member)


def references(value: Any) -> list[Reference]:
    """Return everything that a JSON value refers to, in order; a PipelineError if an expression is not well formed."""
    found = []
    for expression in expressions(value):
        _, source = parse(expression)
        found += [source] if isinstance(source, Reference) else references(source)
    return found


def readable(value: Any) -> list[Reference]:
    """Return everything that a JSON value refers to, as far as its expressions are well formed."""
    found = []
    for expression in expressions(value):
        with contextlib.suppress(PipelineError):
            found += references(expression)
    return found


def parse(expression: Mapping[str, Any]) -> tuple[str, Any]:
    """Return an expression's function, and what it reads: a Reference, the Values of a Join, the S3Uri of a JsonGet."""
    ((function, operand),) = expression.items()
    if function not in FUNCTIONS:
        raise ExpressionError(f"Function {quoted(function)} is not known.{did_you_mean(function, FUNCTIONS)}")
    if function == "Get":
        return function, parse_reference(operand)
    if function == "Std:Join":
        values = operand.get("Values") if isinstance(operand, dict) else None
        if not isinstance(values, list) or not isinstance(operand.get("On", ""), str):
            raise ExpressionError(f"Std:Join needs a text as On and a list of Values, but got {as_json(operand)}.")
        if others := [value for value in values if not is_single(value)]:
            raise ExpressionError(f"Std:Join takes text, numbers and booleans, but got {kind_of(others[0])}.")
        return function, values
    keys = [key for key in ("PropertyFile", "S3Uri") if isinstance(operand, dict) and key in operand]
    if len(keys) != 1 or not isinstance(operand.get("Path"), str | None):
        raise ExpressionError(f"Std:JsonGet needs a Path and a PropertyFile or an S3Uri, but got {as_json(operand)}.")
    source = operand[keys[0]]
    if keys == ["S3Uri"]:
        if not is_single(source):
            raise ExpressionError(f"Std:JsonGet needs a text as S3Uri, but got {kind_of(source)}.")
        return function, source
    reference = parse_reference(source["Get"]) if is_expression(source) and "Get" in source else None
    if reference is None or reference.property_file is None:
        form = '{"Get": "Steps.<step>.PropertyFiles.<name>"}'
        raise ExpressionError(f"Std:JsonGet needs a PropertyFile of the form {form}, but got {as_json(source)}.")
    return function, reference


def parse_reference(text: str) -> Reference:
    """Read the text of a `Get`."""
    if match := PROPERTY_FILE.match(text):
        return Reference("Steps", match["step"], property_file=match["name"] or match["quoted"], text=text)
    root, *rest = tokenize(text)
    if root not in ROOTS:
        near = did_you_mean(str(root), ROOTS)
        raise ExpressionError(f"Get {quoted(text)} does not start with one of {listing(ROOTS)}.{near}")
    if not rest or (len(rest) > 1 and root != "Steps"):
        raise ExpressionError(f"Get {quoted(text)} must name one {ROOTS[str(root)]} after '{root}.'.")
    return Reference(str(root), str(rest[0]), path=tuple(rest[1:]), text=text)


def describe(value: Any) -> str:
    """Return an operand in a few words, for error sentences: the path that it reads, or the literal."""
    if not is_expression(value):
        return as_json(value)
    ((function, operand),) = value.items()
    if function == "Std:JsonGet" and isinstance(operand, dict):
        return f"{operand.get('Path')!r} of {describe(operand.get('PropertyFile', operand.get('S3Uri')))}"
    return str(operand) if function == "Get" else str(function)


# conditions


def condition_problems(condition: Any, type_of: Callable[[Any], str | None] | None = None) -> Iterator[str]:
    """Yield what is wrong with a condition's form and, given the types of expressions, with its comparisons."""
    condition_type = condition.get("Type") if isinstance(condition, dict) else None
    if not isinstance(condition_type, str) or condition_type not in FIELDS:
        near = did_you_mean(str(condition_type), FIELDS)
        yield f"A condition's Type must be one of {listing(FIELDS)}, but got {quoted(condition_type)}.{near}"
        return
    fields = FIELDS[condition_type]
    if missing := [name for name in fields if name not in condition]:
        yield f"A condition of type {condition_type} lacks {listing(missing)}."
        return
    values = [condition[name] for name in fields]
    if condition_type in ("In", "Or") and not isinstance(values[-1], list):
        yield f"A condition of type {condition_type} needs a list as {fields[-1]}."
        return
    if condition_type in ("Not", "Or"):
        for inner in values if condition_type == "Not" else values[0]:
            yield from condition_problems(inner, type_of)
        return
    operands = [values[0], *values[1]] if condition_type == "In" else values
    if others := [each for each in operands if not is_single(each)]:
        yield from (f"{condition_type} compares single values, but got {kind_of(other)}." for other in others)
    elif condition_type != "In" and type_of:
        kinds = [SCHEMA_KINDS.get(type_of(each) or "") if is_expression(each) else kind_of(each) for each in values]
        if None not in kinds and kinds[0] != kinds[1]:
            sides = [f"{describe(each)} ({kind})" for each, kind in zip(values, kinds, strict=True)]
            yield unequal(condition_type, sides)


def unequal(condition_type: str, sides: Sequence[str]) -> str:
    """Return a sentence on operands of two types, each with its kind."""
    return f"{condition_type} compares {' with '.join(sides)}, but both must be of the same type."
