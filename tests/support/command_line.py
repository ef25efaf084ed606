"""Fixtures: commands in a working directory of their own."""

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from said import Cli, Said

import run_pipeline
from pipeline.errors import UsageError
from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.state import State
from tests.local.samples import ROOT, processes_of, wait_until


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys, nothing_is_left) -> Cli:
    """A function that runs a command in this process, in an empty working directory with the home `home`."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "run_pipeline.py")])
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    def run(*words: object) -> Said:
        home = [] if "--home" in words else ["--home", "home"]
        capsys.readouterr()
        try:
            status = run_pipeline.main([*map(str, words), *home])
        except SystemExit as ended:
            status = int(ended.code or 0)
        return Said(status, *capsys.readouterr())

    return run


@pytest.fixture
def files() -> Callable[..., None]:
    """A function that writes files into the working directory."""

    def write(**content: Any) -> None:
        for name, value in content.items():
            Path(name.replace("_", ".", 1)).write_text(value if isinstance(value, str) else json.dumps(value))

    return write


@pytest.fixture
def nothing_is_left(tmp_path) -> Iterator[None]:
    """No process of a test's home outlives it."""
    yield
    for home in tmp_path.glob("**/state.db"):
        with contextlib.suppress(UsageError):  # a state that is none
            client = local_session(State(home.parent)).client("sagemaker")
            for endpoint in client.list_endpoints()["Endpoints"]:
                client.delete_endpoint(EndpointName=endpoint["EndpointName"])
    wait_until(lambda: not processes_of(tmp_path), seconds=5)
