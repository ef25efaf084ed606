"""The second stage: it improves on the head alone, goes on where it stopped, and is shared among processes."""

import multiprocessing
import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from classifier.data.images import Preprocess
from classifier.data.prepared_images import PreparedImages
from classifier.data.training_data import TrainingData, load
from classifier.drift.baseline import DriftBaseline
from classifier.finetuning import fine_tuning
from classifier.finetuning.fine_tuning import FineTuning
from classifier.finetuning.images import Images, open_images
from classifier.job.failures import StepError
from classifier.model.backbone import Backbone, load_backbone
from classifier.training.head_training import HeadTraining
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.job import Checkpoint
from classifier.training.loop import Watcher, train
from classifier.training.results import TrainingResult, Validation, warnings_of
from tests.steps.prepared_data import STEPS, Prepared, StopAfter, base_environment

HYPERPARAMETERS = Hyperparameters(
    epochs=2, batch_size=32, hidden_units=8, lr=0.001, finetune="all", finetune_epochs=3, finetune_batch_size=10,
    finetune_lr=0.002, finetune_image_size=32, crop_area_min=0.4, randaugment_magnitude=5, cutmix_alpha=1.0,
    erasing_probability=0.5,
)  # fmt: skip
ARGUMENTS = (
    "--epochs 2 --batch_size 32 --hidden_units 8 --lr 0.001 --finetune all --finetune_epochs 3 "
    "--finetune_batch_size 10 --finetune_lr 0.002 --finetune_image_size 32"
)


@pytest.fixture(scope="module")
def data(prepared: Prepared) -> TrainingData:
    return load(prepared.embeddings, prepared.manifest)


@pytest.fixture(scope="module")
def first_stage(data: TrainingData) -> TrainingResult:
    return train(HeadTraining(data, HYPERPARAMETERS))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tests run beside each other; threads of a small network would only wait for each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@dataclass(frozen=True)
class Trainer:
    """Begins the second stage anew each time."""

    data: TrainingData
    images: Images
    weights: Path
    first: TrainingResult

    @property
    def backbone(self) -> Backbone:
        return load_backbone("test_resnet", self.weights)

    def stage(self, parts: Any = None, backbone: Backbone | None = None, **changed: Any) -> FineTuning:
        """As a training has it: with the first stage's head."""
        first, backbone = HeadTraining(self.data, replace(HYPERPARAMETERS, **changed)), backbone or self.backbone
        parts = parts or self.first.kept.parts
        for name, module in {"head": first.head, "backbone": backbone}.items():
            module.load_state_dict(parts.get(name, module.state_dict()))
        return FineTuning(first, backbone, self.images)

    def __call__(self, checkpoint: Any = None, watcher: Any = None, **changed: Any) -> TrainingResult:
        return train(self.stage(**changed), checkpoint=checkpoint, watcher=watcher, earlier=self.first)


@pytest.fixture(scope="module")
def tune(prepared: Prepared, data: TrainingData, first_stage: TrainingResult) -> Trainer:
    train_images, validation = (PreparedImages(prepared.root / name, name) for name in ("train", "validation"))
    images = Images(train_images, validation, Preprocess.from_dict(data.manifest["preprocess"]), horizontal_flip=True)
    return Trainer(data, images, prepared.weights, first_stage)


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


def test_crops_of_another_size_are_refused_for_a_transformer(tune: Trainer) -> None:
    backbone = tune.backbone
    vars(backbone.network)["set_input_size"] = None  # as timm's transformers have
    with pytest.raises(StepError, match=r"^finetuning\.image_size_px must be \d+, as deployed, .* but got 16\.$"):
        tune.stage(backbone=backbone, finetune_image_size=16)


def test_fine_tuning_goes_on_counting_and_its_end_beats_a_head_that_has_learned_little(
    undisturbed: TrainingResult, first_stage: TrainingResult, tune: Trainer
) -> None:
    assert [epoch.epoch for epoch in undisturbed.epochs] == [1, 2, 3, 4, 5]
    assert undisturbed.epochs[:2] == first_stage.epochs
    best = undisturbed.epochs[-1]
    assert undisturbed.kept.figures == best
    assert undisturbed.kept.validation.accuracy == best.validation_accuracy
    assert best.validation_accuracy > first_stage.kept.figures.validation_accuracy
    assert set(undisturbed.kept.parts) == {"head", "backbone"}
    assert warnings_of(tune.data, undisturbed) == []
    assert tune(seed=1).epochs[2:] != undisturbed.epochs[2:]


