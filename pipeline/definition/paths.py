"""Property paths: the text behind `Get` and the `Path` of `Std:JsonGet`, as tokens, and what they lead to.

tokenize("ProcessingOutputConfig.Outputs['train'].S3Output.S3Uri")
    -> ("ProcessingOutputConfig", "Outputs", "train", "S3Output", "S3Uri")
look_up(describe_response, tokens)      a list of named objects is entered by name as well as by index
json_get(document, "$.metrics[0].value")   plain JSON: a list is entered by index only

And how a sentence names values: `kind_of`, `quoted` and `listing`.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.errors import PipelineError
from pipeline.suggestion import did_you_mean

Token = str | int
LONGEST = 100  # characters of a value in a sentence

# A quote ends a bracket only before ']' and a separator, so ['it's'] (the SDK escapes nothing) is one name.
PART = re.compile(
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
KINDS = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string"}


class PathError(PipelineError):
    """A path is not well formed, or leads to nothing in the document it is applied to."""


def tokenize(path: str) -> tuple[Token, ...]:
    """Split a path into member names (str) and indexes (int)."""
    tokens: list[Token] = []
    position = 0
    while position < len(path):
        match = PART.match(path, position)
        separated = path[position] in ".[" if position else path[0] != "."
        if match is None or not separated:
            raise PathError(
                f"Path {quoted(path)} cannot be read from character {position + 1}: {quoted(path[position:])}. "
                "Accepted are names joined by dots, [0] and ['any name']."
            )
        index, single, double, name = match.group("index", "single", "double", "name")
        tokens.append(int(index) if index is not None else single or double or name)
        position = match.end()
    if not tokens:
        raise PathError("A path must name something, but it is empty.")
    return tuple(tokens)


def format_path(tokens: Sequence[Token], *, root: str = "") -> str:
    """Write tokens as a path again, below `root`."""
    text = root
    for token in tokens:
        if isinstance(token, int):
            text += f"[{token}]"
        elif re.fullmatch(r"[A-Za-z_][\w-]*", token):
            text += f".{token}" if text else token
        else:
            text += f"['{token}']"
    return text


def look_up(document: Any, tokens: Sequence[Token], *, root: str = "", by_name: bool = True) -> Any:
    """Find a property of a Describe* response; `root` stands before the path in error sentences."""
    for depth, token in enumerate(tokens):
        found = entries(document, by_name)
        if token not in found:
            parent = format_path(tokens[:depth], root=root)
            has = what_there_is(document, token, [name for name in found if isinstance(name, str)])
            raise PathError(f"{format_path([token], root=parent)} was not found: {parent or 'The document'} {has}")
        document = found[token]
    return document


def entries(value: Any, by_name: bool) -> Mapping[Any, Any]:
    """The members of an object by name, those of a list by index and, where asked for, also by their names."""
    if not isinstance(value, list):
        return value if isinstance(value, dict) else {}
    found: dict[Any, Any] = dict(enumerate(value))
    for item in [item for item in value if by_name and isinstance(item, dict)]:
        names = [item[key] for key in NAMING_KEYS if isinstance(item.get(key), str)]
        if names:
            found.setdefault(names[0], item)
    return found


def what_there_is(value: Any, token: Token, names: list[str]) -> str:
    """The end of the sentence that says where a path has come to nothing."""
    if not isinstance(value, dict | list):
        return f"is {kind_of(value)}, which has no members."
    if not value:
        return "is empty."
    if isinstance(value, list) and (isinstance(token, int) or not names):
        return f"has {len(value)} members, [0] to [{len(value) - 1}]." if len(value) > 1 else "has one member, [0]."
    return f"has {listing(names)}.{did_you_mean(str(token), names)}"


def json_tokens(path: str | None) -> tuple[Token, ...]:
    """The tokens of a path of `Std:JsonGet`; none for no path, `$` and ``, which mean the whole document."""
    steps = re.sub(r"\A\$\.?", "", path or "")
    return tokenize(steps) if steps else ()


def json_get(document: Any, path: str | None, *, root: str = "") -> Any:
    """Find a value in plain JSON, as `Std:JsonGet` does."""
    return look_up(document, json_tokens(path), root=root, by_name=False)


def kind_of(value: Any) -> str:
    """What JSON calls this value, with its article."""
    return KINDS.get(type(value), "an object" if isinstance(value, dict) else "a list")


def quoted(value: Any) -> str:
    """A wrong value in a sentence: text in quotes, an object or a list by its kind, all else as JSON writes it."""
    if isinstance(value, dict | list | None):
        return kind_of(value)
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:60]}... ({len(text)} characters)"


def listing(names: Iterable[str], *, limit: int = 12) -> str:
    """'a', 'b' and 'c': in quotes, in the given order, cut off after `limit`."""
    words = [quoted(name) for name in names]
    if len(words) > limit:
        words[limit:] = [f"{len(words) - limit} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
