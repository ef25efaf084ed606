"""The second stage: it improves on the head alone, goes on where it stopped, and is shared among processes."""

import json
import multiprocessing
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from classifier.data.images import Preprocess
from classifier.data.prepared_images import PreparedImages
from classifier.data.training_data import TrainingData, load
from classifier.drift.baseline import DriftBaseline
from classifier.finetuning import fine_tuning
from classifier.finetuning.fine_tuning import FineTuning, Images
from classifier.finetuning.second_stage import fine_tuned
from classifier.job.failures import StepError
from classifier.model.backbone import load_backbone
from classifier.training.checkpoint import SECOND_STAGE_FILE, Checkpoints
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.job import head_training
from classifier.training.loop import TrainingResult, Validation, Watcher, train
from classifier.training.processes import ALONE
from classifier.training.warnings import warnings_of
from tests.steps.prepared_data import STEPS, Prepared, base_environment, run_step

HYPERPARAMETERS = Hyperparameters(
    epochs=2,
    batch_size=32,
    hidden_units=8,
    lr=0.001,
    finetune="all",
    finetune_epochs=3,
    finetune_batch_size=10,
    finetune_lr=0.002,
    finetune_image_size=32,
    crop_area_min=0.4,
    randaugment_magnitude=5,
    cutmix_alpha=1.0,
    erasing_probability=0.5,
)


@pytest.fixture(scope="module")
def data(prepared: Prepared) -> TrainingData:
    return load(prepared.embeddings, prepared.manifest)


@pytest.fixture(scope="module")
def images(prepared: Prepared, data: TrainingData) -> Images:
    train_images, validation = (PreparedImages(prepared.root / name, name) for name in ("train", "validation"))
    return Images(train_images, validation, Preprocess.from_dict(data.manifest["preprocess"]), horizontal_flip=True)


@pytest.fixture(scope="module")
def first_stage(data: TrainingData) -> TrainingResult:
    return train(head_training(data, HYPERPARAMETERS))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tests run beside each other; threads of a small network would only wait for each other."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


class Trainer:
    """Begins the second stage anew each time."""

    def __init__(self, prepared: Prepared, data: TrainingData, images: Images, first: TrainingResult) -> None:
        self.prepared, self.data, self.images, self.first = prepared, data, images, first

    def __call__(
        self,
        checkpoints: Checkpoints | None = None,
        watcher: Watcher | None = None,
        hyperparameters: Hyperparameters = HYPERPARAMETERS,
    ) -> TrainingResult:
        stage = head_training(self.data, hyperparameters)
        return fine_tuned(
            self.first,
            backbone=load_backbone("test_resnet", self.prepared.weights),
            head=stage.head,
            criterion=stage.criterion,
            images=self.images,
            hyperparameters=hyperparameters,
            processes=ALONE,
            watcher=watcher,
            checkpoints=checkpoints,
        )


@pytest.fixture(scope="module")
def tune(prepared: Prepared, data: TrainingData, images: Images, first_stage: TrainingResult) -> Trainer:
    return Trainer(prepared, data, images, first_stage)


@pytest.fixture(scope="module")
def undisturbed(tune: Trainer) -> TrainingResult:
    return tune()


def assert_same(result: TrainingResult, expected: TrainingResult) -> None:
    assert result.epochs == expected.epochs
    assert result.kept.figures == expected.kept.figures
    assert result.kept.parts.keys() == expected.kept.parts.keys()
    for part, tensors in expected.kept.parts.items():
        assert all(torch.equal(result.kept.parts[part][name], tensor) for name, tensor in tensors.items())
    assert torch.equal(result.kept.validation.logits, expected.kept.validation.logits)


