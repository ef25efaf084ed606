"""An empty AWS account in this process, by moto, and commands and configurations to work on it with."""

import functools
import importlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import moto
import moto_bridge
import pytest
import yaml
from said import Said

import run_pipeline
from pipeline.aws import cost, images, infra, requests, stack
from pipeline.config.config import Config, load

REGION = "us-east-1"
DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"


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
    monkeypatch.setattr(cost, "list_prices", lambda *asked: {})  # of which moto has none
    with moto.mock_aws():
        yield clients


@pytest.fixture
def without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def apply(client: Any) -> Callable[[Config], list[str]]:
    """A function that makes or changes the stacks; it returns the lines that a user reads."""

    def apply_infra(config: Config) -> list[str]:
        proposal = infra.propose(client, config)
        return list(infra.apply(client, config, proposal)) if proposal else []

    return apply_infra


@pytest.fixture
def made(client: Any, config: Config, apply: Any) -> dict[str, str]:
    """The outputs of the stacks, which have been made."""
    apply(config)
    return {**stack.outputs(client, config.aws.project), **stack.outputs(client, f"{config.aws.project}-app")}


@pytest.fixture
def push_images(client: Any) -> Callable[..., None]:
    """A function that does what `images push` would: the stack's repositories have what the code of now needs."""

    def push(*names: str) -> None:
        manifest = json.dumps({"schemaVersion": 2, "mediaType": DOCKER_IMAGE, "config": {}, "layers": []})
        for name in names or images.NAMES:
            place = {"repositoryName": f"image-classification/{name}", "imageTag": images.content_tag(name)}
            client("ecr").put_image(**place, imageManifest=manifest)

    return push


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """A function that runs a command with `--target aws` in this process, where pipeline.yaml lies."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipeline.yaml").write_text("{}\n")

    def run(*words: str, answer: str = "") -> Said:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        try:
            status = run_pipeline.main([*words, "--target", "aws", "--config", "pipeline.yaml", "--home", "home"])
        except SystemExit as ended:
            status = int(ended.code or 0)
        return Said(status, *capsys.readouterr())

    return run


@pytest.fixture
def register(client: Any, config: Config) -> Callable[..., str]:
    """A function that does what RegisterModel would: a version with a model in the bucket; its ARN."""

    def make_version(bucket: str, status: str = "Approved") -> str:
        infra.ensure_model_group(client, config)
        key = f"{config.pipeline.name}/jobs/TrainWithDebugger/training-1/output/model.tar.gz"
        client("s3").put_object(Bucket=bucket, Key=key, Body=b"model")
        answer = client("sagemaker").create_model_package(
            ModelPackageGroupName=config.registry.model_package_group,
            ModelApprovalStatus=status,
            InferenceSpecification={
                "Containers": [{"Image": "image", "ModelDataUrl": f"s3://{bucket}/{key}"}],
                "SupportedContentTypes": ["image/png"],
                "SupportedResponseMIMETypes": ["application/json"],
            },
        )
        return str(answer["ModelPackageArn"])

    return make_version


@pytest.fixture
def deliver(client: Any, config: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """What EventBridge and Lambda would do: a function that calls the handler in the deploy function's environment."""
    deploy = importlib.import_module("deploy")

    def call(kind: str, detail: dict[str, str], **variables: str) -> dict[str, Any]:
        function = client("lambda").get_function(FunctionName=config.aws.deploy_function)["Configuration"]
        for name, value in {**function["Environment"]["Variables"], **variables}.items():
            monkeypatch.setenv(name, str(value))
        deploy.client.cache_clear()
        event = {"detail-type": f"SageMaker {kind} State Change", "detail": detail}
        answer: dict[str, Any] = deploy.handler(event, None)
        return answer

    yield call
    deploy.client.cache_clear()
