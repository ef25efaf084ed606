"""smdebug itself reads what the final training saved; and whatever breaks smdebug, the training goes on."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from classifier.data.training_data import TrainingData, load
from classifier.model.head import ClassifierHead
from classifier.training.debug_settings import DebugSettings
from classifier.training.head_training import HeadTraining
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.loop import Watcher, train
from classifier.training.monitor import MEGABYTES, WatchedJob, intervals, save_intervals
from classifier.training.results import TrainingResult
from tests.steps.conftest import FINAL_TRAINING
from tests.steps.prepared_data import Prepared, Trained, run_step
from watch.collect.smdebug_hook import Debugger, SaveIntervals

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # smdebug's protobuf code is of 2020

SAVED_TRAIN_STEPS = list(range(0, 54, 2))  # 6 epochs of 9 steps: 72 images of each member, in batches of 8
HYPERPARAMETERS = Hyperparameters(epochs=4, batch_size=16, hidden_units=8)


def test_smdebug_reads_what_the_final_training_saved(trained: Trained) -> None:
    from smdebug import modes
    from smdebug.trials import create_trial

    trial = create_trial(str(trained.tensors))
    losses = [line.split("validation_loss=")[1].split()[0] for line in trained.stdout.splitlines() if "epoch=" in line]
    loss = trial.tensor("CrossEntropyLoss_output_0")
    assert loss.steps(mode=modes.TRAIN) == SAVED_TRAIN_STEPS
    saved = [float(loss.value(epoch, mode=modes.EVAL)) for epoch in range(6)]
    assert saved == pytest.approx([float(text) for text in losses], abs=6e-5)
    weights = trial.tensor_names(collection="weights")
    assert weights == ["ClassifierHead_classifier.weight", "ClassifierHead_hidden.weight"]
    first, later = (trial.tensor(weights[1]).value(step, mode=modes.TRAIN) for step in (0, 10))
    assert first.shape[:2] == (5, 8)  # of each member of the head
    assert not np.array_equal(first, later)
    gradient = trial.tensor("gradient/ClassifierHead_classifier.weight")
    assert (gradient.steps(mode=modes.TRAIN), gradient.steps(mode=modes.EVAL)) == (SAVED_TRAIN_STEPS, [])
    assert trial.tensor_names(regex=".*relu_(in|out)put") == ["hidden_relu_input_0", "hidden_relu_output_0"]
    assert (trained.tensors / "training_job_end.ts").is_file()  # though a SageMaker job leaves that to the service
    first_words = [line.split()[0].partition("=")[0] for line in trained.stdout.splitlines()]
    assert first_words == ["Training", "Debugger:", *["epoch"] * 6, "Scores", "Kept"]
    assert trained.stderr == ""


@pytest.fixture(scope="module")
def data(prepared: Prepared) -> TrainingData:
    return load(prepared.embeddings, prepared.manifest)


@pytest.fixture
def undisturbed(data: TrainingData, capsys: pytest.CaptureFixture[str]) -> TrainingResult:
    """What the training yields without a debugger."""
    result = train(HeadTraining(data, HYPERPARAMETERS))
    capsys.readouterr()
    return result


def assert_same(result: TrainingResult, expected: TrainingResult) -> None:
    assert result.kept.figures == expected.kept.figures
    assert all(
        torch.equal(result.kept.parts["head"][name], expected.kept.parts["head"][name])
        for name in expected.kept.parts["head"]
    )


def test_configuration_file_of_the_service_decides_where_and_what_is_saved(
    data: TrainingData,
    undisturbed: TrainingResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from smdebug import modes
    from smdebug.trials import create_trial

    config = {
        "LocalPath": str(tmp_path / "chosen"),
        "HookParameters": {"train.save_interval": "10", "eval.save_interval": "3"},
        "CollectionConfigurations": [{"CollectionName": "losses"}, {"CollectionName": "gradients"}],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("SMDEBUG_CONFIG_FILE_PATH", str(tmp_path / "config.json"))

    assert_same(debugged(data, tmp_path / "tensors"), undisturbed)

    assert f"Debugger: tensors go to {tmp_path / 'chosen'}\n" in capsys.readouterr().out
    trial = create_trial(str(tmp_path / "chosen"))
    assert trial.tensor("CrossEntropyLoss_output_0").steps(mode=modes.TRAIN) == [0, 10]
    assert trial.tensor("CrossEntropyLoss_output_0").steps(mode=modes.EVAL) == [0, 3]
    assert trial.tensor_names(collection="weights") == []


class Debugged(Watcher):
    """Lets a debugger see a training."""

    def __init__(self, debugger: Debugger) -> None:
        self.set_mode = debugger.set_mode
        self.see = debugger.see


def debugged(data: TrainingData, directory: Path) -> TrainingResult:
    stage = HeadTraining(data, HYPERPARAMETERS)
    job = WatchedJob("job", "algo-1", directory.parent, data, HYPERPARAMETERS, stage.steps)
    with closing(Debugger(directory, intervals(job, DebugSettings(save_interval_steps=2), stage.head))) as debugger:
        debugger.watch(stage.head, stage.criterion)
        return train(stage, watcher=Debugged(debugger))


FAILURES = {
    "a missing configuration file": "FileNotFoundError: [Errno 2] No such file or directory: ",
    "a configuration that smdebug refuses": "InvalidCollectionConfiguration: Collection mine has not been configured. ",
    "a folder that cannot be written": "NotADirectoryError: ",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_training_goes_on_after(
    failure: str,
    data: TrainingData,
    undisturbed: TrainingResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("where a folder is needed")
    config = {"LocalPath": str(tmp_path / "chosen"), "CollectionConfigurations": [{"CollectionName": "mine"}]}
    (tmp_path / "refused.json").write_text(json.dumps(config))
    if "configuration" in failure:
        name = "missing.json" if "missing" in failure else "refused.json"
        monkeypatch.setenv("SMDEBUG_CONFIG_FILE_PATH", str(tmp_path / name))
    assert_same(debugged(data, tmp_path / ("file/tensors" if "folder" in failure else "tensors")), undisturbed)
    said = [line for line in capsys.readouterr().out.splitlines() if "smdebug failed" in line]
    assert len(said) == 1
    assert said[0].startswith(f"Debugger: off for this training, since smdebug failed ({FAILURES[failure]}")


def test_training_goes_on_where_smdebug_cannot_be_imported(
    prepared: Prepared, trained: Trained, tmp_path: Path
) -> None:
    (tmp_path / "smdebug").mkdir()
    (tmp_path / "smdebug" / "__init__.py").write_text("raise ImportError('no\\nprotobuf')")
    output = {"SM_MODEL_DIR": str(tmp_path / "model"), "SM_OUTPUT_DATA_DIR": str(tmp_path / "data")}
    environment = prepared.channels | output | {"PYTHONPATH": str(tmp_path)}
    process = run_step("train.py", *FINAL_TRAINING.split(), env=environment)
    assert (process.returncode, process.stderr) == (0, "")
    lines = process.stdout.splitlines()
    assert lines[1] == "Debugger: off for this training, since smdebug failed (ImportError: no protobuf)"
    assert lines[2:-1] == trained.stdout.splitlines()[2:-1]


def test_tensors_of_a_large_head_are_saved_less_often_than_losses_and_together_with_them() -> None:
    steps: Any = {"TRAIN": 1000, "EVAL": 20}
    rows: Any = {"TRAIN": 64, "EVAL": 500}
    small = save_intervals(ClassifierHead(64, 3), 10, steps=steps, rows=rows, epochs=20)
    assert small == SaveIntervals({"TRAIN": 10, "EVAL": 1}, {"TRAIN": 10, "EVAL": 1})
    head = ClassifierHead(1280, 10, components=1280, hidden_units=512)
    large = save_intervals(head, 10, steps=steps, rows=rows, epochs=20)
    assert large.losses == {"TRAIN": 10, "EVAL": 1}
    assert large.tensors["TRAIN"] % 10 == 0
    megabytes = 4e-6 * sum(parameter.numel() for parameter in head.parameters())
    assert 0.5 * MEGABYTES["TRAIN"] < 1000 / large.tensors["TRAIN"] * 2 * megabytes <= MEGABYTES["TRAIN"]
    assert 0.5 * MEGABYTES["EVAL"] < 20 / large.tensors["EVAL"] * megabytes <= MEGABYTES["EVAL"]
