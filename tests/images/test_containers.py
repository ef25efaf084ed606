"""The real contract inside the real images, on the jobs of a finished local run: `make image-test`."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import container_engine
import numpy as np
import pytest
from image_pins import normal, pins

from pipeline.aws.images import NAMES, ROOT, local_name, stage
from pipeline.service import sources

pytestmark = pytest.mark.skipif("IMAGE_TEST" not in os.environ, reason="builds images: run `make image-test`")
PORT = 8080
PROGRAM = "/opt/program/serve.py"
IMAGES_PER_CLASS = 30  # of the digits: what is tested is the containers, not the model
COMPILERS = "gcc g++ cc c++ cpp clang tcc as ld make"
OF_CUDA = re.compile(r"nvidia-.+|cuda-.+|triton")  # torch's own metadata pins them, and a processor's torch has none
ABOUT = """
import importlib.metadata, json, os, subprocess
kilobytes = subprocess.run(["du", "-xsk", "/"], capture_output=True, text=True).stdout.split()[0]
packages = {found.name: found.version for found in importlib.metadata.distributions()}
print(json.dumps({"user": os.getuid(), "megabytes": int(kilobytes) // 1024, "packages": packages}))
"""


@pytest.fixture(scope="module", autouse=True)
def images(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Both images, built."""
    for name in NAMES:
        stage(name, folder := tmp_path_factory.mktemp(name))
        container_engine.build(local_name(name), folder)


@dataclass(frozen=True)
class LocalRun:
    """A finished local run."""

    home: Path
    document: dict[str, Any]

    def job(self, step: str) -> Path:
        """The folder of a step's job."""
        return Path(next(found["log"] for found in self.document["steps"] if found["name"] == step)).parent

    def trial(self) -> Path:
        """The folder of the first trial's job."""
        [folder] = self.home.glob("jobs/*-001-*")
        return folder


@pytest.fixture(scope="module")
def local_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    """A run on part of the digits, whose jobs are run again inside the images."""
    home, data = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("data")
    sources.write_digits(data)
    for folder in data.iterdir():
        for image in sorted(folder.iterdir())[IMAGES_PER_CLASS:]:
            image.unlink()
    common = ["--home", str(home)]
    parameters = ["--param", "MaxTuningJobs=2", "--param", "AccuracyThreshold=0.3"]
    program = [sys.executable, "run_pipeline.py"]
    ran = subprocess.run(
        [*program, "run", "--json", "--data", str(data), *parameters, *common], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    yield LocalRun(home, json.loads(ran.stdout))
    subprocess.run([*program, "teardown", "--yes", *common], cwd=ROOT, capture_output=True, check=True)


def epochs(text: str) -> list[str]:
    """The lines from which metrics are read."""
    found = re.findall(r"epoch=\d+ .*", text)
    assert found, text[-3000:]
    return found


def lay_out(job: Path, folder: Path) -> None:
    """A job's tree as the service lays it out: the inputs, and empty directories for the outputs."""
    shutil.copytree(job / "ml/input", folder / "input")
    for name in ("model", "output/data"):
        (folder / name).mkdir(parents=True)


def trained_in_image(job: Path, folder: Path) -> str:
    """What `train` prints on the inputs of a job; its tree is at `folder`."""
    lay_out(job, folder)
    ran = container_engine.run(local_name("training"), folder, "train")
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert (folder / "output/success").is_file()
    return ran.stdout


def test_train_gives_the_model_and_metrics_of_the_local_run(local_run: LocalRun, tmp_path: Path) -> None:
    job = local_run.job("TrainWithDebugger")
    said = trained_in_image(job, tmp_path)
    assert epochs(said) == epochs((job / "log.txt").read_text())
    assert "Debugger: off" not in said
    model, expected = tmp_path / "model", job / "ml/model"
    assert json.loads((model / "model.json").read_text()) == json.loads((expected / "model.json").read_text())
    assert names_below(model) == names_below(expected)
    assert names_below(tmp_path / "output/data/tensors") == names_below(job / "ml/output/data/tensors")


def test_a_trial_of_the_search_starts_and_gives_the_metrics_of_the_local_run(
    local_run: LocalRun, tmp_path: Path
) -> None:
    job = local_run.trial()
    said = trained_in_image(job, tmp_path)
    assert epochs(said) == epochs((job / "log.txt").read_text())
    written = [json.loads((folder / "model/metrics.json").read_text()) for folder in (tmp_path, job / "ml")]
    assert written[0] == written[1]


def test_a_training_that_fails_says_why_where_sagemaker_reads_it(local_run: LocalRun, tmp_path: Path) -> None:
    lay_out(local_run.trial(), tmp_path)
    shutil.rmtree(tmp_path / "input/data/embeddings")
    ran = container_engine.run(local_name("training"), tmp_path, "train")
    assert ran.returncode == 1
    assert "embeddings" in (tmp_path / "output/failure").read_text()


def processed_in_image(job: Path, folder: Path) -> Path:
    """Run a Processing job's own command on a copy of its inputs; where its outputs are."""
    shutil.copytree(job / "ml", folder, ignore=shutil.ignore_patterns("output"), dirs_exist_ok=True)
    request = json.loads((job / "ml/config/processingjobconfig.json").read_text())["AppSpecification"]
    command = [*request["ContainerEntrypoint"], *request["ContainerArguments"]]
    ran = container_engine.run(local_name("training"), folder, *command)
    assert ran.returncode == 0, ran.stdout[-3000:]
    return folder / "processing/output"


def test_a_processing_command_prepares_the_data_of_the_local_run(local_run: LocalRun, tmp_path: Path) -> None:
    job = local_run.job("PrepareData")
    output, expected = processed_in_image(job, tmp_path / "image"), tmp_path / "expected"
    shutil.copytree(job / "ml/processing/output", expected)
    for made in (output, expected):
        assert files_below(made / "embedding_cache")
        shutil.rmtree(made / "embedding_cache")  # named by what was embedded how, and when it was written
    assert names_below(output) == names_below(expected)
    for file in files_below(expected):
        there = output / file.relative_to(expected)
        if file.suffix == ".npy" and np.load(file).dtype.kind == "f":
            assert np.allclose(np.load(there), np.load(file), rtol=1e-3, atol=1e-3), file
        else:
            assert there.read_bytes() == file.read_bytes(), file


def test_a_processing_command_gives_the_evaluation_of_the_local_run(local_run: LocalRun, tmp_path: Path) -> None:
    job = local_run.job("EvaluateModel")
    output = processed_in_image(job, tmp_path)
    written = [
        json.loads((folder / "evaluation/evaluation.json").read_text())
        for folder in (output, job / "ml/processing/output")
    ]
    (names, figures), (expected_names, expected) = (leaves_of(document) for document in written)
    assert names == expected_names
    assert figures == pytest.approx(expected, rel=1e-4, abs=1e-6)  # NumPy there may be another, and round otherwise


def leaves_of(document: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """Path -> value of what a JSON document holds: texts and the like, and floats."""
    others: dict[str, Any] = {}
    floats: dict[str, float] = {}
    waiting = [("", document)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{path}.{key}", member) for key, member in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{path}[{index}]", member) for index, member in enumerate(value)]
        elif isinstance(value, float):
            floats[path] = value
        else:
            others[path] = value
    return others, floats


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def names_below(folder: Path) -> list[str]:
    """Relative names of all files."""
    found = [path.relative_to(folder).as_posix() for path in files_below(folder)]
    assert found, folder
    return found


@dataclass(frozen=True)
class Server:
    """`serve` in the inference image."""

    process: "subprocess.Popen[bytes]"
    log: Path
    address: str = f"http://127.0.0.1:{PORT}"

    def pings(self) -> bool:
        """Whether /ping answers 200."""
        try:
            with urllib.request.urlopen(f"{self.address}/ping", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, TimeoutError):
            return False

    def wait_until_ready(self) -> None:
        """Until the first ping: a minute, where SageMaker gives four."""
        deadline = time.monotonic() + 60
        while not self.pings():
            assert time.monotonic() < deadline and self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.2)


@pytest.fixture
def server(local_run: LocalRun, tmp_path: Path) -> Iterator[Server]:
    """The server on the trained model, on the port that the contract names."""
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", PORT)), (
            f"Port {PORT}, which the contract names, is taken on this machine."
        )
    shutil.copytree(local_run.job("TrainWithDebugger") / "ml/model", tmp_path / "model")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # pytest makes them its user's only, and the server is nobody
    command = ["python3", PROGRAM, "serve"]
    log = tmp_path / "log.txt"
    process = container_engine.start(local_name("inference"), tmp_path, command, log)
    found = Server(process, log)
    try:
        found.wait_until_ready()
        yield found
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def test_serve_answers_ping_and_invocations_and_ends_on_sigterm(local_run: LocalRun, server: Server) -> None:
    image = Path(local_run.document["example_image"]).read_bytes()
    request = urllib.request.Request(f"{server.address}/invocations", image, {"Content-Type": "image/png"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        probabilities = json.loads(answer.read())
    assert len(probabilities) == 10
    assert sum(probabilities) == pytest.approx(1.0, abs=1e-4)
    refused = urllib.request.Request(f"{server.address}/invocations", b"text", {"Content-Type": "text/plain"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(refused, timeout=60)
    assert caught.value.code == 415
    container_engine.terminate(server.process, PROGRAM)
    assert server.process.wait(30) == 0, server.log.read_text()[-3000:]
    assert not server.pings()
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(("name", "user"), [("training", 0), ("inference", 65534)])
def test_an_image_holds_what_is_pinned_and_no_compiler(
    name: str, user: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = container_engine.run(local_name(name), tmp_path, "python3", "-c", ABOUT)
    assert ran.returncode == 0, ran.stdout
    about = json.loads(ran.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f"\nimage {name}: {about['megabytes']} MB in {len(about['packages'])} packages")
    assert about["user"] == user
    assert unpinned(name, about["packages"]) == {}
    found = container_engine.run(local_name(name), tmp_path, "sh", "-c", f"command -v {COMPILERS}; true")
    assert (found.returncode, found.stdout.strip()) == (0, "")


def unpinned(name: str, packages: dict[str, str]) -> dict[str, str]:
    """Packages whose version is not that of the image's constraints.txt; pip comes with Python."""
    pinned = pins(name, "constraints.txt")
    return {
        package: version
        for package, version in packages.items()
        if package != "pip"
        and not OF_CUDA.fullmatch(normal(package))
        and pinned.get(normal(package)) != version.partition("+")[0]
    }
