"""The lab that tests of jobs work in."""

from pathlib import Path

import pytest

from pipeline.local.sandbox.namespaces import find_mount
from tests.local.lab import Lab


@pytest.fixture(scope="session")
def can_mount(tmp_path_factory: pytest.TempPathFactory) -> bool:
    """Whether jobs get an /opt/ml of their own on this machine."""
    return find_mount(tmp_path_factory.mktemp("home")) is not None


@pytest.fixture
def lab(any_lab: Lab, can_mount: bool) -> Lab:
    """An empty home, for scripts that name /opt/ml."""
    if not can_mount:
        pytest.skip("this machine does not let jobs mount an /opt/ml of their own")
    return any_lab


@pytest.fixture
def any_lab(tmp_path: Path) -> Lab:
    """An empty home, for scripts that take their paths from what they are told."""
    return Lab(tmp_path)
