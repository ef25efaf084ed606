"""train.py as SageMaker runs it: trials, the final training, and one sentence for whatever is wrong."""

import argparse
import json
import re
import shutil
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch

import trial
from classifier.data import training_data
from classifier.job.failures import TRAINING_FAILURE, StepError, run
from classifier.model.head import ClassifierHead
from classifier.model.runtimes import load_script
from classifier.training import hyperparameters
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.optimizer import AdamW, RatedParameters, scheduled_lr
from classifier.watch import debug_settings
from tests.steps.prepared_data import CLASSES, STEPS, Prepared, Trained, run_step

EPOCH_LINE = re.compile(
    r"epoch=\d+ train_loss=\d+\.\d{4} train_accuracy=[01]\.\d{4} validation_loss=\d+\.\d{4} "
    r"validation_accuracy=[01]\.\d{4} best_validation_accuracy=[01]\.\d{4}"
)
TRIAL = ["--epochs", "4", "--batch_size", "16", "--lr", "0.01"]


def call(monkeypatch: pytest.MonkeyPatch, prepared: Prepared, tmp_path: Path, *arguments: str) -> int:
    """Run trial.py in this process; returns the exit code."""
    monkeypatch.setenv("SM_OUTPUT_FAILURE", str(tmp_path / "failure"))
    options = {
        "--model-dir": tmp_path / "model",
        "--embeddings": prepared.embeddings,
        "--manifest": prepared.manifest,
        "--weights": prepared.weights,
    }
    defaults = [str(word) for pair in options.items() for word in pair]
    monkeypatch.setattr("sys.argv", ["trial.py", *defaults, *TRIAL, *arguments])
    return run(trial.main, TRAINING_FAILURE)


def copy_of(prepared: Prepared, directory: Path) -> Prepared:
    shutil.copytree(prepared.root, directory)
    return Prepared(directory, prepared.weights)


