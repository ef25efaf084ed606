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
from classifier.training.loop import Mode, Watcher, train
from classifier.training.monitor import MEGABYTES, WatchedJob, intervals, save_intervals
from classifier.training.results import TrainingResult
from tests.steps.conftest import FINAL_TRAINING
from tests.steps.prepared_data import Prepared, Trained, run_step
from watch.collect.smdebug_hook import Debugger, SaveIntervals

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # smdebug's protobuf code is of 2020

EPOCHS = 6
STEPS_PER_EPOCH = 9  # 72 images of each member; as they are few, in batches of 8 instead of 16
SAVED_TRAIN_STEPS = list(range(0, EPOCHS * STEPS_PER_EPOCH, 2))


@pytest.fixture(scope="module")
def trial(trained: Trained) -> Any:
    """smdebug's view of the final training's tensors."""
    from smdebug.trials import create_trial

    return create_trial(str(trained.tensors))


@pytest.fixture(scope="module")
def modes() -> Any:
    from smdebug import modes

    return modes


def epoch_loss(trained: Trained, epoch: int) -> float:
    line = next(line for line in trained.stdout.splitlines() if line.startswith(f"epoch={epoch} "))
    return float(dict(pair.split("=") for pair in line.split())["validation_loss"])


def test_losses_are_saved_in_both_modes(trial: Any, modes: Any, trained: Trained) -> None:
    loss = trial.tensor("CrossEntropyLoss_output_0")
    assert loss.steps(mode=modes.TRAIN) == SAVED_TRAIN_STEPS
    assert loss.steps(mode=modes.EVAL) == list(range(EPOCHS))
    for epoch in range(EPOCHS):
        assert float(loss.value(epoch, mode=modes.EVAL)) == pytest.approx(epoch_loss(trained, epoch + 1), abs=6e-5)


def test_weights_are_saved_in_both_modes(trial: Any, modes: Any) -> None:
    assert trial.tensor_names(collection="weights") == [
        "ClassifierHead_classifier.weight",
        "ClassifierHead_hidden.weight",
    ]
    weight = trial.tensor("ClassifierHead_hidden.weight")
    assert weight.steps(mode=modes.TRAIN) == SAVED_TRAIN_STEPS
    assert weight.steps(mode=modes.EVAL) == list(range(EPOCHS))
    first, later = weight.value(0, mode=modes.TRAIN), weight.value(10, mode=modes.TRAIN)
    assert first.shape[:2] == (5, 8)  # of each member of the head
    assert not np.array_equal(first, later)


def test_gradients_are_saved_while_training_only(trial: Any, modes: Any) -> None:
    gradient = trial.tensor("gradient/ClassifierHead_classifier.weight")
    assert gradient.steps(mode=modes.TRAIN) == SAVED_TRAIN_STEPS
    assert gradient.steps(mode=modes.EVAL) == []
    assert np.abs(gradient.value(0, mode=modes.TRAIN)).max() > 0


def test_activations_are_found_by_the_names_that_rules_look_for(trial: Any, modes: Any) -> None:
    assert trial.tensor_names(regex=".*relu_output") == ["hidden_relu_output_0"]
    assert trial.tensor_names(regex=".*relu_input") == ["hidden_relu_input_0"]
    assert trial.tensor("hidden_relu_output_0").value(0, mode=modes.TRAIN).min() == 0


def test_end_is_marked_although_a_sagemaker_job_leaves_that_to_the_service(trained: Trained) -> None:
    assert (trained.tensors / "training_job_end.ts").is_file()
    assert not (trained.tensors / "claim.smd").exists()


def test_log_lines_of_smdebug_do_not_mix_with_the_training_s(trained: Trained) -> None:
    first_words = [line.split()[0].partition("=")[0] for line in trained.stdout.splitlines()]
    assert first_words == ["Training", "Debugger:", *["epoch"] * EPOCHS, "Scores", "Kept"]
    assert trained.stderr == ""


HYPERPARAMETERS = Hyperparameters(epochs=4, batch_size=16, hidden_units=8)


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


def test_training_goes_on_where_the_configuration_file_is_missing(
    data: TrainingData,
    undisturbed: TrainingResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SMDEBUG_CONFIG_FILE_PATH", str(tmp_path / "missing.json"))
    assert_same(debugged(data, tmp_path / "tensors"), undisturbed)
    reason = f"FileNotFoundError: [Errno 2] No such file or directory: '{tmp_path / 'missing.json'}'"
    first, *epochs = capsys.readouterr().out.splitlines()
    assert first == f"Debugger: off for this training, since smdebug failed ({reason})"
    assert [line.partition("=")[0] for line in epochs] == ["epoch"] * 4


def test_training_goes_on_where_the_configuration_file_asks_for_what_smdebug_refuses(
    data: TrainingData,
    undisturbed: TrainingResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = {"LocalPath": str(tmp_path / "chosen"), "CollectionConfigurations": [{"CollectionName": "mine"}]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("SMDEBUG_CONFIG_FILE_PATH", str(tmp_path / "config.json"))
    assert_same(debugged(data, tmp_path / "tensors"), undisturbed)
    failures = [line for line in capsys.readouterr().out.splitlines() if "smdebug failed" in line]
    assert failures == [
        "Debugger: off for this training, since smdebug failed (InvalidCollectionConfiguration: "
        "Collection mine has not been configured. Please fill in tensor_name or include_regex)"
    ]


def test_training_goes_on_where_tensors_cannot_be_written(
    data: TrainingData, undisturbed: TrainingResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("where a directory is needed")
    assert_same(debugged(data, tmp_path / "file" / "tensors"), undisturbed)
    failures = [line for line in capsys.readouterr().out.splitlines() if "smdebug failed" in line]
    assert len(failures) == 1
    assert failures[0].startswith("Debugger: off for this training, since smdebug failed (NotADirectoryError: ")


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


STEPS: dict[Mode, int] = {"TRAIN": 1000, "EVAL": 20}
ROWS: dict[Mode, int] = {"TRAIN": 64, "EVAL": 500}


def test_tensors_of_a_small_head_are_saved_as_often_as_losses() -> None:
    intervals = save_intervals(ClassifierHead(64, 3), 10, steps=STEPS, rows=ROWS, epochs=20)
    assert intervals == SaveIntervals({"TRAIN": 10, "EVAL": 1}, {"TRAIN": 10, "EVAL": 1})


def test_tensors_of_a_large_head_are_saved_less_often_than_losses_and_together_with_them() -> None:
    head = ClassifierHead(1280, 10, components=1280, hidden_units=512)
    intervals = save_intervals(head, 10, steps=STEPS, rows=ROWS, epochs=20)
    assert intervals.losses == {"TRAIN": 10, "EVAL": 1}
    assert intervals.tensors["TRAIN"] % 10 == 0
    parameters = sum(parameter.numel() for parameter in head.parameters())
    gradients_and_weights = 1000 / intervals.tensors["TRAIN"] * 2 * parameters * 4 / 1e6
    assert 0.5 * MEGABYTES["TRAIN"] < gradients_and_weights <= MEGABYTES["TRAIN"]
    weights = 20 / intervals.tensors["EVAL"] * parameters * 4 / 1e6
    assert 0.5 * MEGABYTES["EVAL"] < weights <= MEGABYTES["EVAL"]
