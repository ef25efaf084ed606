"""The images of jobs and endpoint: built by the engine that is installed, tagged by content, pushed to the stack's ECR.

A tag is a digest of what the image is built from, which is all that the engine is given: Dockerfile, requirements and,
for the inference image, serve.py with what it imports. A tag that the repository has already is not pushed again.
"""

import base64
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.aws.requests import describe
from pipeline.compile.bundle import SERVER, bundle, digest
from pipeline.errors import ServiceError, UsageError
from pipeline.paths import ROOT

NAMES = ("training", "inference")
# The options of `build` with which an engine makes one image in Docker's format, not in OCI's. Docker, which would make
# an index of an image and its attestation, is told otherwise by a variable.
ENGINES = {"docker": (), "podman": ("--format", "docker"), "buildah": ("--format", "docker", "--layers")}
ENVIRONMENT = {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
PLATFORM = "linux/amd64"  # what SageMaker's instance types run


def find_engine() -> str:
    """Return the first of docker, podman and buildah that is installed; a UsageError if none is."""
    if found := next(filter(shutil.which, ENGINES), None):
        return found
    raise UsageError(f"Building an image needs one of {', '.join(ENGINES)} on the PATH; none was found.")


def content(name: str) -> dict[str, bytes]:
    """Return the files that the image is built from, by their paths in the build context."""
    files = {path.name: path.read_bytes() for path in (ROOT / "containers" / name).iterdir()}
    code = bundle(SERVER).files if name == "inference" else {}
    return files | {f"program/{file}": text for file, text in code.items()}


def content_tag(name: str) -> str:
    """Return 16 hexadecimal digits over all that the image is built from."""
    return digest(content(name))


def stage(name: str, folder: Path) -> None:
    """Write what the image is built from, and nothing else, to a folder."""
    for file, text in content(name).items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(text)


def local_name(name: str) -> str:
    """Return the image's name on this machine."""
    return f"localhost/{name}:{content_tag(name)}"


def build(name: str, *, base_image: str | None = None, pip_args: str = "") -> str:
    """Build one image; return its name on this machine. A ServiceError if the engine fails, which has said why."""
    program = find_engine()
    command = [program, "build", *ENGINES[program], "--platform", PLATFORM]
    for argument, value in (("BASE_IMAGE", base_image), ("PIP_ARGS", pip_args)):
        command += ["--build-arg", f"{argument}={value}"] if value else []
    with tempfile.TemporaryDirectory() as folder:
        stage(name, Path(folder))
        run([*command, "--tag", local_name(name), folder], f"build image {name!r}")
    return local_name(name)


def push(name: str, repository_uri: str, ecr: Any) -> tuple[str, bool]:
    """Push one image unless the repository has its tag; return its URI and whether it was pushed."""
    tag = content_tag(name)
    uri, wanted = f"{repository_uri}:{tag}", [{"imageTag": tag}]
    if describe(ecr.describe_images, repositoryName=repository_uri.partition("/")[2], imageIds=wanted):
        return uri, False
    program = find_engine()
    log_in(program, ecr)
    first = "build it first with: run_pipeline.py images build --target aws"
    run([program, "tag", local_name(name), uri], f"tag image {name!r}; {first}")
    run([program, "push", uri], f"push {uri}")
    return uri, True


def log_in(engine: str, ecr: Any) -> None:
    """Log the engine in to the registry; the password goes by standard input, not by the command line."""
    grant = ecr.get_authorization_token()["authorizationData"][0]
    user, _, password = base64.b64decode(grant["authorizationToken"]).decode().partition(":")
    registry = grant["proxyEndpoint"].removeprefix("https://")
    command = [engine, "login", "--username", user, "--password-stdin", registry]
    run(command, f"log in to {registry}", standard_input=password)


def run(command: Sequence[str], action: str, standard_input: str | None = None) -> None:
    """Run a command of the engine, whose output goes to standard error; a ServiceError if it fails."""
    environment = {**os.environ, **ENVIRONMENT}
    ran = subprocess.run(command, input=standard_input, text=True, stdout=2, env=environment, check=False)
    if status := ran.returncode:
        raise ServiceError(f"Could not {action}: {command[0]} ended with exit status {status}.")
