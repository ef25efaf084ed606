"""Builds images and runs commands in them, as the tests of the container contract need it.

IMAGE_TOOL names a program with two commands, `build [options] CONTEXT` and `run IMAGE FOLDER COMMAND...`, the latter
with FOLDER at /opt/ml; without it docker or podman is used.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil

TOOL = os.environ.get("IMAGE_TOOL")
ENVIRONMENT = {**os.environ, "BUILDAH_LAYERS": "true"}  # what is built already is not built again
BUILD_SECONDS, RUN_SECONDS, START_SECONDS, ATTEMPTS = 1200, 300, 2, 5
# buildah starts from a sealed copy of itself in memory, and the kernel refuses the seal now and then
NOT_STARTED = "sealing memfd copy"


def engine() -> str:
    """The program that builds and runs."""
    found = TOOL or shutil.which("docker") or shutil.which("podman")
    assert found, "Running an image needs docker, podman, or a program that IMAGE_TOOL names; none was found."
    return found


def build(tag: str, context: Path) -> None:
    """Build an image; BASE_IMAGE replaces the public base image."""
    base = os.environ.get("BASE_IMAGE")
    options = ["--build-arg", f"BASE_IMAGE={base}"] if base else []
    command = [engine(), "build", *options, "--tag", tag, str(context)]
    done = finished(command, BUILD_SECONDS)
    assert done.returncode == 0, done.stdout[-5000:]


def run(image: str, folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command with `folder` at /opt/ml; both streams are in `stdout`."""
    return finished(command_line(image, folder, command), RUN_SECONDS)


def command_line(image: str, folder: Path, command: Sequence[str]) -> list[str]:
    """What runs a command in an image, by the name that SageMaker gives the only host."""
    if TOOL:
        return [TOOL, "run", image, str(folder), *command]
    start = [engine(), "run", "--rm", "--network", "host", "--add-host", "algo-1:127.0.0.1"]
    return [*start, "--volume", f"{folder}:/opt/ml", "--entrypoint", command[0], image, *command[1:]]


def finished(command: Sequence[str], limit_seconds: float) -> "subprocess.CompletedProcess[str]":
    """Run to the end, again if the engine itself did not start."""
    for attempt in range(ATTEMPTS):
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit_seconds,
            env=ENVIRONMENT,
            check=False,
        )
        if done.returncode == 0 or NOT_STARTED not in done.stdout or attempt == ATTEMPTS - 1:
            return done
    raise AssertionError("unreachable")


def start(image: str, folder: Path, command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a command that stays, in a process group of its own, with `folder` at /opt/ml; it prints to `log`."""
    for _ in range(ATTEMPTS):
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command_line(image, folder, command),
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT,
                start_new_session=True,
            )
        try:
            process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            return process
        if NOT_STARTED not in log.read_text(errors="replace"):
            break
    return process


def terminate(process: "subprocess.Popen[bytes]", program: str) -> None:
    """SIGTERM to the program in the container; docker and podman hand it on themselves."""
    if not TOOL:
        process.terminate()
        return
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # the server's own processes end with it
            words = child.cmdline()
            if program in words and Path(words[0]).name.startswith("python"):
                child.terminate()
