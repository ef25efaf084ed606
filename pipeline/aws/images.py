"""The two images: built by whichever engine is there, tagged by their content, pushed to the stack's repositories.

An image's tag is a digest of its Dockerfile, its requirements and, for the inference image, the code that it holds: the
same content has the same tag, and a tag that the repository has already is not pushed again.
"""

import base64
import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import ServiceError, UsageError
from pipeline.paths import ROOT

NAMES = ("training", "inference")
# Engine -> its own options of `build`. What is pushed is to be one image in Docker's format: not an index of several,
# which docker makes of an image and its attestation, and not OCI's format, which the other two write unless told.
ENGINES: Mapping[str, tuple[str, ...]] = {
    "docker": (),
    "podman": ("--format", "docker"),
    "buildah": ("--format", "docker", "--layers"),
}
ENVIRONMENT = {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
STANDARD_ERROR = 2
HELD_CODE: Mapping[str, tuple[str, ...]] = {
    "training": (),
    "inference": ("steps/serve.py", "steps/classifier/**/*.py", "steps/classifier/**/*.html"),
}
PLATFORM = "linux/amd64"  # what SageMaker's instance types run


def find_engine() -> str:
    """The first of docker, podman and buildah that is installed.

    Raises:
        UsageError: none is.
    """
    found = next((engine for engine in ENGINES if shutil.which(engine)), None)
    if found is None:
        raise UsageError(f"Building an image needs one of {', '.join(ENGINES)} on the PATH; none was found.")
    return found


def content_tag(name: str) -> str:
    """16 hexadecimal digits over all that the image is made of."""
    total = hashlib.sha256()
    patterns = (f"containers/{name}/*", *HELD_CODE[name])
    for path in sorted(path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()):
        content = path.read_bytes()
        total.update(f"{path.relative_to(ROOT).as_posix()}\0{len(content)}\0".encode() + content)
    return total.hexdigest()[:16]


def local_name(name: str) -> str:
    """The image on this machine."""
    return f"localhost/{name}:{content_tag(name)}"


def build(name: str, *, base_image: str | None = None, pip_args: str = "", engine: str | None = None) -> str:
    """Build one image; its name on this machine.

    Raises:
        ServiceError: the build failed; the engine has said why.
    """
    arguments = [*([f"BASE_IMAGE={base_image}"] if base_image else []), *([f"PIP_ARGS={pip_args}"] if pip_args else [])]
    options = [word for argument in arguments for word in ("--build-arg", argument)]
    dockerfile = ROOT / "containers" / name / "Dockerfile"
    program = engine or find_engine()
    command = [program, "build", *ENGINES[program], "--platform", PLATFORM, *options]
    run([*command, "--tag", local_name(name), "--file", str(dockerfile), str(ROOT)], f"build image {name!r}")
    return local_name(name)


def push(name: str, repository_uri: str, ecr: Any, engine: str | None = None) -> tuple[str, bool]:
    """Push one image unless the repository has its tag; its URI, and whether it was pushed.

    Args:
        ecr: a boto3 client.

    Raises:
        ServiceError: the engine could not log in, tag or push.
    """
    uri = f"{repository_uri}:{content_tag(name)}"
    if is_pushed(repository_uri, content_tag(name), ecr):
        return uri, False
    program = engine or find_engine()
    log_in(program, ecr)
    run(
        [program, "tag", local_name(name), uri],
        f"tag image {name!r}; build it first with: run_pipeline.py images build --target aws",
    )
    run([program, "push", uri], f"push {uri}")
    return uri, True


def is_pushed(repository_uri: str, tag: str, ecr: Any) -> bool:
    """Whether the repository has the tag."""
    repository = repository_uri.partition("/")[2]
    try:
        ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])
    except ecr.exceptions.ImageNotFoundException:
        return False
    return True


def log_in(engine: str, ecr: Any) -> None:
    """Hand the registry's password to the engine, not by its command line."""
    grant = ecr.get_authorization_token()["authorizationData"][0]
    user, _, password = base64.b64decode(grant["authorizationToken"]).decode().partition(":")
    registry = grant["proxyEndpoint"].removeprefix("https://")
    command = [engine, "login", "--username", user, "--password-stdin", registry]
    run(command, f"log in to {registry}", standard_input=password)


def run(command: Sequence[str], action: str, standard_input: str | None = None) -> None:
    """Run a command of the engine; what it prints is the user's to read, on standard error: the answer comes after it.

    Raises:
        ServiceError: it failed.
    """
    environment = {**os.environ, **ENVIRONMENT}
    status = subprocess.run(
        command, input=standard_input, text=True, stdout=STANDARD_ERROR, env=environment, check=False
    ).returncode
    if status != 0:
        raise ServiceError(f"Could not {action}: {command[0]} ended with exit status {status}.")
