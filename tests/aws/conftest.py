"""An empty AWS account in this process, by moto, and a pipeline.yaml with the sections that a test names."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import moto
import moto_bridge
import pytest
import yaml

from pipeline.aws import infra, requests, stack
from pipeline.config.config import Config, load

REGION = "us-east-1"


@pytest.fixture
def configured(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Config]:
    """A function from sections of pipeline.yaml, and the name of an environment, to the configuration."""

    def load_sections(environment: str | None = None, **sections: Any) -> Config:
        path = tmp_path_factory.mktemp("configuration") / "pipeline.yaml"
        path.write_text(yaml.safe_dump(sections))
        return load(path, environment)

    return load_sections


@pytest.fixture
def config(configured: Callable[..., Config]) -> Config:
    """The defaults."""
    return configured()


@pytest.fixture(scope="session")
def clients() -> Any:
    """Clients are slow to make, and hold nothing of an account."""
    moto_bridge.install()
    return functools.cache(boto3.Session("key", "secret", region_name=REGION).client)


@pytest.fixture
def client(clients: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function from a service's name to a client of an empty account."""
    monkeypatch.setitem(requests.WAITER, "Delay", 0)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with moto.mock_aws():
        yield clients


@pytest.fixture
def apply(client: Any) -> Callable[[Config], list[str]]:
    """A function that makes or changes the stack; it returns the lines that a user reads."""

    def apply_infra(config: Config) -> list[str]:
        change_set = infra.propose(client, config)
        return list(infra.apply(client, config, change_set)) if change_set else []

    return apply_infra


@pytest.fixture
def made(client: Any, config: Config, apply: Any) -> dict[str, str]:
    """The outputs of a stack that has been made."""
    apply(config)
    return stack.outputs(client, config.aws.project)