def edit_manifest(prepared: Prepared, **changes: object) -> None:
    path = prepared.manifest / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_trial_prints_a_line_per_epoch_and_writes_head_and_metrics_only(prepared: Prepared, tmp_path: Path) -> None:
    launcher = ["--_tuning_objective_metric", "validation:best_accuracy", "--sagemaker_program", "trial.py"]
    process = run_step("trial.py", *TRIAL, *launcher, env=prepared.channels | {"SM_MODEL_DIR": str(tmp_path)})

    assert (process.returncode, process.stderr) == (0, "")
    first, *epochs = process.stdout.splitlines()
    assert first == "Training on 72 images of 3 classes, 3 views each; validating on 24"
    assert len(epochs) == 4
    assert all(EPOCH_LINE.fullmatch(line) for line in epochs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head.pt", "metrics.json"]
    assert json.loads((tmp_path / "metrics.json").read_text())["hyperparameters"]["lr"] == 0.01


def test_trial_imports_neither_timm_nor_smdebug_nor_the_compiler_nor_pillow(prepared: Prepared, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import trial; trial.main();"
        "print([name for name in ('timm', 'smdebug', 'torch._dynamo', 'PIL', 'scipy') if name in sys.modules])"
    )
    process = run_step(str(script), STEPS, *TRIAL, env=prepared.channels | {"SM_MODEL_DIR": str(tmp_path)})
    assert process.stdout.splitlines()[-1] == "[]", process.stderr


def test_same_seed_gives_the_same_metrics_and_another_seed_others(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = []
    for seed in ("3", "3", "4"):
        assert call(monkeypatch, prepared, tmp_path, "--seed", seed, "--hidden_units", "8") == 0
        metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
        outputs.append((metrics["train_loss"], metrics["validation_loss"], capsys.readouterr().out))
    assert outputs[0] == outputs[1]
    assert outputs[0] != outputs[2]


def test_final_training_repeats_the_trial_with_its_hyperparameters(
    prepared: Prepared, trained: Trained, tmp_path: Path
) -> None:
    arguments = ["--epochs", "6", "--batch_size", "16", "--hidden_units", "8", "--lr", "0.02"]
    process = run_step("trial.py", *arguments, env=prepared.channels | {"SM_MODEL_DIR": str(tmp_path)})
    assert epoch_lines(process.stdout) == epoch_lines(trained.stdout)
    trial, final = (torch.load(directory / "head.pt") for directory in (tmp_path, trained.model_dir))
    assert all(torch.equal(trial[name], final[name]) for name in final)


def epoch_lines(stdout: str) -> list[str]:
    return [line for line in stdout.splitlines() if line.startswith("epoch=")]


def test_best_epoch_is_kept_and_ties_go_to_the_lower_validation_loss(trained: Trained) -> None:
    epochs = [dict(pair.split("=") for pair in line.split()) for line in epoch_lines(trained.stdout)]
    best = max(epochs, key=lambda epoch: (float(epoch["validation_accuracy"]), -float(epoch["validation_loss"])))
    assert trained.description["validation"]["epoch"] == int(best["epoch"])
    running = list(accumulate((float(epoch["validation_accuracy"]) for epoch in epochs), max))
    assert [float(epoch["best_validation_accuracy"]) for epoch in epochs] == running


def test_model_directory_holds_the_network_its_description_and_the_code(trained: Trained) -> None:
    assert sorted(path.name for path in trained.model_dir.iterdir()) == [
        "code",
        "drift_baseline.npz",
        "head.pt",
        "model.json",
        "model.onnx",
        "model.pt",
        "rules.json",
        "runtimes.json",
        "samples",
        "samples.npz",
    ]
    assert {path.name for path in (trained.model_dir / "code").rglob("*.py")} == {
        path.name for path in STEPS.rglob("*.py")
    }
    description = trained.description
    assert description["classes"] == CLASSES
    assert (description["schema_version"], description["backbone"]) == (1, "test_resnet")
    assert description["hyperparameters"]["hidden_units"] == 8
    assert sorted(description["calibration"]) == ["expected_calibration_error", "temperature", "uncalibrated_error"]
    assert trained.stdout.splitlines()[-1] == (
        f"Kept epoch {description['validation']['epoch']} with validation accuracy 1.0000; "
        f"the whole network is in {trained.model_dir / 'model.pt'}"
    )


def test_exported_network_answers_as_backbone_head_and_temperature_do(prepared: Prepared, trained: Trained) -> None:
    from classifier.model.backbone import load_backbone

    backbone = load_backbone("test_resnet", prepared.weights)
    state = torch.load(trained.model_dir / "head.pt")
    head = ClassifierHead(backbone.feature_dim, 3, hidden_units=8).eval()
    head.load_state_dict(state)
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = head(backbone(images)) / trained.description["calibration"]["temperature"]
        expected = logits.softmax(dim=1)
        answer = load_script(trained.model_dir)(images)
    assert answer.sum(dim=1).tolist() == pytest.approx([1.0] * 5)
    assert torch.allclose(answer, expected, atol=1e-5)


def test_embeddings_stay_on_disk_until_they_are_asked_for(prepared: Prepared, tmp_path: Path) -> None:
    other = copy_of(prepared, tmp_path / "other")
    data = training_data.load(other.embeddings, other.manifest)
    before = data.train.embeddings[-1, -1]
    with (other.embeddings / "train.npy").open("r+b") as file:
        file.seek(-2, 2)
        file.write(np.float16(before[-1] + 1).tobytes())
    assert data.train.embeddings[-1, -1][-1] == np.float16(before[-1] + 1)


def test_optimizer_does_what_torch_adamw_does() -> None:
    torch.manual_seed(0)
    ours = torch.nn.Linear(5, 3)
    theirs = torch.nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    optimizer = AdamW([RatedParameters(ours.parameters())], lr=0.1, weight_decay=0.3, total_steps=10)
    reference = torch.optim.AdamW(
        [{"params": [theirs.weight], "weight_decay": 0.3}, {"params": [theirs.bias], "weight_decay": 0.0}]
    )
    for step in range(10):
        batch = torch.randn(4, 5)
        for group in reference.param_groups:
            group["lr"] = scheduled_lr(0.1, step, 10)
        for module in (ours, theirs):
            module(batch).square().sum().backward()
        optimizer.step()
        reference.step()
        reference.zero_grad()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)
    assert torch.allclose(ours.bias, theirs.bias, atol=1e-6)


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    rates = [scheduled_lr(1.0, step, 100) for step in range(101)]
    assert rates[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[100] == pytest.approx(0)


def test_a_value_that_was_encoded_as_json_once_more_is_read() -> None:
    parser = argparse.ArgumentParser()
    hyperparameters.add_arguments(parser)
    assert hyperparameters.parse(parser.parse_args(["--batch_size", '"32"'])) == Hyperparameters(batch_size=32)


@pytest.mark.parametrize("text", ["True", "true", "1", '"true"'])
def test_booleans_are_accepted_as_any_launcher_writes_them(text: str) -> None:
    assert debug_settings.parse(debug_arguments("--debug", text)).enabled


def debug_arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    debug_settings.add_arguments(parser)
    return parser.parse_args(words)


def test_rules_are_read_from_json_that_may_be_encoded_once_more() -> None:
    entries = {"Overfit": {"patience": 3, "action": "stop"}}
    once = json.dumps(entries)
    for text in (once, json.dumps(once)):
        assert debug_settings.parse(debug_arguments("--debug_rules", text)).rules == entries


WRONG_DEBUG_SETTINGS = {
    ("--debug", "maybe"): "Hyperparameter debug must be true or false, but got maybe.",
    ("--debug_profiled_steps", "-1"): "Hyperparameter debug_profiled_steps must be a whole number of at least 0, "
    "but got -1.",
    ("--debug_rules", "[1]"): "Hyperparameter debug_rules must be a JSON object of rules and their parameters, "
    "but got [1].",
}


@pytest.mark.parametrize("words", WRONG_DEBUG_SETTINGS, ids=" ".join)
def test_wrong_debug_settings_are_named(words: tuple[str, ...]) -> None:
    with pytest.raises(StepError) as raised:
        debug_settings.parse(debug_arguments(*words))
    assert str(raised.value) == WRONG_DEBUG_SETTINGS[words]


@pytest.mark.parametrize(
    ("asked", "steps", "expected"), [("auto", 90, 1), ("auto", 1000, 5), ("auto", 1001, 6), ("10", 90, 10)]
)
def test_save_interval_follows_the_length_of_the_training(asked: str, steps: int, expected: int) -> None:
    assert debug_settings.parse(debug_arguments("--debug_save_interval_steps", asked)).interval(steps) == expected


WRONG_HYPERPARAMETERS = {
    ("--lr", "0"): "Hyperparameter lr must be a number above 0, but got 0.",
    ("--lr", "inf"): "Hyperparameter lr must be a number above 0, but got inf.",
    ("--batch_size", "2.5"): "Hyperparameter batch_size must be a whole number of at least 1, but got 2.5.",
    ("--dropout", "1"): "Hyperparameter dropout must be a number from 0 to below 1, but got 1.",
    ("--epochs", "0", "--seed", "-1"): "Hyperparameter epochs must be a whole number of at least 1, but got 0. "
    "Hyperparameter seed must be a whole number from 0 to 4294967295, but got -1.",
    ("--lr",): "trial.py: argument --lr: expected one argument. See trial.py --help.",
}


@pytest.mark.parametrize("arguments", WRONG_HYPERPARAMETERS, ids=" ".join)
def test_wrong_hyperparameters_are_all_named_at_once(
    arguments: tuple[str, ...],
    prepared: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, prepared, tmp_path, *arguments) == 1
    assert capsys.readouterr().err == WRONG_HYPERPARAMETERS[arguments] + "\n"
    assert (tmp_path / "failure").read_text() == WRONG_HYPERPARAMETERS[arguments]


def test_missing_channel_ends_the_process_with_one_sentence_and_code_1(prepared: Prepared, tmp_path: Path) -> None:
    environment = prepared.channels | {"SM_OUTPUT_FAILURE": str(tmp_path / "failure"), "SM_MODEL_DIR": str(tmp_path)}
    del environment["SM_CHANNEL_MANIFEST"]
    process = run_step("trial.py", env=environment)
    sentence = (
        "Training needs the channel manifest, but neither SM_CHANNEL_MANIFEST nor --manifest is set. "
        "Add it to the training job's input channels."
    )
    assert (process.returncode, process.stderr) == (1, sentence + "\n")
    assert (tmp_path / "failure").read_text() == sentence


def test_diverging_loss_names_epoch_learning_rate_and_remedy(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, prepared, tmp_path, "--lr", "1e38") == 1
    assert re.fullmatch(
        r"The training loss became (nan|inf) in epoch 1 at learning rate 1e\+38: "
        r"try a learning rate of 1e\+37 or below.\n",
        capsys.readouterr().err,
    )


def test_embeddings_of_other_data_are_refused(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy_of(prepared, tmp_path / "other")
    edit_manifest(other, counts={"train": {"grass": 70}, "validation": {"grass": 24}, "test": {}})
    assert call(monkeypatch, other, tmp_path) == 1
    assert capsys.readouterr().err == (
        "The train split has 72 embeddings, 72 labels, and manifest.json lists 70 images: they belong to different "
        "data. Run PrepareData again and train on its output.\n"
    )


def test_empty_validation_split_is_refused(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy_of(prepared, tmp_path / "other")
    np.save(other.embeddings / "validation.npy", np.load(other.embeddings / "validation.npy")[:0])
    np.save(other.embeddings / "validation_labels.npy", np.zeros(0, dtype=np.int64))
    edit_manifest(other, counts={"train": {"grass": 72}, "validation": {"grass": 0}, "test": {}})
    assert call(monkeypatch, other, tmp_path) == 1
    assert capsys.readouterr().err == ("The validation split is empty. Raise its share in data.split, or add images.\n")


def test_damaged_embeddings_are_refused(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy_of(prepared, tmp_path / "other")
    (other.embeddings / "train.npy").write_bytes(b"no array")
    assert call(monkeypatch, other, tmp_path) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"{other.embeddings / 'train.npy'} is not a NumPy array (")
    assert message.endswith("Run PrepareData again and train on its output.\n")


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
