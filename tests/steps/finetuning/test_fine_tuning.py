"""The second stage: it improves on the head alone, goes on where it stopped, and is shared among processes."""

import multiprocessing
import re
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
from classifier.finetuning.fine_tuning import FineTuning, fine_tune
from classifier.finetuning.images import Images
from classifier.job.failures import StepError
from classifier.model.backbone import load_backbone
from classifier.training.head_training import HeadTraining
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.job import ALONE, Checkpoint
from classifier.training.loop import Watcher, train
from classifier.training.results import TrainingResult, Validation, warnings_of
from tests.steps.prepared_data import STEPS, Prepared, StopAfter, base_environment, run_step

HYPERPARAMETERS = Hyperparameters(
    epochs=2, batch_size=32, hidden_units=8, lr=0.001, finetune="all", finetune_epochs=3, finetune_batch_size=10,
    finetune_lr=0.002, finetune_image_size=32, crop_area_min=0.4, randaugment_magnitude=5, cutmix_alpha=1.0,
    erasing_probability=0.5,
)  # fmt: skip
ARGUMENTS = [
    *("--epochs", "2", "--batch_size", "32", "--hidden_units", "8", "--lr", "0.001", "--finetune", "all"),
    *("--finetune_epochs", "3", "--finetune_batch_size", "10", "--finetune_lr", "0.002", "--finetune_image_size", "32"),
]


@pytest.fixture(scope="module")
def data(prepared: Prepared) -> TrainingData:
    return load(prepared.embeddings, prepared.manifest)


@pytest.fixture(scope="module")
def images(prepared: Prepared, data: TrainingData) -> Images:
    train_images, validation = (PreparedImages(prepared.root / name, name) for name in ("train", "validation"))
    return Images(train_images, validation, Preprocess.from_dict(data.manifest["preprocess"]), horizontal_flip=True)


