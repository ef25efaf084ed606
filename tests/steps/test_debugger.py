"""smdebug itself reads what the final training saved; and whatever breaks smdebug, the training goes on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from debugger import MEGABYTES, affordable_interval
from head import ClassifierHead
from tests.steps.conftest import FINAL_TRAINING
from tests.steps.prepared_data import Prepared, Trained, run_step

EPOCHS = 6
STEPS_PER_EPOCH = 5  # 72 images in batches of 16
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
    assert first.shape[0] == 8
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
    assert first_words == ["Training", "Debugger", *["epoch"] * EPOCHS, "Kept"]
    assert trained.stderr == ""


def final_training(prepared: Prepared, directory: Path, **environment: str) -> tuple[str, str]:
    """Run the final training; returns stdout without the last line, and stderr."""
    output = {"SM_MODEL_DIR": str(directory / "model"), "SM_OUTPUT_DATA_DIR": str(directory / "data")}
    process = run_step("train.py", *FINAL_TRAINING.split(), env=prepared.channels | output | environment)
    assert process.returncode == 0, process.stderr
    return process.stdout.rpartition("Kept")[0], process.stderr


def test_configuration_file_of_the_service_decides_where_and_what_is_saved(prepared: Prepared, tmp_path: Path) -> None:
    from smdebug import modes
    from smdebug.trials import create_trial

    config = {
        "LocalPath": str(tmp_path / "chosen"),
        "HookParameters": {"train.save_interval": "10", "eval.save_interval": "3"},
        "CollectionConfigurations": [{"CollectionName": "losses"}, {"CollectionName": "gradients"}],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    stdout, _ = final_training(prepared, tmp_path, SMDEBUG_CONFIG_FILE_PATH=str(tmp_path / "config.json"))
    assert f"Debugger tensors go to {tmp_path / 'chosen'}\n" in stdout
    trial = create_trial(str(tmp_path / "chosen"))
    assert trial.tensor("CrossEntropyLoss_output_0").steps(mode=modes.TRAIN) == [0, 10, 20]
    assert trial.tensor("CrossEntropyLoss_output_0").steps(mode=modes.EVAL) == [0, 3]
    assert trial.tensor_names(collection="weights") == []


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("raise ImportError('no protobuf')", "ImportError: no protobuf"),
        ("from smdebug_real import *", "ModuleNotFoundError: No module named 'smdebug_real'"),
    ],
)
def test_training_goes_on_where_smdebug_cannot_be_imported(
    broken: str, reason: str, prepared: Prepared, trained: Trained, tmp_path: Path
) -> None:
    (tmp_path / "smdebug").mkdir()
    (tmp_path / "smdebug" / "__init__.py").write_text(broken)
    stdout, stderr = final_training(prepared, tmp_path, PYTHONPATH=str(tmp_path))
    assert stdout.splitlines()[1] == f"Debugger: off for this training, since smdebug failed ({reason})"
    assert epoch_lines(stdout) == epoch_lines(trained.stdout)
    assert stderr == ""


def test_training_goes_on_where_the_configuration_file_is_missing(prepared: Prepared, tmp_path: Path) -> None:
    stdout, stderr = final_training(prepared, tmp_path, SMDEBUG_CONFIG_FILE_PATH=str(tmp_path / "missing.json"))
    assert stdout.splitlines()[1] == (
        "Debugger: off for this training, since smdebug failed "
        f"(FileNotFoundError: [Errno 2] No such file or directory: '{tmp_path / 'missing.json'}')"
    )
    assert len(epoch_lines(stdout)) == EPOCHS
    assert stderr == ""


def test_training_goes_on_where_tensors_cannot_be_written(prepared: Prepared, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where a directory is needed")
    stdout, stderr = final_training(prepared, tmp_path)
    lines = stdout.splitlines()
    assert sum("smdebug failed" in line for line in lines) == 1
    assert epoch_lines(stdout) == epoch_lines(trained.stdout)
    assert stderr == ""


def epoch_lines(stdout: str) -> list[str]:
    return [line for line in stdout.splitlines() if line.startswith("epoch=")]


def test_save_interval_widens_for_a_head_whose_tensors_would_fill_the_disk(capsys: pytest.CaptureFixture[str]) -> None:
    small, large = ClassifierHead(64, 3), ClassifierHead(1280, 10, hidden_units=2048)
    assert affordable_interval(10, small, 1000) == 10
    interval = affordable_interval(10, large, 10_000)
    saved_megabytes = 10_000 / interval * 8 * sum(tensor.numel() for tensor in large.parameters()) / 1e6
    assert 0.9 * MEGABYTES < saved_megabytes <= MEGABYTES
    assert (
        capsys.readouterr().out
        == f"Debugger: saving every {interval} steps instead of 10, for about 128 MB of tensors\n"
    )
