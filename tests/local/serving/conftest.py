"""The home that tests of serving work in."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local.serving.serving_home import Home, make_home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    yield from make_home(tmp_path)