class StopAfter(Watcher):
    """Asks to stop when so many training steps have begun."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def phase(self, name: str):
        if name == "Backward":
            self.steps -= 1
        if self.steps == 0:
            self.stop_requested = "Enough."
        return super().phase(name)


def test_epochs_of_both_stages_are_counted_and_the_best_is_kept(
    undisturbed: TrainingResult, first_stage: TrainingResult
) -> None:
    assert [epoch.epoch for epoch in undisturbed.epochs] == [1, 2, 3, 4, 5]
    assert undisturbed.epochs[:2] == first_stage.epochs
    assert undisturbed.epochs[-1].validation_loss < undisturbed.epochs[2].validation_loss
    best = max(undisturbed.epochs[2:], key=lambda epoch: (epoch.validation_accuracy, -epoch.validation_loss))
    assert undisturbed.kept.figures == best
    assert undisturbed.kept.validation.accuracy == best.validation_accuracy


def test_fine_tuning_beats_a_head_that_has_learned_little(
    undisturbed: TrainingResult, first_stage: TrainingResult, data: TrainingData
) -> None:
    assert undisturbed.kept.figures.validation_accuracy > first_stage.kept.figures.validation_accuracy
    assert set(undisturbed.kept.parts) == {"head", "backbone"}
    head_alone = train(head_training(data, replace(HYPERPARAMETERS, lr=0.002)))
    assert warnings_of(data, undisturbed) == warnings_of(data, head_alone) == []


def test_kept_network_gives_the_validation_that_was_reported(
    undisturbed: TrainingResult, tune: Trainer, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = undisturbed
    head = head_training(tune.data, HYPERPARAMETERS).head
    backbone = load_backbone("test_resnet", tune.prepared.weights)
    head.load_state_dict(result.kept.parts["head"])
    backbone.load_state_dict(result.kept.parts["backbone"])
    stage = FineTuning(backbone, head, torch.nn.CrossEntropyLoss(), images, HYPERPARAMETERS, ALONE)
    stage.set_mode("EVAL")
    for rows in (512, 10):  # of one step: all of them, or some
        monkeypatch.setattr(fine_tuning, "EVALUATION_ROWS", rows)
        validation = stage.validate(Watcher())
        assert torch.allclose(validation.logits, result.kept.validation.logits, atol=1e-4)


def test_a_worse_second_stage_leaves_the_first_one_s_head_and_no_backbone(
    tune: Trainer, data: TrainingData, images: Images
) -> None:
    perfect = train(head_training(data, replace(HYPERPARAMETERS, epochs=8, lr=0.02)))
    assert perfect.kept.figures.validation_accuracy == 1
    spoiling = replace(HYPERPARAMETERS, finetune_lr=3.0, finetune_epochs=1, ema_decay=0.0)
    result = Trainer(tune.prepared, data, images, perfect)(hyperparameters=spoiling)
    assert result.kept.figures == perfect.kept.figures
    assert set(result.kept.parts) == {"head"}
    [spoiled] = (epoch.validation_accuracy for epoch in result.epochs[8:])
    [sentence] = warnings_of(data, result)
    assert sentence.startswith(
        "Fine-tuning brought nothing: by its answers on validation the head alone is better (its accuracy is 1.0000, "
        f"fine-tuning reached {spoiled:.4f}), so the backbone is kept as it was."
    )
    assert warnings_of(data, replace(result, stopped="Enough.")) == []  # it might have come to more


def answers(labels: torch.Tensor, wrong: int, *, doubt: bool) -> Validation:
    """The first images get a wrong label: as surely as the others their own, or with doubt."""
    given = labels.clone()
    given[:wrong] = (given[:wrong] + 1) % 3
    logits = 4 * torch.nn.functional.one_hot(given, 3).float()
    if doubt:
        logits[:wrong] /= 16
    return Validation(1.0, logits, labels)


@pytest.mark.parametrize(
    ("head", "doubts", "later", "later_doubts", "kept"),
    [
        (2, False, 4, True, "later"),  # two more are wrong, which may be chance, and its scores tell which
        (2, True, 1, False, "head"),  # one fewer is, and it is as sure of that
        (0, False, 7, True, "head"),  # seven more are no chance
        (8, True, 0, False, "later"),
        (3, True, 3, True, "later"),  # a tie
    ],
)
def test_of_two_stages_the_clearly_more_accurate_one_is_kept_or_else_that_with_the_better_scores(
    data: TrainingData,
    first_stage: TrainingResult,
    head: int,
    doubts: bool,
    later: int,
    later_doubts: bool,
    kept: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = first_stage.kept.validation.labels
    figures = replace(first_stage.kept.figures, validation_accuracy=1 - head / len(labels))
    first = replace(
        first_stage, kept=replace(first_stage.kept, figures=figures, validation=answers(labels, head, doubt=doubts))
    )
    stage = head_training(data, replace(HYPERPARAMETERS, epochs=1))
    monkeypatch.setattr(stage, "validate", lambda watcher: answers(labels, later, doubt=later_doubts))
    result = train(stage, earlier=first)
    assert result.kept.figures.epoch == {"head": first.kept.figures.epoch, "later": 3}[kept]
    assert result.kept.validation.accuracy == result.kept.figures.validation_accuracy
    assert (result.kept.parts is first.kept.parts) is (kept == "head")
    line = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch=")][-1]
    assert line.endswith(f"best_validation_accuracy={result.kept.figures.validation_accuracy:.4f}")
    assert bool(warnings_of(data, result)) is (kept == "head")


@pytest.mark.parametrize("steps", [1, 8, 11, 17])
def test_stopped_in_the_middle_of_an_epoch_it_goes_on_to_the_same_end(
    tune: Trainer, undisturbed: TrainingResult, tmp_path: Path, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = tune(Checkpoints(tmp_path, "a", SECOND_STAGE_FILE), StopAfter(steps))
    assert stopped.stopped == "Enough."
    assert len(stopped.epochs) == 2 + (steps - 1) // 8
    assert_same(tune(Checkpoints(tmp_path, "a", SECOND_STAGE_FILE)), undisturbed)
    assert "Going on after epoch " in capsys.readouterr().out


def test_same_seed_gives_the_same_network_and_another_seed_another(tune: Trainer, undisturbed: TrainingResult) -> None:
    assert_same(tune(), undisturbed)
    other = tune(hyperparameters=replace(HYPERPARAMETERS, seed=1))
    assert other.epochs[2:] != undisturbed.epochs[2:]


def test_last_block_leaves_the_blocks_before_it_as_they_were(tune: Trainer, prepared: Prepared) -> None:
    result = tune(hyperparameters=replace(HYPERPARAMETERS, finetune="last_block"))
    before = load_backbone("test_resnet", prepared.weights).state_dict()
    changed = {
        name.split(".")[1]
        for name, tensor in result.kept.parts["backbone"].items()
        if not torch.equal(tensor, before[name])
    }
    assert changed == {"layer4"}


def test_frozen_statistics_stay_and_trained_ones_do_not(tune: Trainer, prepared: Prepared) -> None:
    before = load_backbone("test_resnet", prepared.weights).state_dict()
    for batchnorm, stay in (("frozen", True), ("train", False)):
        result = tune(hyperparameters=replace(HYPERPARAMETERS, batchnorm=batchnorm))
        means = [name for name in before if name.endswith("running_mean")]
        same = all(torch.equal(result.kept.parts["backbone"][name], before[name]) for name in means)
        assert same is stay, batchnorm


def test_diverging_loss_names_the_rate_that_fine_tuning_has(tune: Trainer) -> None:
    with pytest.raises(StepError) as caught:
        tune(hyperparameters=replace(HYPERPARAMETERS, finetune_lr=1e38, ema_decay=0.0))
    assert re.fullmatch(
        r"The (training|validation) loss became (nan|inf) in epoch 3 at learning rate 1e\+38: "
        r"try a finetune_lr of 1e\+37 or below\.",
        str(caught.value),
    )
    assert not multiprocessing.active_children()  # those that load images end at once, and not when memory is tidied


def test_log_says_how_long_steps_waited_for_data(tune: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    tune()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Fine-tuning, epoch")]
    assert len(lines) == 3
    assert all(
        re.fullmatch(r"Fine-tuning, epoch \d of 3: 8 steps of [\d.e-]+ s, of which [\d.e-]+ s for data \(\d+%\)", line)
        for line in lines
    )


ARGUMENTS = [
    *("--epochs", "2", "--batch_size", "32", "--hidden_units", "8", "--lr", "0.001", "--finetune", "all"),
    *("--finetune_epochs", "3", "--finetune_batch_size", "10", "--finetune_lr", "0.002", "--finetune_image_size", "32"),
]


def channels(prepared: Prepared, folder: Path) -> dict[str, str]:
    return prepared.channels | {
        "SM_CHANNEL_TRAIN": str(prepared.root / "train"),
        "SM_CHANNEL_VALIDATION": str(prepared.root / "validation"),
        "SM_MODEL_DIR": str(folder / "model"),
        "SM_OUTPUT_DATA_DIR": str(folder / "data"),
        "SM_OUTPUT_FAILURE": str(folder / "failure"),
    }


def test_job_exports_the_fine_tuned_network(prepared: Prepared, tmp_path: Path) -> None:
    process = run_step("train.py", *ARGUMENTS, env=channels(prepared, tmp_path))
    assert (process.returncode, process.stderr) == (0, "")
    model = json.loads((tmp_path / "model" / "model.json").read_text())
    assert model["hyperparameters"]["finetune_lr"] == 0.002
    assert model["hyperparameters"]["randaugment_magnitude"] == 5  # chosen, since nothing was asked for
    assert model["validation"]["epoch"] > 2
    history = json.loads((tmp_path / "data" / "history.json").read_text())
    assert (len(history["epochs"]), history["fine_tuning_from_epoch"]) == (5, 3)
    assert all(epoch["seconds"] > 0 for epoch in history["epochs"])
    assert len(DriftBaseline.load(tmp_path / "model").reference) == 24  # the validation images: it has not learned them
    backbone = torch.load(tmp_path / "model" / "backbone.pt")
    before = load_backbone("test_resnet", prepared.weights).state_dict()
    assert any(not torch.equal(backbone[name], before[name]) for name in before)


def test_a_trial_that_fine_tunes_reports_the_same_as_the_training(prepared: Prepared, tmp_path: Path) -> None:
    lines = []
    for script in ("trial.py", "train.py"):
        process = run_step(script, *ARGUMENTS, "--debug", "false", env=channels(prepared, tmp_path / script))
        assert process.returncode == 0, process.stderr
        lines.append([line for line in process.stdout.splitlines() if line.startswith("epoch=")])
    assert lines[0] == lines[1]
    assert len(lines[0]) == 5


def test_missing_image_channel_is_one_sentence(prepared: Prepared, tmp_path: Path) -> None:
    environment = channels(prepared, tmp_path)
    del environment["SM_CHANNEL_TRAIN"]
    process = run_step("train.py", *ARGUMENTS, env=environment)
    assert (process.returncode, process.stderr) == (
        1,
        "Training needs the channel train, but neither SM_CHANNEL_TRAIN nor --train is set. "
        "Add it to the training job's input channels.\n",
    )


def distributed(prepared: Prepared, folder: Path, count: int) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    """The job under torchrun; returns each epoch's figures and the backbone."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += ["--log-dir", str(folder / "logs")]  # in /tmp, by default, nobody removes them
    process = subprocess.run(
        [*command, str(STEPS / "train.py"), *ARGUMENTS, "--finetune_lr", "0.0001", "--debug", "false"],
        env=base_environment() | channels(prepared, folder),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    lines = [line for line in process.stdout.splitlines() if line.startswith("epoch=")]
    figures = [[float(pair.split("=")[1]) for pair in line.split()] for line in lines]
    return figures, torch.load(folder / "model" / "backbone.pt")


def test_two_processes_give_the_metrics_of_one_within_rounding(prepared: Prepared, tmp_path: Path) -> None:
    (one, backbone), (two, shared) = (distributed(prepared, tmp_path / str(count), count) for count in (1, 2))
    assert len(one) == len(two) == 5
    assert np.allclose(one, two, atol=1e-3)
    assert all(torch.allclose(backbone[name], shared[name], atol=1e-3) for name in backbone)


def test_sigterm_in_fine_tuning_keeps_a_checkpoint_from_which_it_goes_on(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    checkpoints = {"S3Uri": "s3://b/c", "LocalPath": str(tmp_path / "checkpoints")}
    (tmp_path / "config" / "checkpointconfig.json").write_text(json.dumps(checkpoints))
    environment = base_environment() | channels(prepared, tmp_path) | {"SM_INPUT_CONFIG_DIR": str(tmp_path / "config")}
    command = [sys.executable, str(STEPS / "train.py"), *ARGUMENTS, "--finetune_epochs", "14", "--debug", "false"]

    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    lines = []
    with start() as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line)
                if line.startswith("epoch=4 "):
                    process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    assert any("of 16 epochs: The job was asked to stop (SIGTERM)." in line for line in lines)
    again = start()
    try:
        output, _ = again.communicate(timeout=120)
    finally:
        again.kill()
    assert again.returncode == 0
    assert f"from the checkpoint {tmp_path / 'checkpoints' / SECOND_STAGE_FILE}" in output
    epochs = [line for line in [*lines, *output.splitlines()] if line.startswith("epoch=")]
    numbers = [int(line.split()[0].split("=")[1]) for line in epochs]
    assert numbers == list(range(1, 17))
    assert (tmp_path / "model" / "model.pt").is_file()
