"""YAML with the line of every value, so that a mistake can be pointed at.

`read_mapping` turns a file into a tree of `Value`s. Numbers such as 1e-3 are numbers, as in YAML 1.2 (PyYAML follows
1.1 and reads text). What makes the file unreadable as a whole is raised as ConfigError; duplicate keys are listed
beside the tree.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Problem = tuple[int, str]  # line and sentence
TAG = "tag:yaml.org,2002:"
NUMBER_1_2 = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
KINDS = {dict: "a mapping", list: "a list", type(None): "nothing"}


@dataclass(frozen=True)
class Value:
    """One value of the file: `data` is a scalar, a list of Values or a dict of Values; `text` is a scalar as written.

    `line` is where a scalar stands, and where the key of a list or mapping stands.
    """

    data: Any
    line: int
    text: str = ""
    quoted: bool = False
    key_line: int = 1

    def __str__(self) -> str:
        """How a message quotes the value."""
        if isinstance(self.data, str):
            return f"'{self.data}'"
        if isinstance(self.data, bool) and self.text.lower() not in ("true", "false"):
            return f"{self.text}, which YAML reads as {str(self.data).lower()} unless it is in quotes"
        return KINDS.get(type(self.data), self.text)

    def at_key(self, key_line: int) -> "Value":
        """The same value as the member whose key stands there."""
        return replace(self, key_line=key_line, line=key_line if isinstance(self.data, dict | list) else self.line)


@dataclass
class Reader:
    """Turns YAML nodes into Values and lists the duplicate keys met on the way."""

    problems: list[Problem] = field(default_factory=list)
    constructor: Any = field(default_factory=yaml.constructor.SafeConstructor)
    values: dict[int, Value] = field(default_factory=dict)  # by id of the node: an alias names a node a second time

    def value(self, node: yaml.Node, path: str) -> Value:
        """The Value of a node."""
        if id(node) not in self.values:
            self.values[id(node)] = self.read(node, path)
        return self.values[id(node)]

    def read(self, node: yaml.Node, path: str) -> Value:
        """The Value of a node that is met for the first time."""
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if isinstance(node, yaml.MappingNode):
            return Value(self.mapping(node, path), line_of(node))
        return Value([self.value(item, f"{path}[{index}]") for index, item in enumerate(node.value)], line_of(node))

    def scalar(self, node: yaml.ScalarNode) -> Value:
        """A scalar with its YAML type; what is neither number, boolean nor null is text."""
        quoted = bool(node.style)
        is_number = not quoted and NUMBER_1_2.fullmatch(node.value)
        construct = {
            f"{TAG}int": self.constructor.construct_yaml_int,
            f"{TAG}float": self.constructor.construct_yaml_float,
            f"{TAG}bool": self.constructor.construct_yaml_bool,
            f"{TAG}null": self.constructor.construct_yaml_null,
        }.get(f"{TAG}float" if is_number else node.tag, self.constructor.construct_scalar)
        return Value(construct(node), line_of(node), node.value, quoted)

    def mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Value]:
        """The members by key; what `<<` merges in gives way to the mapping's own keys."""
        self.list_duplicates(node, path)
        self.constructor.flatten_mapping(node)
        return {
            key.value: self.value(member, join(path, key.value)).at_key(line_of(key))
            for key, member in node.value
            if isinstance(key, yaml.ScalarNode)
        }

    def list_duplicates(self, node: yaml.MappingNode, path: str) -> None:
        """A problem for each key that is given twice or is no text."""
        first: dict[str, int] = {}
        for key, _ in node.value:
            line = line_of(key)
            if not isinstance(key, yaml.ScalarNode):
                self.problems.append((line, f"{path or 'the file'} has a key that is not text."))
            elif key.value in first:
                here = join(path, key.value)
                self.problems.append((line, f"{here} is given twice, first on line {first[key.value]}."))
            else:
                first[key.value] = line


def read_mapping(path: Path, name: str) -> tuple[Value, list[Problem]]:
    """The file's mapping and the problems met; `name` is how messages call the file."""
    text = read_text(path, name)
    reader = Reader()
    try:
        node = yaml.compose(text, Loader=Loader)
        if node is None:
            raise ConfigError([f"{name} is empty, but must hold the sections of a configuration."])
        root = reader.value(node, "")
    except yaml.MarkedYAMLError as error:
        raise ConfigError([syntax_sentence(error, text, name)]) from error
    except yaml.reader.ReaderError as error:
        raise ConfigError([f"{name} is not YAML: it holds a control character."]) from error
    except RecursionError as error:
        raise ConfigError(
            [f"{name} cannot be read: a value contains itself, or values are nested too deep."]
        ) from error
    if not isinstance(root.data, dict):
        raise ConfigError([f"{name}:{root.line}: the file must be a mapping of sections, but is {root}."])
    return root, reader.problems


def read_text(path: Path, name: str) -> str:
    """The file's text, or a ConfigError that says why it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError([f"{name} does not exist; name the configuration file with --config."]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{name} is not UTF-8 text."]) from error
    except OSError as error:
        raise ConfigError([f"{name} cannot be read: {error.strerror}."]) from error


def syntax_sentence(error: yaml.MarkedYAMLError, text: str, name: str) -> str:
    """What is wrong with the YAML, and on which line."""
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    written = [*text.split("\n"), ""][line - 1]
    if "\t" in written[: len(written) - len(written.lstrip())]:
        return f"{name}:{line}: the line is indented with a tab, which YAML does not allow; use spaces."
    return f"{name}:{line}: this is not YAML: {error.problem or error.context}."


def line_of(node: yaml.Node) -> int:
    """Where the node starts, counted from 1."""
    return int(node.start_mark.line) + 1


def join(path: str, member: str) -> str:
    """A dotted path; either part may be empty, and an [index] takes no dot."""
    return f"{path}.{member}" if path and member and not member.startswith("[") else path + member
