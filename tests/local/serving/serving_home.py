"""A home with models, endpoints and transform jobs whose servers are real, seen by boto3."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage
from tests.local.samples import model_archive, processes_of, wait_until, zombies

IMAGE = "000000000000.dkr.ecr.us-east-1.amazonaws.com/any:local"
ROLE = "arn:aws:iam::000000000000:role/x"
ENDED = ("Completed", "Failed", "Stopped")


class Home:
    """A home with its clients; a model, its configuration and its data have one name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = State(folder)
        self.storage = Storage(self.state)
        session = local_session(self.state)
        self.sagemaker, self.runtime = session.client("sagemaker"), session.client("sagemaker-runtime")

    def container(self, name: str, files: dict[str, str | bytes] | None = None, **environment: str) -> dict[str, Any]:
        """A container whose model data is stored; without files it is a server that says its name."""
        uri = f"s3://bucket/{name}/model.tar.gz"
        self.storage.write(uri, model_archive(name, **(files or {})))
        own = {"SAGEMAKER_PROGRAM": "serve.py"} if files is None or "code/serve.py" in files else {}
        return {"Image": IMAGE, "ModelDataUrl": uri, "Environment": {**own, **environment}}

    def model(self, name: str, *containers: dict[str, Any], **members: Any) -> None:
        """A model, of several containers or one, and a configuration."""
        parts = {"Containers": list(containers)} if len(containers) > 1 else {"PrimaryContainer": containers[0]}
        self.sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, **parts, **members)
        self.config(name)

    def config(self, name: str, *, model: str | None = None, **members: Any) -> None:
        variant = {"VariantName": "Main", "ModelName": model or name, "InstanceType": "ml.m5.large"}
        self.sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[{**variant, "InitialInstanceCount": 1}], **members
        )

    def plain(self, name: str, **environment: str) -> None:
        """A model whose server says its name."""
        self.model(name, self.container(name, **environment))

    def create(self, config: str, endpoint: str = "ep") -> None:
        self.sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=config)

    def update(self, config: str, endpoint: str = "ep") -> None:
        self.sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=config)

    def delete(self, endpoint: str = "ep") -> None:
        self.sagemaker.delete_endpoint(EndpointName=endpoint)

    def describe(self, endpoint: str = "ep") -> dict[str, Any]:
        found: dict[str, Any] = self.sagemaker.describe_endpoint(EndpointName=endpoint)
        return found

    def settled(self, endpoint: str = "ep") -> dict[str, Any]:
        """The endpoint once nothing is under way."""
        wait_until(lambda: self.describe(endpoint)["EndpointStatus"] not in ("Creating", "Updating"))
        return self.describe(endpoint)

    def server(self, endpoint: str = "ep") -> dict[str, Any]:
        """What the state holds of an endpoint's server."""
        document = self.state.get("Endpoint", endpoint)
        assert document and document["Server"]
        return dict(document["Server"])

    def answer(self, body: bytes | str = b"x", endpoint: str = "ep", **members: Any) -> dict[str, Any]:
        """InvokeEndpoint; its Body is read."""
        answer: dict[str, Any] = self.runtime.invoke_endpoint(EndpointName=endpoint, Body=body, **members)
        return {**answer, "Body": answer["Body"].read()}

    def invoke(self, body: bytes | str = b"x", endpoint: str = "ep", **members: Any) -> Any:
        """The JSON that an endpoint answers."""
        return json.loads(self.answer(body, endpoint, **members)["Body"])

    def put(self, **objects: str | bytes) -> None:
        """Input objects of transform jobs; `a__b` is a/b."""
        for name, content in objects.items():
            data = content.encode() if isinstance(content, str) else content
            self.storage.write(f"s3://bucket/in/{name.replace('__', '/')}", data)

    def transform(self, model: str, name: str = "job", **members: Any) -> str:
        """Create a transform job; members of TransformInput and TransformOutput are found by their names."""
        source = {key: members.pop(key) for key in ("ContentType", "SplitType", "CompressionType") if key in members}
        output = {key: members.pop(key) for key in ("Accept", "AssembleWith") if key in members}
        data = members.pop("S3DataSource", {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/in/"})
        request = {
            "TransformJobName": name,
            "ModelName": model,
            "TransformInput": {"DataSource": {"S3DataSource": data}, **source},
            "TransformOutput": {"S3OutputPath": "s3://bucket/out/", **output},
            "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
            **members,
        }
        return str(self.sagemaker.create_transform_job(**request)["TransformJobArn"])

    def job(self, name: str = "job") -> dict[str, Any]:
        found: dict[str, Any] = self.sagemaker.describe_transform_job(TransformJobName=name)
        return found

    def ended(self, name: str = "job") -> dict[str, Any]:
        wait_until(lambda: self.job(name)["TransformJobStatus"] in ENDED)
        return self.job(name)

    def output(self, name: str) -> str:
        return self.storage.read(f"s3://bucket/out/{name}.out").decode()


def make_home(folder: Path) -> Iterator[Home]:
    """A home; when its endpoints are deleted, no process, no zombie and no file of theirs is left."""
    home = Home(folder / "home")
    yield home
    for endpoint in home.sagemaker.list_endpoints()["Endpoints"]:
        home.delete(endpoint["EndpointName"])
    wait_until(lambda: not processes_of(folder))
    wait_until(lambda: subprocess.run(["true"], check=True) and not zombies())  # Popen waits for others that have ended
    assert not list((home.folder / "endpoints").glob("*/*/"))


def refusal(call: Any, *arguments: Any, **request: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        call(*arguments, **request)
    return dict(caught.value.response)


def message(call: Any, *arguments: Any, **request: Any) -> str:
    return str(refusal(call, *arguments, **request)["Error"]["Message"])
