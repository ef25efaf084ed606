"""A pipeline.yaml in a folder of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.config import Config, load
from pipeline.errors import ConfigError


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """A function from the text of a pipeline.yaml, and an environment, to its configuration."""
    monkeypatch.chdir(tmp_path)

    def read_text(text: str, environment: str | None = None) -> Config:
        Path("pipeline.yaml").write_text(text)
        return load(Path("pipeline.yaml"), environment)

    return read_text


@pytest.fixture
def problems(read: Callable[..., Config]) -> Callable[..., list[str]]:
    """A function from the text of a pipeline.yaml, and an environment, to what is wrong with it."""

    def find(text: str, environment: str | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            read(text, environment)
        return caught.value.problems

    return find
