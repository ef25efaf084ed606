"""An empty AWS account in this process, by moto, and pipeline.yaml as it is shipped."""

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import moto
import moto_bridge
import pytest

from pipeline.aws import infra, stack
from pipeline.config.config import Config, load

SHIPPED = Path(__file__).parents[2] / "pipeline.yaml"
REGION = "us-east-1"


@pytest.fixture
def config() -> Config:
    return load(SHIPPED)


@pytest.fixture(scope="session")
def clients() -> Any:
    """Clients are slow to make, and hold nothing of an account."""
    moto_bridge.install()
    return functools.cache(boto3.Session("key", "secret", region_name=REGION).client)


@pytest.fixture
def client(clients: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function from a service's name to a client of an empty account."""
    monkeypatch.setattr(stack, "POLL_SECONDS", 0)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with moto.mock_aws():
        yield clients


@pytest.fixture
def made(client: Any, config: Config) -> dict[str, str]:
    """The outputs of a stack that has been made."""
    list(infra.apply(client, config, infra.propose(client, config)))
    return stack.outputs(client, config.aws.project)


def changed(config: Config, section: str, **values: Any) -> Config:
    """The configuration with other values in one section."""
    return replace(config, **{section: replace(getattr(config, section), **values)})


@pytest.fixture
def change() -> Any:
    """`changed`, for tests that cannot import it."""
    return changed
