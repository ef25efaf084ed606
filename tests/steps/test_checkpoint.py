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
from classifier.training import checkpoint
from classifier.training.checkpoint import Checkpoints, checkpoint_directory
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.job import head_training
from classifier.training.loop import TrainingResult, Watcher, train
from tests.steps.prepared_data import STEPS, Prepared, base_environment

HYPERPARAMETERS = Hyperparameters(epochs=6, batch_size=16, hidden_units=8, lr=0.02)


class StopAfter(Watcher):
    """Asks to stop when so many training steps have begun."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def phase(self, name: str):
        if name == "Forward":
            self.steps -= 1
        if self.steps == 0:
            self.stop_requested = "Enough."
        return super().phase(name)


@pytest.fixture(scope="module")
def data(prepared: Prepared) -> TrainingData:
    return load(prepared.embeddings, prepared.manifest)


def trained(
    data: TrainingData, checkpoints: Checkpoints | None = None, watcher: Watcher | None = None
) -> TrainingResult:
    return train(head_training(data, HYPERPARAMETERS), watcher=watcher, checkpoints=checkpoints)


def assert_same(result: TrainingResult, expected: TrainingResult) -> None:
    assert result.epochs == expected.epochs
    assert result.kept.figures == expected.kept.figures
    assert all(
        torch.equal(result.kept.parts["head"][name], expected.kept.parts["head"][name])
        for name in expected.kept.parts["head"]
    )


@pytest.mark.parametrize("steps", [1, 7, 12, 20])
def test_stopped_training_goes_on_and_ends_as_one_that_was_not(data: TrainingData, tmp_path: Path, steps: int) -> None:
    stopped = trained(data, Checkpoints(tmp_path, "a"), StopAfter(steps))
    assert stopped.stopped == "Enough."
    assert len(stopped.epochs) < HYPERPARAMETERS.epochs
    assert_same(trained(data, Checkpoints(tmp_path, "a")), trained(data))


def test_stopped_training_keeps_the_best_of_what_it_did(data: TrainingData, capsys: pytest.CaptureFixture[str]) -> None:
    stopped = trained(data, watcher=StopAfter(1))
    assert re.fullmatch(r"Epoch 1 was cut short; validation accuracy 0\.\d{4}\n", capsys.readouterr().out)
    assert [epoch.epoch for epoch in stopped.epochs] == [1]
    assert stopped.kept.figures == stopped.epochs[0]
    assert stopped.kept.parts.keys() == trained(data).kept.parts.keys()


def test_checkpoint_of_another_training_is_not_taken_up(
    data: TrainingData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(data, Checkpoints(tmp_path, "a"), StopAfter(12))
    assert_same(trained(data, Checkpoints(tmp_path, "b")), trained(data))
    sentence = f"The checkpoint {tmp_path / 'training.pt'} is of other data or hyperparameters: training starts anew."
    assert sentence in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04cut off"])
def test_damaged_checkpoint_is_not_taken_up(
    data: TrainingData, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "training.pt").write_bytes(content)
    assert_same(trained(data, Checkpoints(tmp_path, "a")), trained(data))
    assert f"The checkpoint {tmp_path / 'training.pt'} cannot be read (" in capsys.readouterr().out


def test_full_disk_costs_the_checkpoint_and_not_the_training(
    data: TrainingData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("where a directory is needed")
    assert_same(trained(data, Checkpoints(tmp_path / "file" / "checkpoints", "a")), trained(data))
    assert "The checkpoint could not be written (" in capsys.readouterr().out


def test_checkpoints_are_kept_where_the_job_was_configured_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SM_INPUT_CONFIG_DIR", str(tmp_path))
    assert checkpoint_directory() is None
    (tmp_path / "checkpointconfig.json").write_text(json.dumps({"S3Uri": "s3://b/c", "LocalPath": "/mnt/checkpoints"}))
    assert checkpoint_directory() == Path("/mnt/checkpoints")
    (tmp_path / "checkpointconfig.json").write_text(json.dumps({"S3Uri": "s3://b/c"}))
    assert checkpoint_directory() == Path(checkpoint.DEFAULT_DIRECTORY)


LONG = ["--epochs", "150", "--batch_size", "4", "--hidden_units", "8", "--lr", "0.002", "--debug_profiled_steps", "0"]


def start(prepared: Prepared, folder: Path) -> "subprocess.Popen[str]":
    """The final training with checkpoints, in its own process."""
    (folder / "config").mkdir(parents=True, exist_ok=True)
    checkpoints = {"S3Uri": "s3://b/c", "LocalPath": str(folder / "checkpoints")}
    (folder / "config" / "checkpointconfig.json").write_text(json.dumps(checkpoints))
    environment = {
        "SM_MODEL_DIR": str(folder / "model"),
        "SM_OUTPUT_DATA_DIR": str(folder / "data"),
        "SM_INPUT_CONFIG_DIR": str(folder / "config"),
        "SM_OUTPUT_FAILURE": str(folder / "failure"),
    }
    return subprocess.Popen(
        [sys.executable, str(STEPS / "train.py"), *LONG],
        env=base_environment() | prepared.channels | environment,
        stdout=(folder / "log.txt").open("a"),
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def epochs(folder: Path) -> list[str]:
    return [line for line in (folder / "log.txt").read_text().splitlines() if line.startswith("epoch=")]


def test_sigterm_saves_and_exits_and_the_next_start_goes_on(prepared: Prepared, tmp_path: Path) -> None:
    process = start(prepared, tmp_path)
    try:
        wait_for(lambda: len(epochs(tmp_path)) >= 20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    assert "of 150 epochs: The job was asked to stop (SIGTERM)." in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "model" / "model.pt").is_file()
    before = epochs(tmp_path)
    assert len(before) < 150
    again = start(prepared, tmp_path)
    try:
        assert again.wait(timeout=120) == 0
    finally:
        again.kill()
    log = (tmp_path / "log.txt").read_text()
    going_on = (
        rf"Going on after epoch {len(before)}( and \d+ steps)?, from the checkpoint {tmp_path}/checkpoints/training.pt"
    )
    assert re.search(going_on, log)
    assert len(epochs(tmp_path)) == 150  # none twice