@pytest.fixture(scope="module")
def first_stage(data: TrainingData) -> TrainingResult:
    return train(HeadTraining(data, HYPERPARAMETERS))


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

    def __call__(self, checkpoint=None, watcher=None, **changed) -> TrainingResult:
        return fine_tune(
            self.first,
            HeadTraining(self.data, replace(HYPERPARAMETERS, **changed)),
            backbone=load_backbone("test_resnet", self.prepared.weights),
            images=self.images,
            watcher=watcher,
            checkpoint=checkpoint,
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


def test_epochs_of_both_stages_are_counted_and_the_best_is_kept(
    undisturbed: TrainingResult, first_stage: TrainingResult
) -> None:
    assert [epoch.epoch for epoch in undisturbed.epochs] == [1, 2, 3, 4, 5]
    assert undisturbed.epochs[:2] == first_stage.epochs
    best = max(undisturbed.epochs[2:], key=lambda epoch: epoch.rank)
    assert undisturbed.kept.figures == best
    assert undisturbed.kept.validation.accuracy == best.validation_accuracy


def test_fine_tuning_beats_a_head_that_has_learned_little(
    undisturbed: TrainingResult, first_stage: TrainingResult, data: TrainingData
) -> None:
    assert undisturbed.kept.figures.validation_accuracy > first_stage.kept.figures.validation_accuracy
    assert set(undisturbed.kept.parts) == {"head", "backbone"}
    assert warnings_of(data, undisturbed) == []


def test_kept_network_gives_the_validation_that_was_reported(
    undisturbed: TrainingResult, tune: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, backbone = HeadTraining(tune.data, HYPERPARAMETERS), load_backbone("test_resnet", tune.prepared.weights)
    for name, module in (("head", first.head), ("backbone", backbone)):
        module.load_state_dict(undisturbed.kept.parts[name])
    stage = FineTuning(first, backbone, tune.images, ALONE)
    stage.set_mode("EVAL")
    for rows in (512, 10):  # of one step: all of them, or some
        monkeypatch.setattr(fine_tuning, "EVALUATION_ROWS", rows)
        monkeypatch.setattr(fine_tuning, "PLAIN_ROWS", 5)
        validation = stage.validate(Watcher())
        assert torch.allclose(validation.logits, undisturbed.kept.validation.logits, atol=1e-4)


def test_a_worse_second_stage_leaves_the_first_one_s_head_and_no_backbone(tune: Trainer, data: TrainingData) -> None:
    perfect = train(HeadTraining(data, replace(HYPERPARAMETERS, epochs=8, lr=0.02)))
    assert perfect.kept.figures.validation_accuracy == 1
    spoil = Trainer(tune.prepared, data, tune.images, perfect)
    result = spoil(finetune_lr=3.0, finetune_epochs=1, ema_decay=0.0)
    assert result.kept.figures == perfect.kept.figures
    assert set(result.kept.parts) == {"head"}
    [spoiled] = (epoch.validation_accuracy for epoch in result.epochs[8:])
    [sentence] = warnings_of(data, result)
    assert "Fine-tuning brought nothing" in sentence and f"fine-tuning reached {spoiled:.4f}" in sentence
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
    data: TrainingData, first_stage: TrainingResult, head: int, doubts: bool, later: int, later_doubts: bool, kept: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    labels = first_stage.kept.validation.labels
    figures = replace(first_stage.kept.figures, validation_accuracy=1 - head / len(labels))
    own = replace(first_stage.kept, figures=figures, validation=answers(labels, head, doubt=doubts))
    first = replace(first_stage, kept=own)
    stage = HeadTraining(data, replace(HYPERPARAMETERS, epochs=1))
    monkeypatch.setattr(stage, "validate", lambda watcher: answers(labels, later, doubt=later_doubts))
    result = train(stage, earlier=first)
    assert result.kept.figures.epoch == {"head": own.figures.epoch, "later": 3}[kept]
    assert result.kept.validation.accuracy == result.kept.figures.validation_accuracy
    line = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch=")][-1]
    assert line.endswith(f"best_validation_accuracy={result.kept.figures.validation_accuracy:.4f}")
    assert bool(warnings_of(data, result)) is (kept == "head")


@pytest.mark.parametrize("steps", [1, 8, 11, 17])
def test_stopped_in_the_middle_of_an_epoch_it_goes_on_to_the_same_end(
    tune: Trainer, undisturbed: TrainingResult, tmp_path: Path, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = tune(Checkpoint(tmp_path / "fine_tuning.pt", "a"), StopAfter(steps))
    assert stopped.stopped == "Enough."
    assert len(stopped.epochs) == 2 + (steps - 1) // 8
    assert_same(tune(Checkpoint(tmp_path / "fine_tuning.pt", "a")), undisturbed)
    assert "Going on after epoch " in capsys.readouterr().out


def test_same_seed_gives_the_same_network_and_another_seed_another(tune: Trainer, undisturbed: TrainingResult) -> None:
    assert_same(tune(), undisturbed)
    assert tune(seed=1).epochs[2:] != undisturbed.epochs[2:]


def test_a_parameter_without_a_gradient_stays_as_it_is_and_disturbs_no_other(tune: Trainer, prepared: Prepared) -> None:
    backbone = load_backbone("test_resnet", prepared.weights)
    unused = backbone.network.layer4.register_parameter("unused", torch.nn.Parameter(torch.ones(3, 3)))
    stage = HeadTraining(tune.data, replace(HYPERPARAMETERS, finetune_epochs=1))
    result = fine_tune(tune.first, stage, backbone=backbone, images=tune.images)
    assert unused is None and result.kept.parts["backbone"]["network.layer4.unused"].eq(1).all()
    assert result.epochs[-1].train_loss < 3


def test_last_block_leaves_the_blocks_before_it_as_they_were(tune: Trainer, prepared: Prepared) -> None:
    result = tune(finetune="last_block")
    before = load_backbone("test_resnet", prepared.weights).state_dict()
    learned = result.kept.parts["backbone"].items()
    changed = {name.split(".")[1] for name, tensor in learned if not torch.equal(tensor, before[name])}
    assert changed == {"layer4"}


@pytest.mark.parametrize(("batchnorm", "stay"), [("auto", True), ("frozen", True), ("train", False)])
def test_frozen_statistics_stay_and_trained_ones_do_not(tune: Trainer, prepared: Prepared, batchnorm, stay) -> None:
    before = load_backbone("test_resnet", prepared.weights).state_dict()
    result = tune(batchnorm=batchnorm, ema_decay=0.5)
    means = [name for name in before if name.endswith("running_mean")]
    assert all(torch.equal(result.kept.parts["backbone"][name], before[name]) for name in means) is stay


@pytest.mark.parametrize("changed", [{"precision": "bf16"}, {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}], ids=str)
def test_other_ways_of_computing_learn_as_well(tune: Trainer, first_stage: TrainingResult, changed) -> None:
    result = tune(**changed)
    assert result.kept.figures.validation_loss < first_stage.kept.figures.validation_loss


def test_diverging_loss_names_the_rate_that_fine_tuning_has(tune: Trainer) -> None:
    with pytest.raises(StepError) as caught:
        tune(finetune_lr=1e38, ema_decay=0.0)
    assert re.fullmatch(
        r"The (training|validation) loss became (nan|inf) in epoch 3 at learning rate 1e\+38: "
        r"try a finetune_lr of 1e\+37 or below\.",
        str(caught.value),
    )
    assert not multiprocessing.active_children()  # those that load images end at once, and not when memory is tidied


def test_log_says_how_long_steps_waited_for_data(tune: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    tune(finetune_epochs=1)
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Fine-tuning, epoch")]
    assert re.fullmatch(
        r"Fine-tuning, epoch 1 of 1: 8 steps of [\d.e-]+ s, of which [\d.e-]+ s for data \(\d+%\)", line
    )


def channels(prepared: Prepared, folder: Path) -> dict[str, str]:
    return prepared.channels | {
        "SM_CHANNEL_TRAIN": str(prepared.root / "train"),
        "SM_CHANNEL_VALIDATION": str(prepared.root / "validation"),
        "SM_MODEL_DIR": str(folder / "model"),
        "SM_OUTPUT_DATA_DIR": str(folder / "data"),
        "SM_OUTPUT_FAILURE": str(folder / "failure"),
    }


def epoch_lines(stdout: str) -> list[str]:
    return [line for line in stdout.splitlines() if line.startswith("epoch=")]


def test_job_exports_the_fine_tuned_network_and_repeats_the_trial(prepared: Prepared, tmp_path: Path) -> None:
    processes = {}
    for script in ("trial.py", "train.py"):
        processes[script] = run_step(script, *ARGUMENTS, env=channels(prepared, tmp_path / script))
        assert (processes[script].returncode, processes[script].stderr) == (0, "")
    assert epoch_lines(processes["trial.py"].stdout) == epoch_lines(processes["train.py"].stdout)
    assert len(epoch_lines(processes["train.py"].stdout)) == 5
    model = tmp_path / "train.py" / "model"
    backbone, before = torch.load(model / "backbone.pt"), load_backbone("test_resnet", prepared.weights).state_dict()
    assert any(not torch.equal(backbone[name], before[name]) for name in before)
    assert len(DriftBaseline.load(model).reference) == 24  # the validation images: it has not learned them
    assert (model / "model.onnx").is_file() and '"randaugment_magnitude": 5' in (model / "model.json").read_text()
    history = (tmp_path / "train.py" / "data" / "history.json").read_text()
    assert '"fine_tuning_from_epoch": 3' in history and '"debugger_trouble": null' in history


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ("", "Training needs the channel train, but neither SM_CHANNEL_TRAIN nor --train is set."),
        ("validation", "The channel train holds no prepared images of the train split"),
    ],
)
def test_missing_or_wrong_images_are_one_sentence(prepared: Prepared, tmp_path: Path, changed, sentence) -> None:
    environment = channels(prepared, tmp_path)
    environment["SM_CHANNEL_TRAIN"] = str(prepared.root / changed) if changed else ""
    process = run_step("trial.py", *ARGUMENTS, env=environment)
    assert process.returncode == 1
    assert sentence.removeprefix("The channel train ") in process.stderr and len(process.stderr.splitlines()) == 1


def test_two_processes_give_the_metrics_of_one_within_noise(prepared: Prepared, tmp_path: Path) -> None:
    found = []
    for count in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command += ["--log-dir", str(tmp_path / "logs")]  # in /tmp, by default, nobody removes them
        process = subprocess.run(
            [*command, str(STEPS / "train.py"), *ARGUMENTS, "--debug", "false"],
            env=base_environment() | channels(prepared, tmp_path / str(count)),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert process.returncode == 0, process.stderr
        found.append([[float(pair.split("=")[1]) for pair in line.split()] for line in epoch_lines(process.stdout)])
    one, two = map(np.array, found)
    assert one.shape == two.shape == (5, 6)
    assert one[-1, 4] == two[-1, 4] == 1.0  # accuracy on validation
    assert np.allclose(one[:, 1:4], two[:, 1:4], atol=0.25)
