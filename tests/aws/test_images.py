"""Building and pushing the images: what the engines are told, by programs that stand for them and write it down."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from image_pins import pins

from pipeline.aws import images
from pipeline.cli import account
from pipeline.cli.call import Call
from pipeline.errors import ServiceError, UsageError

REPOSITORIES = {"TrainingRepositoryUri": "training", "InferenceRepositoryUri": "inference"}
DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
FAKE = """#!/bin/sh
{ for word in "$@"; do printf '%s\\n' "$word"; done; printf '%s\\n' "$BUILDX_NO_DEFAULT_ATTESTATIONS"; cat; } > "$0.$1"
echo "$1 says something"
[ ! -e "$0.fails-to-$1" ]
"""


@dataclass(frozen=True)
class Engine:
    """A program that stands for an engine."""

    path: Path

    def told(self, verb: str) -> list[str]:
        """The words of the last call with a verb; then the variable, then standard input."""
        return Path(f"{self.path}.{verb}").read_text().splitlines()

    def was_called(self, verb: str) -> bool:
        return Path(f"{self.path}.{verb}").exists()

    def fail_to(self, verb: str) -> None:
        Path(f"{self.path}.fails-to-{verb}").touch()


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Engine:
    """The only engine that is installed: docker unless the test names another."""
    path = tmp_path / "bin" / getattr(request, "param", "docker")
    path.parent.mkdir()
    path.write_text(FAKE)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/bin:/usr/bin")
    monkeypatch.setattr(images.shutil, "which", lambda name: str(path) if name == path.name else None)
    return Engine(path)


@pytest.fixture
def command(client: Any, config: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """`run_pipeline.py images ACTION --json`; its answer."""

    monkeypatch.setattr(account, "account_clients", lambda call, command: client)
    monkeypatch.setattr(Call, "config", config)

    def run(action: str, **options: Any) -> list[dict[str, Any]]:
        assert account.images(Call(as_json=True), action, **options) == 0
        found: list[dict[str, Any]] = json.loads(capfd.readouterr().out)
        return found

    return run


@pytest.mark.parametrize(
    ("engine", "own"),
    [("docker", []), ("podman", ["--format", "docker"]), ("buildah", ["--format", "docker", "--layers"])],
    indirect=["engine"],
)
def test_each_engine_builds_one_image_for_the_processors_of_sagemaker(engine: Engine, own: list[str], command: Any):
    answer = command("build", base_image="mirror/python:3.11", pip_args="--index-url https://mirror")
    tags = [images.content_tag(name) for name in images.NAMES]
    assert answer == [{"image": f"localhost/training:{tags[0]}"}, {"image": f"localhost/inference:{tags[1]}"}]
    arguments = ["--build-arg", "BASE_IMAGE=mirror/python:3.11", "--build-arg", "PIP_ARGS=--index-url https://mirror"]
    target = ["--tag", f"localhost/inference:{tags[1]}"]
    files = ["--file", str(images.ROOT / "containers/inference/Dockerfile"), str(images.ROOT)]
    said = ["build", *own, "--platform", "linux/amd64", *arguments, *target, *files]
    assert engine.told("build") == [*said, "1"]


def test_the_first_engine_that_is_there_is_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images.shutil, "which", lambda name: name if name in ("podman", "buildah") else None)
    assert images.find_engine() == "podman"
    monkeypatch.setattr(images.shutil, "which", lambda name: None)
    with pytest.raises(UsageError) as caught:
        images.find_engine()
    assert str(caught.value) == ("Building an image needs one of docker, podman, buildah on the PATH; none was found.")


@pytest.mark.parametrize("engine", ["docker", "buildah"], indirect=True)
def test_images_are_pushed_under_their_content_with_the_password_on_standard_input(
    engine: Engine, command: Any, client: Any, made: dict[str, str]
):
    answer = command("push")
    names = [f"{made[key]}:{images.content_tag(name)}" for key, name in REPOSITORIES.items()]
    assert answer == [{"image": name, "pushed": True} for name in names]
    registry = made["InferenceRepositoryUri"].partition("/")[0]
    grant = client("ecr").get_authorization_token()["authorizationData"][0]
    assert grant["proxyEndpoint"] == f"https://{registry}"
    *words, _, password = engine.told("login")
    assert words == ["login", "--username", "AWS", "--password-stdin", registry]
    assert password == f"{registry.partition('.')[0]}-auth-token"
    assert engine.told("tag")[:3] == ["tag", images.local_name("inference"), names[1]]
    assert engine.told("push")[:2] == ["push", names[1]]


def test_what_the_repository_has_is_not_pushed_again(engine: Engine, command: Any, client: Any, made: dict[str, str]):
    for key, name in REPOSITORIES.items():
        repository = made[key].partition("/")[2]
        manifest = json.dumps({"schemaVersion": 2, "mediaType": DOCKER_IMAGE, "config": {}, "layers": []})
        client("ecr").put_image(repositoryName=repository, imageManifest=manifest, imageTag=images.content_tag(name))
    assert [found["pushed"] for found in command("push")] == [False, False]
    assert not engine.was_called("login")


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        (
            "login",
            r"Could not log in to \d{12}\.dkr\.ecr\.us-east-1\.amazonaws\.com: docker ended with exit status 1\.",
        ),
        (
            "tag",
            r"Could not tag image 'training'; build it first with: run_pipeline\.py images build --target aws: "
            r"docker ended with exit status 1\.",
        ),
        ("push", r"Could not push \d{12}\.dkr\.\S+/training:[0-9a-f]{16}: docker ended with exit status 1\."),
    ],
)
def test_an_engine_that_fails_is_named_with_what_it_was_to_do(
    engine: Engine, command: Any, made: dict[str, str], verb: str, expected: str
):
    engine.fail_to(verb)
    with pytest.raises(ServiceError) as caught:
        command("push")
    assert re.fullmatch(expected, str(caught.value)), str(caught.value)


def test_a_build_that_fails_is_one_sentence(engine: Engine, command: Any):
    engine.fail_to("build")
    with pytest.raises(ServiceError) as caught:
        command("build")
    assert str(caught.value) == "Could not build image 'training': docker ended with exit status 1."


def test_without_a_stack_there_is_nowhere_to_push(engine: Engine, command: Any):
    with pytest.raises(ServiceError) as caught:
        command("push")
    assert str(caught.value) == (
        "There is no stack 'image-classification' in this account and region: `run_pipeline.py infra` makes it."
    )


def test_a_tag_changes_with_what_the_image_is_made_of_and_with_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    subprocess.run(["cp", "-r", images.ROOT / "containers", images.ROOT / "steps", tmp_path], check=True)
    monkeypatch.setattr(images, "ROOT", tmp_path)
    before = {name: images.content_tag(name) for name in images.NAMES}
    assert all(re.fullmatch("[0-9a-f]{16}", tag) for tag in before.values())

    def changed() -> list[str]:
        return [name for name in images.NAMES if images.content_tag(name) != before[name]]

    (tmp_path / "steps/notes.txt").write_text("in no image")
    assert changed() == []
    (tmp_path / "steps/serve.py").write_text("changed = True")
    assert changed() == ["inference"]
    with (tmp_path / "containers/training/constraints.txt").open("a") as constraints:
        constraints.write("# changed\n")
    assert changed() == ["training", "inference"]


@pytest.mark.parametrize("name", images.NAMES)
def test_what_an_image_requires_is_pinned_with_what_that_brings_along(name: str) -> None:
    required = pins(name, "requirements.txt")
    assert required
    assert required.items() <= pins(name, "constraints.txt").items()
