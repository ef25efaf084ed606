"""Compiled definitions."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.compile.definitions import compiler


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Callable[..., Any]:
    """A function from the text of a pipeline.yaml to its definition; a sound one."""
    return compiler(tmp_path_factory.mktemp("definition") / "pipeline.yaml")
