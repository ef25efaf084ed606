"""Prepared data and a model that train.py trained on it, each made once for all tests; runs of prepare.py."""

import sys
import tarfile
from pathlib import Path

import pytest

import prepare
from classifier.job.failures import PROCESSING_MESSAGE, run
from tests.steps.prepare_job import Prepare, Result, arguments
from tests.steps.prepared_data import Prepared, Trained, run_step, write_prepared, write_weights

FINAL_TRAINING = "--epochs 6 --batch_size 16 --hidden_units 8 --lr 0.02 --debug_save_interval_steps 2"


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights channel."""
    directory = tmp_path_factory.mktemp("weights")
    write_weights(directory)
    return directory


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, weights_dir: Path) -> Prepared:
    """PrepareData's outputs."""
    root = tmp_path_factory.mktemp("prepared")
    write_prepared(root, weights_dir)
    return Prepared(root, weights_dir)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> Trained:
    """The final training, in a process with the environment of a SageMaker job."""
    job = tmp_path_factory.mktemp("training")
    environment = {
        "SM_MODEL_DIR": str(job / "model"),
        "SM_OUTPUT_DATA_DIR": str(job / "data"),
        "TRAINING_JOB_NAME": "t",
    }
    process = run_step("train.py", *FINAL_TRAINING.split(), env=prepared.channels | environment)
    assert process.returncode == 0, process.stderr
    return Trained(job / "model", job / "data" / "tensors", process.stdout, process.stderr)


@pytest.fixture(scope="session")
def archive_dir(tmp_path_factory: pytest.TempPathFactory, trained: Trained) -> Path:
    """A directory with model.tar.gz, packed as SageMaker packs it: paths relative to the model directory."""
    directory = tmp_path_factory.mktemp("archive")
    with tarfile.open(directory / "model.tar.gz", "w:gz") as tar:
        for path in sorted(trained.model_dir.iterdir()):
            tar.add(path, path.name)
    return directory


@pytest.fixture
def prepare_data(
    tmp_path: Path, weights_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Prepare:
    """Runs prepare.py within this process, for speed; its message file is tmp_path/message."""

    def prepared(data: Path, *, output: str = "output", weights: Path = weights_dir, **options: object) -> Result:
        named = {name.replace("_", "-"): value for name, value in options.items()}
        monkeypatch.setattr(sys, "argv", ["prepare.py", *arguments(data, tmp_path / output, weights, named)])
        monkeypatch.setenv(PROCESSING_MESSAGE[0], str(tmp_path / "message"))
        code = run(prepare.main, PROCESSING_MESSAGE)
        captured = capfd.readouterr()
        return Result(data, tmp_path / output, code, captured.out, captured.err)

    return prepared
