"""One home for the tests of a file."""

from collections.abc import Iterator

import pytest

from tests.local.sagemaker.home import Home
from tests.local.samples import processes_of, wait_until


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("service")
    yield Home(folder)
    wait_until(lambda: not processes_of(folder), seconds=5)
