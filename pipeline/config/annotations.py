"""What the user says of images in CSV files: groups, attributes and corrections, named in the section `data`.

Each file's first column is `path`, within the data set, or `sha256`. They are stored by content under one prefix, which
is PrepareData's input `annotations`; it holds a word about itself too, as an input must not be empty.
"""

import csv
import hashlib
import io
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from pipeline.config.sections import DataConfig
from pipeline.errors import UsageError
from pipeline.suggestion import did_you_mean

README_NAME = "README"
README = (
    b"What the user's CSV files say of the images: groups.csv, attributes.csv, corrections.csv, those that are given.\n"
)
REQUIRED = {"groups": "group", "attributes": None, "corrections": "label"}  # a column, besides path or sha256
SETTINGS = {"groups": "data.group.file", "attributes": "data.attributes", "corrections": "data.corrections"}

Annotations = Mapping[str, bytes]  # groups.csv and so on -> content
Check = Callable[[Callable[[], bytes], str], bytes | None]


def read_annotations(data: DataConfig, folder: Path, check: Check) -> Annotations:
    """Return the files that pipeline.yaml names; `check` is called with a function that reads one, and its setting."""
    named = {"groups": data.group.file if data.group else None, "attributes": data.attributes}
    named["corrections"] = data.corrections
    readers = {name: partial(read_annotation, name, written, folder) for name, written in named.items() if written}
    found = {f"{name}.csv": check(read, SETTINGS[name]) for name, read in readers.items()}
    return {name: content for name, content in found.items() if content is not None}


def read_annotation(name: str, written: str, folder: Path) -> bytes:
    """Return a file that pipeline.yaml names, relative to the folder that it lies in.

    Raises:
        UsageError: it is missing, no CSV, or without the columns that it needs.
    """
    try:
        content = (folder / Path(written).expanduser()).read_bytes()
    except OSError as error:
        raise UsageError(f"{SETTINGS[name]}: '{written}' cannot be read: {error.strerror}.") from error
    if problem := fault(content, REQUIRED[name]):
        raise UsageError(f"{SETTINGS[name]}: '{written}' {problem}")
    return content


def fault(content: bytes, required: str | None) -> str | None:
    """Return what is wrong with a file's encoding or first line; PrepareData judges the rest by the images."""
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
    """Return 16 hexadecimal digits over names and contents."""
    total = hashlib.sha256()
    for name in sorted(annotations):
        total.update(f"{name}\0{len(annotations[name])}\0".encode() + annotations[name])
    return total.hexdigest()[:16]
