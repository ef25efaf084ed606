"""What the command line names, read: parameters, functions, definition files, images."""

import re
from pathlib import Path

from pipeline.definition.steps import load_definition
from pipeline.errors import DefinitionError, UsageError


def parse_parameter(text: str) -> tuple[str, str]:
    """NAME=VALUE.

    Raises:
        UsageError: it has no `=`.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--param {text}: expected NAME=VALUE.")
    return name, value


def parse_lambda(text: str) -> tuple[str, Path, str]:
    """NAME=FILE.py:HANDLER.

    Raises:
        UsageError: it is not of that form.
    """
    match = re.fullmatch(r"([^=]+)=(.+\.py):([\w.]+)", text)
    if match is None:
        raise UsageError(f"--lambda {text}: expected NAME=FILE.py:HANDLER.")
    return match[1], Path(match[2]), match[3]


def read_definition(path: Path) -> str:
    """A definition file.

    Raises:
        UsageError: it is missing or no definition.
    """
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


def read_image(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"No such image: {path}") from None
    except OSError as problem:
        raise UsageError(f"{path} cannot be read: {problem.strerror}.") from problem
