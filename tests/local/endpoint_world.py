"""A home with endpoints whose servers are real, of the standard library alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage
from tests.local.samples import model_archive, processes_of, wait_until, zombies
from tests.pipeline.plain_versions import ROLE, container


class World:
    """A home with its clients; a model is told by its name."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.state = State(home)
        self.sagemaker = local_session(self.state).client("sagemaker")
        self.runtime = local_session(self.state).client("sagemaker-runtime")

    def model(self, name: str, *, data: bytes | None = None, **environment: str) -> None:
        """A model, and a configuration of the same name."""
        uri = f"s3://bucket/{name}/model.tar.gz"
        Storage(self.state).write(uri, model_archive(name) if data is None else data)
        main = container(uri, **environment)
        self.sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=main)
        variant = {"VariantName": "Main", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])

    def create(self, config: str, endpoint: str = "ep") -> None:
        self.sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=config)

    def update(self, config: str, endpoint: str = "ep") -> None:
        self.sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=config)

    def describe(self, endpoint: str = "ep") -> dict[str, Any]:
        found: dict[str, Any] = self.sagemaker.describe_endpoint(EndpointName=endpoint)
        return found

    def settled(self, endpoint: str = "ep") -> dict[str, Any]:
        """The endpoint once nothing is under way."""
        wait_until(lambda: self.describe(endpoint)["EndpointStatus"] not in ("Creating", "Updating"))
        return self.describe(endpoint)

    def invoke(self, body: bytes = b"x", endpoint: str = "ep", **members: Any) -> dict[str, Any]:
        answer = self.runtime.invoke_endpoint(EndpointName=endpoint, Body=body, **members)
        said: dict[str, Any] = json.loads(answer["Body"].read())
        return said

    def delete(self, endpoint: str = "ep") -> None:
        self.sagemaker.delete_endpoint(EndpointName=endpoint)

    def server(self, endpoint: str = "ep") -> dict[str, Any]:
        document = self.state.get("Endpoint", endpoint)
        assert document and document["Server"]
        found: dict[str, Any] = document["Server"]
        return found


def a_world(folder: Path) -> Iterator[World]:
    """A home; deleting its endpoints leaves no process, no zombie and no file of theirs."""
    found = World(folder / "home")
    yield found
    for endpoint in found.sagemaker.list_endpoints()["Endpoints"]:
        found.delete(endpoint["EndpointName"])
    assert not processes_of(folder)
    assert not zombies()
    assert not list((found.home / "endpoints").glob("*"))


def refusal(call: Any, *arguments: Any, **request: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        call(*arguments, **request)
    found: dict[str, Any] = caught.value.response
    return found


def message(call: Any, *arguments: Any, **request: Any) -> str:
    return str(refusal(call, *arguments, **request)["Error"]["Message"])
