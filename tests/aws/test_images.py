"""Building and pushing the images: what the engines are told, by programs that stand for them and write it down."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from re import fullmatch

import pytest
from image_pins import pins

from pipeline.aws import images
from pipeline.compile import bundle as bundles
from pipeline.compile.bundle import SERVER, bundle

REPOSITORIES = {"TrainingRepositoryUri": "training", "InferenceRepositoryUri": "inference"}
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


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Engine:
    """The only engine that is installed: docker unless the test names another."""
    path = tmp_path / "bin" / getattr(request, "param", "docker")
    path.parent.mkdir()
    path.write_text(FAKE)
    path.chmod(0o755)
    for tool in ("sh", "cat"):
        (path.parent / tool).symlink_to(str(shutil.which(tool)))
    monkeypatch.setenv("PATH", str(path.parent))
    return Engine(path)


@pytest.mark.parametrize(
    ("engine", "own"),
    [("docker", []), ("podman", ["--format", "docker"]), ("buildah", ["--format", "docker", "--layers"])],
    indirect=["engine"],
)
def test_each_engine_builds_one_image_for_the_processors_of_sagemaker(client, engine, own, cli):
    options = ["--base-image", "mirror/python:3.11", "--pip-args=--index-url https://mirror"]
    names = [images.local_name(name) for name in images.NAMES]
    assert cli("images", "build", "--json", *options).document == [{"image": name} for name in names]
    arguments = ["--build-arg", "BASE_IMAGE=mirror/python:3.11", "--build-arg", "PIP_ARGS=--index-url https://mirror"]
    said = ["build", *own, "--platform", "linux/amd64", *arguments, "--tag", names[1]]
    *words, folder, variable = engine.told("build")
    assert (words, variable) == (said, "1")
    assert not Path(folder).exists()


def test_an_engine_is_given_what_the_image_is_made_of_and_nothing_else(tmp_path):
    listed = {}
    for name in images.NAMES:
        images.stage(name, folder := tmp_path / name)
        listed[name] = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    own = {"Dockerfile", "requirements.txt", "constraints.txt"}
    assert listed["training"] == own
    assert listed["inference"] == own | {f"program/{file}" for file in bundle(SERVER).files}


def test_the_first_engine_that_is_there_is_used_and_one_is_needed(client, cli, engine, tmp_path):
    (tmp_path / "bin/podman").write_text(FAKE)
    assert images.find_engine() == "docker"
    engine.path.unlink()
    said = cli("images", "build")
    assert (said.status, said.out) == (2, "")
    assert "needs one of docker, podman, buildah on the PATH; none was found" in said.error


@pytest.mark.parametrize("engine", ["docker", "buildah"], indirect=True)
def test_images_are_pushed_under_their_content_with_the_password_on_standard_input(client, engine, cli, made):
    names = [f"{made[key]}:{images.content_tag(name)}" for key, name in REPOSITORIES.items()]
    assert cli("images", "push", "--json").document == [{"image": name, "pushed": True} for name in names]
    registry = made["InferenceRepositoryUri"].partition("/")[0]
    *words, _, password = engine.told("login")
    assert words == ["login", "--username", "AWS", "--password-stdin", registry]
    assert password == f"{registry.partition('.')[0]}-auth-token"
    assert engine.told("tag")[:3] == ["tag", images.local_name("inference"), names[1]]
    assert engine.told("push")[:2] == ["push", names[1]]


def test_what_the_repository_has_is_not_pushed_again(push_images, engine, cli, made):
    push_images()
    assert [found["pushed"] for found in cli("images", "push", "--json").document] == [False, False]
    assert not Path(f"{engine.path}.login").exists()


@pytest.mark.parametrize(
    ("action", "verb", "part"),
    [
        ("push", "login", "Could not log in to 123456789012.dkr.ecr.us-east-1.amazonaws.com: docker ended with exit"),
        ("push", "tag", "tag image 'training'; build it first with: run_pipeline.py images build --target aws: docker"),
        ("push", "push", "Could not push 123456789012.dkr.ecr.us-east-1.amazonaws.com/image-classification/training:"),
        ("build", "build", "Could not build image 'training': docker ended with exit status 1."),
    ],
)
def test_an_engine_that_fails_is_named_with_what_it_was_to_do(engine, cli, made, action, verb, part):
    Path(f"{engine.path}.fails-to-{verb}").touch()
    said = cli("images", action)
    assert (said.status, said.out) == (1, "")
    assert part in said.error


def test_without_a_stack_there_is_nowhere_to_push(client, engine, cli):
    said = cli("images", "push")
    assert (said.status, said.out) == (1, "")
    assert "There is no stack 'image-classification' in this account and region: `run_pipeline.py infra`" in said.error


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("steps/train.py", {"train"}),
        ("steps/watch/collect/observer.py", {"train"}),
        ("steps/serve.py", {"inference"}),
        ("steps/classifier/serving/app.py", {"inference"}),
        ("steps/classifier/serving/page.html", {"inference"}),
        ("steps/classifier/model/runtimes.py", {"train", "inference"}),  # which measures what the server runs
        ("steps/notes.txt", set()),
        ("containers/training/constraints.txt", {"training"}),
        ("containers/inference/Dockerfile", {"inference"}),
    ],
)
def test_an_edit_changes_the_images_and_the_job_that_hold_it_and_nothing_else(tmp_path, monkeypatch, file, expected):
    for name in ("containers", "steps"):
        shutil.copytree(images.ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(images, "ROOT", tmp_path)
    monkeypatch.setattr(bundles, "STEPS", tmp_path / "steps")

    def names() -> dict[str, str]:
        bundles.bundle.cache_clear()
        tags = {name: images.content_tag(name) for name in images.NAMES}
        assert all(fullmatch("[0-9a-f]{16}", tag) for tag in tags.values())
        return {**tags, "train": bundles.bundle("train.py").key("p")}

    before = names()
    with (tmp_path / file).open("a") as edited:
        edited.write("# a comment\n")
    assert {name for name, found in names().items() if found != before[name]} == expected
    bundles.bundle.cache_clear()


@pytest.mark.parametrize("name", images.NAMES)
def test_what_an_image_requires_is_pinned_with_what_that_brings_along(name):
    required = pins(name, "requirements.txt")
    assert required
    assert required.items() <= pins(name, "constraints.txt").items()
