"""The real contract inside the real images: `make image-test`.

IMAGE_TOOL names a program with two commands, `build [options] CONTEXT` and `run IMAGE FOLDER COMMAND...`, the latter
with FOLDER at /opt/ml; without it docker, podman or buildah is used. BASE_IMAGE replaces the public base image.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.aws.images import NAMES, content_tag, find_engine

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif("IMAGE_TEST" not in os.environ, reason="builds images: run `make image-test`")
PORT = 8080


def tool() -> list[str]:
    """The program that builds."""
    return [os.environ.get("IMAGE_TOOL") or find_engine()]


def image_name(name: str) -> str:
    return f"localhost/{name}:{content_tag(name)}"


def in_image(name: str, folder: Path, command: list[str]) -> list[str]:
    """A command line that runs `command` in an image with `folder` at /opt/ml."""
    if os.environ.get("IMAGE_TOOL"):
        return [*tool(), "run", image_name(name), str(folder), *command]
    start = [*tool(), "run", "--rm", "--network", "host", "--add-host", "algo-1:127.0.0.1"]
    return [*start, "--volume", f"{folder}:/opt/ml", "--entrypoint", command[0], image_name(name), *command[1:]]


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    """Both images, built."""
    for name in NAMES:
        base = ["--build-arg", f"BASE_IMAGE={os.environ['BASE_IMAGE']}"] if "BASE_IMAGE" in os.environ else []
        dockerfile = str(ROOT / "containers" / name / "Dockerfile")
        command = [*tool(), "build", *base, "--tag", image_name(name), "--file", dockerfile, str(ROOT)]
        subprocess.run(command, check=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished local run, whose jobs are run again inside the images."""
    home = tmp_path_factory.mktemp("home")
    command = [sys.executable, "run_pipeline.py", "run", "--home", str(home), "--json", "--param", "MaxTuningJobs=2"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (home / "run.json").write_text(ran.stdout)
    yield home
    subprocess.run([sys.executable, "run_pipeline.py", "teardown", "--yes", "--home", str(home)], cwd=ROOT, check=True)


def job_folder(home: Path, step: str) -> Path:
    """The directory of a step's job."""
    document = json.loads((home / "run.json").read_text())
    return Path(next(found["log"] for found in document["steps"] if found["name"] == step)).parent


def epochs(text: str) -> list[str]:
    """The lines from which metrics are read."""
    return re.findall(r"epoch=\d+ .*", text)


def test_train_gives_the_metrics_of_the_local_run(home: Path, tmp_path: Path) -> None:
    job = job_folder(home, "TrainWithDebugger")
    shutil.copytree(job / "ml" / "input", tmp_path / "input")
    shutil.copytree(job / "ml" / "code", tmp_path / "input/data/code")
    (tmp_path / "model").mkdir()
    hyperparameters = tmp_path / "input/config/hyperparameters.json"
    values = json.loads(hyperparameters.read_text())
    hyperparameters.write_text(json.dumps({**values, "sagemaker_submit_directory": "/opt/ml/input/data/code"}))
    ran = subprocess.run(in_image("training", tmp_path, ["train"]), capture_output=True, text=True, check=False)
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0, said[-3000:]
    assert epochs(said) == epochs((job / "log.txt").read_text())
    assert "Debugger: off" not in said
    assert {"model.pt", "model.json", "code"} <= {path.name for path in (tmp_path / "model").iterdir()}


def test_a_processing_command_gives_the_evaluation_of_the_local_run(home: Path, tmp_path: Path) -> None:
    job = job_folder(home, "EvaluateModel")
    shutil.copytree(job / "ml", tmp_path / "ml", ignore=shutil.ignore_patterns("output"))
    request = json.loads((job / "ml/config/processingjobconfig.json").read_text())["AppSpecification"]
    command = [*request["ContainerEntrypoint"], *request["ContainerArguments"]]
    ran = subprocess.run(in_image("training", tmp_path / "ml", command), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-3000:]
    written = "processing/output/evaluation/evaluation.json"
    assert json.loads((tmp_path / "ml" / written).read_text()) == json.loads((job / "ml" / written).read_text())


@pytest.fixture
def server(home: Path, tmp_path: Path) -> Iterator[str]:
    """`serve` in the inference image, on the trained model."""
    model = job_folder(home, "TrainWithDebugger") / "ml" / "model"
    shutil.copytree(model, tmp_path / "model")
    tmp_path.chmod(0o755)
    command = in_image("inference", tmp_path, ["python3", "/opt/program/serve.py", "serve"])
    with (tmp_path / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            yield wait_until_ready(process, tmp_path / "log.txt")
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def wait_until_ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """The server's address once /ping answers."""
    address = f"http://127.0.0.1:{PORT}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/ping", timeout=2) as answer:
                assert answer.status == 200
                return address
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


def test_serve_answers_ping_and_invocations(home: Path, server: str) -> None:
    document = json.loads((home / "run.json").read_text())
    image = Path(document["example_image"]).read_bytes()
    request = urllib.request.Request(f"{server}/invocations", image, {"Content-Type": "image/png"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        probabilities = json.loads(answer.read())
    assert len(probabilities) == 10
    assert sum(probabilities) == pytest.approx(1.0, abs=1e-4)


def test_the_images_hold_no_compiler(tmp_path: Path) -> None:
    for name in NAMES:
        command = in_image(name, tmp_path, ["sh", "-c", "command -v gcc cc g++ clang; true"])
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == ""
