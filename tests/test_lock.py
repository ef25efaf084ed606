"""The lock files hold what pyproject.toml asks for, for every platform."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.paths import ROOT

FILE = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = FILE["project"]
WANTED = {
    "requirements.lock": PROJECT["dependencies"],
    "requirements-dev.lock": PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"],
    "requirements-checks.lock": FILE["dependency-groups"]["checks"],
}


def locked(name: str) -> dict[str, str]:
    """Package -> version."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    pins = [re.fullmatch(r"([\w.-]+)(?:\[.*\])?==([\w.]+)(?: ; .*)?", line) for line in lines]
    assert all(pins), "only pins: no index, no file, no local version"
    return {canonicalize_name(pin[1]): pin[2] for pin in pins if pin}


@pytest.mark.parametrize("name", WANTED)
def test_the_lock_holds_what_pyproject_asks_for(name: str) -> None:
    pins = locked(name)
    for requirement in map(Requirement, WANTED[name]):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_the_tests_run_with_the_versions_that_the_product_runs_with() -> None:
    product, development = locked("requirements.lock"), locked("requirements-dev.lock")
    assert {name: development[name] for name in product} == product
