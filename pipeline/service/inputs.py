"""What options of the command line name, read: parameters, functions, definition files."""

import re
from pathlib import Path

from pipeline.definition.steps import load_definition
from pipeline.errors import DefinitionError, UsageError


def parse_parameter(text: str) -> tuple[str, str]:
    """Return name and value of NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--param {text}: expected NAME=VALUE.")
    return name, value


def parse_lambda(text: str) -> tuple[str, Path, str]:
    """Return the parts of NAME=FILE.py:HANDLER."""
    match = re.fullmatch(r"([^=]+)=(.+\.py):([\w.]+)", text)
    if match is None:
        raise UsageError(f"--lambda {text}: expected NAME=FILE.py:HANDLER.")
    return match[1], Path(match[2]), match[3]


def read_definition(path: Path) -> str:
    try:
        text = path.read_text()
        load_definition(text)
    except OSError as problem:
        raise UsageError(f"{path}: {problem.strerror}.") from problem
    except UnicodeDecodeError as problem:
        raise UsageError(f"{path} is not JSON: {problem}.") from problem
    except DefinitionError as problem:
        raise UsageError(f"{path} {problem}") from problem
    return text
