"""train.py as SageMaker runs it: trials, the final training, and one sentence for whatever is wrong."""

import argparse
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import trial
from classifier.job.failures import TRAINING_FAILURE, run
from classifier.model.backbone import load_backbone
from classifier.model.head import ClassifierHead
from classifier.training import hyperparameters
from classifier.training.hyperparameters import Hyperparameters
from tests.steps.prepared_data import CLASSES, Prepared, Trained, run_step

EPOCH_LINE = re.compile(
    r"epoch=\d+ train_loss=\d+\.\d{4} train_accuracy=[01]\.\d{4} validation_loss=\d+\.\d{4} "
    r"validation_accuracy=[01]\.\d{4} selection_accuracy=[01]\.\d{4} selection_log_loss=\d+\.\d{4}"
)
TRIAL = ["--epochs", "4", "--batch_size", "16", "--lr", "0.01"]


@pytest.fixture
def call(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs trial.py in this process; returns the exit code."""

    def called(*arguments: str, data: Prepared = prepared) -> int:
        words = [f"--embeddings={data.embeddings}", f"--manifest={data.manifest}", f"--model-dir={tmp_path / 'model'}"]
        monkeypatch.setenv("SM_OUTPUT_FAILURE", str(tmp_path / "failure"))
        monkeypatch.setattr("sys.argv", ["trial.py", *words, *TRIAL, *arguments])
        return run(trial.main, TRAINING_FAILURE)

    return called


def copy_of(prepared: Prepared, directory: Path) -> Prepared:
    shutil.copytree(prepared.root, directory)
    return Prepared(directory, prepared.weights)


def edit_manifest(prepared: Prepared, **changes: object) -> None:
    path = prepared.manifest / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def epoch_lines(stdout: str) -> list[str]:
    return [line for line in stdout.splitlines() if line.startswith("epoch=")]


def test_trial_prints_a_line_per_epoch_and_the_final_training_repeats_it(
    prepared: Prepared, trained: Trained, tmp_path: Path
) -> None:
    launcher = ["--_tuning_objective_metric", "selection:log_loss", "--sagemaker_program", "trial.py"]
    arguments = ["--epochs", "6", "--batch_size", "16", "--hidden_units", "8", "--lr", "0.02", *launcher]
    process = run_step("trial.py", *arguments, env=prepared.channels | {"SM_MODEL_DIR": str(tmp_path)})
    assert (process.returncode, process.stderr) == (0, "")
    first, *epochs = process.stdout.splitlines()
    assert first == "Training on 72 images of 3 classes, 3 views each; validating on 24"
    assert len(epochs) == 6
    assert all(EPOCH_LINE.fullmatch(line) for line in epochs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head.pt", "metrics.json"]
    assert json.loads((tmp_path / "metrics.json").read_text())["hyperparameters"]["lr"] == 0.02
    assert epochs == epoch_lines(trained.stdout)
    trial, final = (torch.load(directory / "head.pt") for directory in (tmp_path, trained.model_dir))
    assert all(torch.equal(trial[name], final[name]) for name in final)


def test_same_seed_gives_the_same_metrics_and_another_seed_others(call, capsys: pytest.CaptureFixture[str]) -> None:
    assert [call("--seed", seed, "--hidden_units", "8") for seed in ("3", "3", "4")] == [0, 0, 0]
    lines = epoch_lines(capsys.readouterr().out)
    assert lines[:4] == lines[4:8] != lines[8:]


def test_last_epoch_is_kept(trained: Trained) -> None:
    *_, last = epoch_lines(trained.stdout)
    kept = trained.description["validation"]
    assert (kept["epoch"], f"{kept['validation_accuracy']:.4f}") == (
        6,
        re.findall("validation_accuracy=([0-9.]+)", last)[0],
    )


FILES = "drift_baseline.npz head.pt model.json model.onnx model.pt rules.json runtimes.json samples samples.npz "
FILES += "seen_images.npy"


def test_model_directory_holds_the_network_its_description_and_no_code(trained: Trained) -> None:
    assert sorted(path.name for path in trained.model_dir.iterdir()) == FILES.split()
    description = trained.description
    assert (description["schema_version"], description["backbone"]) == (1, "test_resnet")
    assert description["classes"] == CLASSES and description["hyperparameters"]["hidden_units"] == 8
    assert sorted(description["calibration"]) == ["expected_calibration_error", "temperature", "uncalibrated_error"]
    assert f"the whole network is in {trained.model_dir / 'model.pt'}" in trained.stdout.splitlines()[-1]


def test_exported_network_answers_as_backbone_head_and_temperature_do(prepared: Prepared, trained: Trained) -> None:
    backbone = load_backbone("test_resnet", prepared.weights)
    state = torch.load(trained.model_dir / "head.pt")
    head = ClassifierHead(
        backbone.feature_dim, 3, components=state["projection"].shape[1], members=5, hidden_units=8
    ).eval()
    head.load_state_dict(state)
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = head(backbone(images)) / trained.description["calibration"]["temperature"]
        answer = torch.jit.load(trained.model_dir / "model.pt")(images)
    assert torch.allclose(answer, logits.softmax(dim=1), atol=1e-5)


UNREAD = "unable to parse string as a"
REFUSED = {
    "--lr 0": "Hyperparameter lr must be greater than 0, but got 0.",
    "--lr inf": "Hyperparameter lr must be a finite number, but got inf.",
    "--lr fast": f"Hyperparameter lr must be a valid number, {UNREAD} number, but got fast.",
    "--lr=": f"Hyperparameter lr must be a valid number, {UNREAD} number, but got nothing.",
    "--batch_size 2.5": f"Hyperparameter batch_size must be a valid integer, {UNREAD}n integer, but got 2.5.",
    "--dropout 1": "Hyperparameter dropout must be less than 1, but got 1.",
    "--erasing_probability nan": "Hyperparameter erasing_probability must be less than or equal to 1, but got nan.",
    "--finetune some": "Hyperparameter finetune must be 'none', 'last_block' or 'all', but got some.",
    "--epochs 0 --seed -1": "Hyperparameter epochs must be greater than or equal to 1, but got 0. "
    "Hyperparameter seed must be greater than or equal to 0, but got -1.",
    "--lr": "trial.py: argument --lr: expected one argument. See trial.py --help.",
    "--manifest=": "Training needs the channel manifest, but neither SM_CHANNEL_MANIFEST nor --manifest is set. "
    "Add it to the training job's input channels.",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_all_that_is_wrong_with_arguments_is_one_line_and_the_reason_of_the_failure(arguments, call, tmp_path, capsys):
    assert call(*arguments.split()) == 1
    assert capsys.readouterr().err == REFUSED[arguments] + "\n"
    assert (tmp_path / "failure").read_text() == REFUSED[arguments]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--batch_size", '"32"'], {"batch_size": 32}),  # encoded as JSON once more
        (["--epochs", "8.0"], {"epochs": 8}),
        (["--compile", "True", "--weight_decay", "1e-4"], {"compile": True, "weight_decay": 1e-4}),
    ],
)
def test_values_are_read_as_launchers_write_them(words: list[str], expected: dict[str, object]) -> None:
    parser = argparse.ArgumentParser()
    hyperparameters.add_arguments(parser)
    assert hyperparameters.parse(parser.parse_args(words)) == Hyperparameters(**expected)


def test_diverging_loss_names_epoch_learning_rate_and_remedy(call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--lr", "1e38") == 1
    assert re.fullmatch(
        r"The training loss became (nan|inf) in epoch 1 at learning rate 1e\+38: "
        r"try a learning rate of 1e\+37 or below.\n",
        capsys.readouterr().err,
    )


def test_embeddings_that_do_not_fit_are_one_sentence(prepared, tmp_path, call, capsys) -> None:
    other = copy_of(prepared, tmp_path / "other")
    edit_manifest(other, counts={"train": {"grass": 70}, "validation": {"grass": 24}, "test": {}})
    assert call(data=other) == 1
    error = capsys.readouterr().err
    assert "manifest.json lists 70 images with 336 features: they belong to different data." in error
    assert len(error.splitlines()) == 1


def test_weights_other_than_those_of_the_embeddings_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    other = copy_of(prepared, tmp_path / "other")
    backbone = json.loads((other.manifest / "manifest.json").read_text())["backbone"]
    found = backbone["weights_sha256"]
    edit_manifest(other, backbone=backbone | {"weights_sha256": "f" * 64})
    process = run_step("train.py", env=other.channels | {"SM_MODEL_DIR": str(tmp_path)})
    assert process.returncode == 1
    assert process.stderr == (
        f"The weights channel holds weights with sha256 {found}, but the embeddings were computed with {'f' * 64}. "
        "Pass the weights that PrepareData used.\n"
    )
