"""A YAML file as data, and where each value stands in it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError

Location = tuple[str | int, ...]
UNREADABLE: dict[type[Exception], str] = {  # the first that fits
    FileNotFoundError: "does not exist; name the configuration file with --config.",
    OSError: "cannot be read: {error.strerror}.",
    UnicodeDecodeError: "is not UTF-8 text.",
    yaml.reader.ReaderError: "is not YAML: it holds a control character.",
    RecursionError: "cannot be read: values are nested too deep.",
    Exception: "is not YAML: a value does not fit its tag.",  # ValueError, AttributeError of PyYAML's constructors
}


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads plain words as YAML 1.2 does: `no` and `off` are text, 1e-3 is a number (PyYAML follows 1.1)."""

    yaml_implicit_resolvers: dict[str | None, Any] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """Return the mapping with keys that are text, whatever they look like."""
        self.flatten_mapping(node)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


for tag, pattern in {
    "null": "|~|null|Null|NULL",
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9]\d{0,20})",
    "float": r"[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf)|\.nan",
    "merge": "<<",
}.items():
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})$"), None)


@dataclass
class Source:
    """A file's data and nodes; `problems` lists (line, sentence) of the keys that are given twice."""

    root: yaml.Node
    data: dict[str, Any]
    problems: list[tuple[int, str]]

    def find(self, location: Location) -> tuple[int, yaml.Node | None]:
        """Return the line of a value and its node; the line of what is around it, and None, if it is not stated."""
        node, line = self.root, 1
        for part in location:
            members = [(item, item) for item in node.value] if isinstance(node, yaml.SequenceNode) else node.value
            if isinstance(members, str):
                return line, None
            keyed = enumerate(members) if isinstance(part, int) else ((pair[0].value, pair) for pair in members)
            pair = dict(keyed).get(part)
            if pair is None:
                return line, None
            node, line = pair[1], line_of(pair[0])
        return line_of(node) if isinstance(node, yaml.ScalarNode) and node.value else line, node


def read_source(path: Path, name: str) -> Source:
    """Return what a file holds; messages call it `name`. Raises a ConfigError if it is not a mapping in YAML."""
    text = ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        loader = Loader(text)
        root = loader.get_single_node()
        problems = list(duplicates(root, "", set())) if root else []
        data = loader.construct_document(root) if root else {}
    except yaml.MarkedYAMLError as error:
        raise ConfigError([syntax_problem(error, text, name)]) from error
    except (OSError, ValueError, AttributeError, yaml.reader.ReaderError, RecursionError) as error:
        words = next(words for kind, words in UNREADABLE.items() if isinstance(error, kind))
        raise ConfigError([f"{name} {words.format(error=error)}"]) from error
    if root is None:
        raise ConfigError([f"{name} is empty, but must hold the sections of a configuration."])
    if not isinstance(data, dict):
        shown = "a list" if isinstance(data, list) else f"'{data}'"
        raise ConfigError([f"{name}:{line_of(root)}: the file must be a mapping of sections, but is {shown}."])
    return Source(root, data, problems)


def duplicates(node: yaml.Node, path: str, seen: set[int]) -> Any:
    """Yield a problem for each key that a mapping holds twice."""
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    first: dict[str, int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else [(None, item) for item in node.value]:
        here = f"{path}.{key.value}".removeprefix(".") if key else path
        if key and str(key.value) in first:
            yield line_of(key), f"{here} is given twice, first on line {first[str(key.value)]}."
        elif key:
            first[str(key.value)] = line_of(key)
        yield from duplicates(value, here, seen)


def syntax_problem(error: yaml.MarkedYAMLError, text: str, name: str) -> str:
    """Return a sentence about what is not YAML, with its line."""
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    written = [*text.split("\n"), ""][line - 1]
    if "\t" in written[: len(written) - len(written.lstrip())]:
        return f"{name}:{line}: the line is indented with a tab, which YAML does not allow; use spaces."
    return f"{name}:{line}: this is not YAML: {error.problem or error.context}."


def line_of(node: yaml.Node) -> int:
    """Return where a node starts, counted from 1."""
    return int(node.start_mark.line) + 1