def test_kept_network_gives_the_validation_that_was_reported(
    undisturbed: TrainingResult, tune: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = tune.stage(undisturbed.kept.parts)
    stage.set_mode("EVAL")
    for rows in (512, 10):  # of one step: all of them, or some
        monkeypatch.setattr(fine_tuning, "EVALUATION_ROWS", rows)
        monkeypatch.setattr(fine_tuning, "PLAIN_ROWS", 5)
        validation = stage.validate(Watcher())
        assert torch.allclose(validation.logits, undisturbed.kept.validation.logits, atol=1e-4)


def test_a_worse_second_stage_leaves_the_first_one_s_head_and_no_backbone(tune: Trainer, data: TrainingData) -> None:
    perfect = train(HeadTraining(data, replace(HYPERPARAMETERS, epochs=8, lr=0.02)))
    assert perfect.kept.figures.validation_accuracy == 1
    result = replace(tune, first=perfect)(finetune_lr=3.0, finetune_epochs=1, ema_decay=0.0)
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
    *_, line = capsys.readouterr().out.splitlines()
    assert f" validation_accuracy={1 - later / len(labels):.4f} " in line
    assert bool(warnings_of(data, result)) is (kept == "head")


@pytest.mark.parametrize("steps", [1, 8, 11, 17])
def test_stopped_in_the_middle_of_an_epoch_it_goes_on_to_the_same_end(
    tune: Trainer, undisturbed: TrainingResult, tmp_path: Path, steps: int
) -> None:
    stopped = tune(Checkpoint(tmp_path / "fine_tuning.pt", "a"), StopAfter(steps))
    assert stopped.stopped == "Enough."
    assert len(stopped.epochs) == 2 + (steps - 1) // 8
    assert_same(tune(Checkpoint(tmp_path / "fine_tuning.pt", "a")), undisturbed)


def test_a_parameter_without_a_gradient_stays_as_it_is_and_disturbs_no_other(tune: Trainer) -> None:
    backbone = tune.backbone
    backbone.network.layer4.register_parameter("unused", torch.nn.Parameter(torch.ones(3, 3)))
    result = tune(backbone=backbone, finetune_epochs=1)
    assert result.kept.parts["backbone"]["network.layer4.unused"].eq(1).all()
    assert result.epochs[-1].train_loss < 3


@pytest.mark.parametrize(
    ("changed", "statistics_stay"),
    [
        ({"batchnorm": "auto", "finetune": "last_block"}, True),
        ({"batchnorm": "frozen"}, True),
        ({"batchnorm": "train"}, False),
    ],
    ids=str,
)
def test_what_shall_not_learn_stays_as_it_was(tune: Trainer, changed: dict[str, Any], statistics_stay: bool) -> None:
    before, result = tune.backbone.state_dict(), tune(ema_decay=0.5, **changed)
    learned = result.kept.parts["backbone"]
    moved = {name for name, tensor in learned.items() if not torch.equal(tensor, before[name])}
    assert any(name.endswith("running_mean") for name in moved) is not statistics_stay
    layers = {name.split(".")[1] for name in moved}
    assert layers == {"layer4"} if "finetune" in changed else len(layers) > 1


@pytest.mark.parametrize("changed", [{"precision": "bf16"}, {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}], ids=str)
def test_other_ways_of_computing_learn_as_well(tune: Trainer, first_stage: TrainingResult, changed: Any) -> None:
    result = tune(**changed)
    assert result.kept.figures.validation_loss < first_stage.kept.figures.validation_loss


def test_diverging_loss_names_the_rate_that_fine_tuning_has(tune: Trainer) -> None:
    with pytest.raises(StepError, match=r"loss became (nan|inf) in epoch 3 .* try a finetune_lr of 1e\+37 or below\.$"):
        tune(finetune_lr=1e38, ema_decay=0.0)
    assert not multiprocessing.active_children()  # those that load images end at once, and not when memory is tidied


@pytest.mark.parametrize(
    ("place", "embedded", "sentence"),
    [
        ("", "train", "Training needs the channel train, but neither SM_CHANNEL_TRAIN nor --train is set."),
        ("validation", "train", "holds no prepared images of the train split"),
        ("train", "validation", "The channels' images are not those of the embeddings: they differ in labels."),
    ],
)
def test_missing_or_wrong_images_are_one_sentence(
    prepared: Prepared, data: TrainingData, place: str, embedded: str, sentence: str
) -> None:
    channels = Namespace(train=place and prepared.root / place, validation=prepared.root / "validation")
    other: Any = SimpleNamespace(train=getattr(data, embedded), validation=data.validation)
    with pytest.raises(StepError, match=sentence):
        open_images(channels, other)


def run(command: list[str], prepared: Prepared, folder: Path) -> list[str]:
    """The epochs' lines of a fine-tuning job."""
    images = {f"SM_CHANNEL_{name.upper()}": str(prepared.root / name) for name in ("train", "validation")}
    outputs = {"SM_MODEL_DIR": str(folder / "model"), "SM_OUTPUT_DATA_DIR": str(folder / "data")}
    environment = base_environment() | prepared.channels | images | outputs
    words = [sys.executable, *command, *ARGUMENTS.split()]
    process = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 0, process.stderr
    return [line for line in process.stdout.splitlines() if line.startswith("epoch=")]


def test_job_exports_the_fine_tuned_network_and_repeats_the_trial_and_two_processes_are_within_noise(
    prepared: Prepared, tmp_path: Path
) -> None:
    final = run([str(STEPS / "train.py")], prepared, tmp_path)
    assert final == run([str(STEPS / "trial.py")], prepared, tmp_path / "trial") and len(final) == 5
    model, before = tmp_path / "model", load_backbone("test_resnet", prepared.weights).state_dict()
    backbone = torch.load(model / "backbone.pt")
    assert any(not torch.equal(backbone[name], before[name]) for name in before)
    assert len(DriftBaseline.load(model).reference) == 24  # the validation images: it has not learned them
    assert (model / "model.onnx").is_file() and '"randaugment_magnitude": 5' in (model / "model.json").read_text()
    history = (tmp_path / "data" / "history.json").read_text()
    assert '"fine_tuning_from_epoch": 3' in history and '"debugger_trouble": null' in history

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    torchrun += ["--log-dir", str(tmp_path / "logs")]  # in /tmp, by default, nobody removes them
    both = run([*torchrun, str(STEPS / "train.py")], prepared, tmp_path / "two")
    one, two = (np.array([re.findall(r"[\d.]+", line) for line in lines], float) for lines in (final, both))
    assert one.shape == two.shape == (5, 7)
    assert one[-1, 4] == two[-1, 4] == 1.0  # accuracy on validation
    assert np.allclose(one[:, 1:4], two[:, 1:4], atol=0.25)
