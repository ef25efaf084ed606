"""A training that is killed and goes on from its checkpoint ends as one that never was."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from classifier.data.training_data import TrainingData, load
from classifier.training.head_training import HeadTraining
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.job import Checkpoint, checkpoint_directory
from classifier.training.loop import Watcher, train
from classifier.training.results import TrainingResult
from tests.steps.prepared_data import STEPS, Prepared, StopAfter, base_environment

HYPERPARAMETERS = Hyperparameters(epochs=6, batch_size=16, hidden_units=8, lr=0.02)


@pytest.fixture(scope="module")
def data(prepared: Prepared) -> TrainingData:
    return load(prepared.embeddings, prepared.manifest)


def trained(data: TrainingData, checkpoint: Checkpoint | None = None, watcher: Watcher | None = None):
    return train(HeadTraining(data, HYPERPARAMETERS), watcher=watcher, checkpoint=checkpoint)


def assert_same(result: TrainingResult, expected: TrainingResult) -> None:
    assert result.epochs == expected.epochs
    assert result.kept.figures == expected.kept.figures
    found = result.kept.parts["head"]
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.kept.parts["head"].items())


@pytest.mark.parametrize("steps", [1, 7, 12, 20])
def test_stopped_training_goes_on_and_ends_as_one_that_was_not(data: TrainingData, tmp_path: Path, steps: int) -> None:
    checkpoint = Checkpoint(tmp_path / "training.pt", "a")
    stopped = trained(data, checkpoint, StopAfter(steps))
    assert stopped.stopped == "Enough."
    assert len(stopped.epochs) < HYPERPARAMETERS.epochs
    assert_same(trained(data, checkpoint), trained(data))


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint", b"PK\x03\x04cut off"])
def test_damaged_or_another_training_s_checkpoint_is_not_taken_up(data, tmp_path, content, capsys) -> None:
    file = tmp_path / "training.pt"
    if content is None:
        trained(data, Checkpoint(file, "b"), StopAfter(12))
    else:
        file.write_bytes(content)
    assert_same(trained(data, Checkpoint(file, "a")), trained(data))
    why = "is of other data or hyperparameters" if content is None else "cannot be read"
    said = capsys.readouterr().out
    assert f"The checkpoint {file} {why}" in said and "training starts anew." in said


def test_full_disk_costs_the_checkpoint_and_not_the_training(data: TrainingData, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("where a directory is needed")
    assert_same(trained(data, Checkpoint(tmp_path / "file" / "training.pt", "a")), trained(data))
    assert "The checkpoint could not be written (" in capsys.readouterr().out


def test_checkpoints_are_kept_where_the_job_was_configured_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SM_INPUT_CONFIG_DIR", str(tmp_path))
    assert checkpoint_directory() is None
    for config, expected in (({"LocalPath": "/mnt/checkpoints"}, "/mnt/checkpoints"), ({}, "/opt/ml/checkpoints")):
        (tmp_path / "checkpointconfig.json").write_text(json.dumps({"S3Uri": "s3://b/c", **config}))
        assert checkpoint_directory() == Path(expected)


STAGES = {
    "training.pt": ["--epochs", "150", "--batch_size", "4"],
    "fine_tuning.pt": ["--epochs", "2", "--finetune", "all", "--finetune_epochs", "14", "--finetune_image_size", "32"],
}


@pytest.mark.parametrize("file", STAGES)
def test_sigterm_saves_and_exits_and_the_next_start_goes_on(prepared: Prepared, tmp_path: Path, file: str) -> None:
    (tmp_path / "checkpointconfig.json").write_text(
        json.dumps({"S3Uri": "s3://b/c", "LocalPath": str(tmp_path / "checkpoints")})
    )
    environment = base_environment() | prepared.channels
    environment |= {f"SM_CHANNEL_{name.upper()}": str(prepared.root / name) for name in ("train", "validation")}
    environment |= {"SM_MODEL_DIR": str(tmp_path / "model"), "SM_INPUT_CONFIG_DIR": str(tmp_path)}
    command = [sys.executable, str(STEPS / "train.py"), *STAGES[file], "--hidden_units", "8", "--debug", "false"]
    log = tmp_path / "log.txt"

    def epochs() -> list[int]:
        return [int(number) for number in re.findall(r"^epoch=(\d+) ", log.read_text(), re.MULTILINE)]

    for start in range(2):
        with log.open("a") as stream:
            process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + 150
            while start == 0 and len(epochs()) < 4:
                assert time.monotonic() < until and process.poll() is None, log.read_text()
                time.sleep(0.02)
            if start == 0:
                process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=150) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
        assert (tmp_path / "model" / "model.pt").is_file()
        if start == 0:
            assert "epochs: The job was asked to stop (SIGTERM)." in log.read_text()
    assert re.search(
        rf"Going on after epoch \d+( and \d+ steps)?, from the checkpoint {tmp_path}/checkpoints/{file}",
        log.read_text(),
    )
    assert epochs() == list(range(1, 151 if file == "training.pt" else 17))  # none twice
