"""What the user says of images in CSV files: groups, attributes and corrections, named in the section `data`.

Each file's first column is `path`, within the data set, or `sha256`. They are stored by content under one prefix, which
is PrepareData's input `annotations`; it holds a word about itself too, as an input must not be empty.
"""

import csv
import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.config.setting import Read, Rule, null_or, refuse, section, setting, text, whole_number
from pipeline.config.yaml_lines import Value
from pipeline.errors import ConfigError
from pipeline.suggestion import did_you_mean

LONGEST_PATTERN = 200  # an argument of a Processing job has at most 256 characters
README_NAME = "README"
README = (
    b"What the user's CSV files say of the images: groups.csv, attributes.csv, corrections.csv, those that are given.\n"
)
REQUIRED = {"groups": "group", "attributes": None, "corrections": "label"}  # a column, besides path or sha256
CSV_FILE: Read[str] = text(r"(?i).+\.csv", "a .csv file")

Annotations = Mapping[str, bytes]  # groups.csv and so on -> content


def expression(value: Value) -> str:
    """A regular expression with one group in parentheses."""
    pattern = text(".+", "a regular expression", longest=LONGEST_PATTERN)(value)
    try:
        count = re.compile(pattern).groups
    except re.error as error:
        refuse(value, f"must be a regular expression, but got {value}: {error}.")
    if count != 1:
        refuse(value, f"must have one group in parentheses, whose text names an image's group, but got {value}.")
    return pattern


def one_of_three(folder: int | None, pattern: str | None, file: str | None) -> str | None:
    """There is one way by which groups are found."""
    if [folder, pattern, file].count(None) == 2:
        return None
    return "must be null or hold one of folder, pattern and file: {folder: 1}, {pattern: REGEX} or {file: FILE.csv}."


@dataclass(frozen=True)
class GroupConfig:
    """How an image's group is found: one of a folder level, an expression that is searched in the path, or a file."""

    rules: ClassVar = (Rule(("folder", "pattern", "file"), one_of_three, at_section=True),)
    folder: int | None = setting(None, null_or(whole_number(at_least=1, at_most=20)))
    pattern: str | None = setting(None, null_or(expression))
    file: str | None = setting(None, null_or(CSV_FILE))

    def arguments(self) -> list[str]:
        """What PrepareData is told; a file is in its input."""
        named = {"folder": self.folder, "pattern": self.pattern}
        return [f"--group-{name}={value}" for name, value in named.items() if value is not None]


def read_group(value: Value) -> GroupConfig | None:
    """Null, or a GroupConfig."""
    return None if value.data is None else section(GroupConfig)(value)


def read_annotations(
    group: GroupConfig | None, attributes: str | None, corrections: str | None, *, relative_to: Path
) -> Annotations:
    """The files that pipeline.yaml names.

    Raises:
        ConfigError: for each that is missing, no CSV, or without the columns that it needs, one sentence.
    """
    named = {"groups": group.file if group else None, "attributes": attributes, "corrections": corrections}
    found, problems = dict[str, bytes](), list[str]()
    for name, written in named.items():
        if written is None:
            continue
        setting_name = "data.group.file" if name == "groups" else f"data.{name}"
        try:
            content = (relative_to / Path(written).expanduser()).read_bytes()
        except OSError as error:
            problems.append(f"{setting_name}: '{written}' cannot be read: {error.strerror}.")
            continue
        found[f"{name}.csv"] = content
        if problem := fault(content, REQUIRED[name]):
            problems.append(f"{setting_name}: '{written}' {problem}")
    if problems:
        raise ConfigError(problems)
    return found


def fault(content: bytes, required: str | None) -> str | None:
    """What is wrong with a file's encoding or first line; PrepareData, which knows the images, judges the rest."""
    try:
        header = next(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")), [])
    except UnicodeDecodeError:
        return "is not in UTF-8; save it as CSV in UTF-8."
    except csv.Error as error:
        return f"is not a CSV file: {error}."
    columns = [name.strip() for name in header]
    if not columns or columns[0] not in ("path", "sha256"):
        first = f"'{columns[0]}'" if columns else "nothing"
        return f"must have path or sha256 as its first column, then a comma, but its first line begins with {first}."
    if len(set(columns)) < len(columns) or not all(columns):
        return f"must have columns of different names, but its first line is '{','.join(columns)}'."
    if required is None and set(columns) <= {"path", "sha256"}:
        return "must have a column for each attribute, but has none besides path and sha256."
    if required is not None and required not in columns:
        known = ", ".join(columns[1:]) or "nothing"
        return f"must have a column {required}, but has {known} after {columns[0]}.{did_you_mean(required, columns)}"
    return None


def digest(annotations: Annotations) -> str:
    """16 hexadecimal digits over names and contents."""
    total = hashlib.sha256()
    for name in sorted(annotations):
        total.update(f"{name}\0{len(annotations[name])}\0".encode() + annotations[name])
    return total.hexdigest()[:16]
