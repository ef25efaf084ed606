"""Prepared data and a model that train.py trained on it, each made once for all tests of the steps."""

import tarfile
from pathlib import Path

import pytest

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
