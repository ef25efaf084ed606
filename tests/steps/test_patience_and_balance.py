"""What decides a training besides its steps: patience, class balance, and warnings about what it ends with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from classifier.data.training_data import Split, TrainingData, load
from classifier.training.checkpoint import Checkpoints
from classifier.training.class_balance import BalancedCrossEntropy, class_weights
from classifier.training.head_training import HeadTraining
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.job import head_training
from classifier.training.loop import TrainingResult, Watcher, train
from classifier.training.warnings import warnings_of
from classifier.watch.report_headline import headline
from classifier.watch.report_values import read_json
from classifier.watch.training_record import read_record
from tests.steps.prepared_data import Prepared, run_step

SETTLED = Hyperparameters(epochs=30, batch_size=16, hidden_units=8, lr=0.02, dropout=0.0)  # all is learned soon


class LosesItsWay(HeadTraining):
    """Never becomes better than after its third epoch."""

    def validate(self, watcher: Watcher):
        found = super().validate(watcher)
        epoch = round(self.optimizer.step_count / self.steps)
        return replace(found, loss=1.0 - 0.1 * epoch if epoch <= 3 else 2.0, logits=torch.zeros(24, 3))


@pytest.fixture(scope="module")
def data(prepared: Prepared) -> TrainingData:
    return load(prepared.embeddings, prepared.manifest)


def stage(data: TrainingData) -> LosesItsWay:
    plain = head_training(data, SETTLED)
    return LosesItsWay(plain.head, plain.criterion, data, SETTLED)


def test_training_ends_when_no_epoch_was_better_for_so_long(
    data: TrainingData, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(stage(data), patience=4)
    assert (len(result.epochs), result.kept.figures.epoch, result.stopped) == (7, 3, None)
    assert result.ended_early == (
        "Training ended after 7 of 30 epochs: none of the last 4 was better than epoch 3 (patience 4)."
    )
    assert capsys.readouterr().out.splitlines()[-1] == result.ended_early


@pytest.mark.parametrize("patience", [0, 27])
def test_patience_that_is_off_or_outlasts_the_epochs_ends_nothing(data: TrainingData, patience: int) -> None:
    result = train(stage(data), patience=patience)
    assert (len(result.epochs), result.ended_early) == (30, None)


def test_patience_is_not_forgotten_over_an_interruption(data: TrainingData, tmp_path: Path) -> None:
    class Stop(Watcher):
        steps = 23  # in the fifth epoch of five steps

        def phase(self, name: str):
            self.steps -= name == "Forward"
            self.stop_requested = "Enough." if self.steps <= 0 else None
            return super().phase(name)

    stopped = train(stage(data), watcher=Stop(), checkpoints=Checkpoints(tmp_path, "a"), patience=4)
    assert (stopped.stopped, stopped.ended_early) == ("Enough.", None)
    again = train(stage(data), checkpoints=Checkpoints(tmp_path, "a"), patience=4)
    assert again.epochs == train(stage(data), patience=4).epochs
    once_more = train(stage(data), checkpoints=Checkpoints(tmp_path, "a"), patience=4)
    assert (once_more.epochs, once_more.ended_early) == (again.epochs, again.ended_early)


def test_second_stage_is_given_its_own_patience(data: TrainingData) -> None:
    first = train(head_training(data, SETTLED))
    assert first.kept.figures.validation_accuracy == 1.0
    second = train(stage(data), earlier=first, patience=4)
    own = second.epochs[30:]  # the first stage's epochs do not count as waiting, nor as better ones
    best = max(own, key=lambda epoch: (epoch.validation_accuracy, -epoch.validation_loss))
    assert own[-1].epoch - best.epoch == 4
    assert second.ended_early is not None and f"better than epoch {best.epoch} " in second.ended_early


@pytest.mark.parametrize(("balance", "expected"), [(0.0, [1, 1]), (1.0, [2 / 3, 2]), (0.5, [0.845299, 1.464102])])
def test_weights_of_classes_have_a_mean_of_one_over_the_images(balance: float, expected: list[float]) -> None:
    labels = np.array([0, 0, 0, 1])
    weights = class_weights(labels, 2, balance)
    assert weights.tolist() == pytest.approx(expected, rel=1e-5)
    assert float(weights[torch.from_numpy(labels)].mean()) == pytest.approx(1)


def test_class_without_images_weighs_nothing_unusual() -> None:
    assert class_weights(np.array([0, 0, 1, 1]), 3, 1.0).tolist() == [1, 1, 1]


def test_balanced_loss_does_not_depend_on_the_batch_that_an_image_is_in() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    loss = BalancedCrossEntropy(torch.tensor([0.5, 1.0, 3.0]), 0.1)
    parts = torch.stack([loss(logits[row : row + 1], labels[row : row + 1]) for row in range(6)])
    assert torch.allclose(loss(logits, labels), parts.mean())
    hard = torch.nn.functional.one_hot(labels, 3).float()
    assert torch.allclose(loss(logits, labels), loss(logits, hard), atol=1e-6)
    plain = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    assert torch.allclose(BalancedCrossEntropy(torch.ones(3), 0.1)(logits, labels), plain(logits, labels))


def test_balance_makes_a_head_find_more_of_a_rare_class() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], [380, 20])
    rows = (generator.standard_normal((400, 1, 8)) + 0.5 * labels[:, None, None]).astype(np.float16)
    split = Split(rows, labels)
    made = TrainingData({"classes": ["common", "rare"]}, split, split)
    found = {}
    for balance in (0.0, 1.0):
        settings = Hyperparameters(epochs=5, lr=0.01, hidden_units=0, class_balance=balance)
        answers = train(head_training(made, settings)).kept.validation.logits.argmax(dim=1).numpy()
        found[balance] = int((answers[labels == 1] == 1).sum())
    assert found[0.0] < 10 <= found[1.0]


def result_of(data: TrainingData) -> TrainingResult:
    return train(head_training(data, replace(SETTLED, epochs=2)))


def warned(data: TrainingData, settings: Hyperparameters) -> list[str]:
    return warnings_of(data, train(head_training(data, settings)))


def test_sound_training_has_no_warnings(data: TrainingData) -> None:
    assert warnings_of(data, result_of(data)) == []


def test_class_that_training_lacks_is_a_warning(data: TrainingData) -> None:
    kept = np.flatnonzero(data.train.labels != 1)
    fewer = replace(data, train=Split(data.train.embeddings[kept], data.train.labels[kept]))
    [sentence] = warnings_of(fewer, result_of(fewer))
    assert sentence == (
        f"Validation has 8 images of {data.classes[1]!r}, but training has none, so they cannot be recognised: "
        "add training images of every class."
    )


def test_one_answer_to_everything_is_a_warning_in_log_and_report(
    prepared: Prepared, data: TrainingData, tmp_path: Path
) -> None:
    # An untrained unit that no image excites gives every image the same answer.
    untrained = Hyperparameters(epochs=1, lr=1e-12, hidden_units=1, dropout=0.0)
    seeds = (seed for seed in range(100) if warned(data, replace(untrained, seed=seed)))
    words = ["--epochs", "1", "--lr", "1e-12", "--hidden_units", "1", "--dropout", "0", "--debug_profiled_steps", "0"]
    folders = {"SM_MODEL_DIR": str(tmp_path / "model"), "SM_OUTPUT_DATA_DIR": str(tmp_path / "data")}
    process = run_step("train.py", *words, "--seed", str(next(seeds)), env=prepared.channels | folders)
    assert process.returncode == 0, process.stderr
    [line] = [line for line in process.stdout.splitlines() if line.startswith("Warning: ")]
    assert line.startswith("Warning: Every validation image was taken for '")
    history, _ = read_json(tmp_path / "data" / "history.json")
    assert [f"Warning: {sentence}" for sentence in history["warnings"]] == [line]
    page = headline(read_record(tmp_path / "data"))
    assert "<h2>1 warning</h2>" in page and "Every validation image was taken for" in page


def test_report_says_that_training_ended_early(tmp_path: Path) -> None:
    (tmp_path / "history.json").write_text('{"outcome": "Completed", "ended_early": "Training ended after 7 <b>."}')
    page = headline(read_record(tmp_path))
    assert "Training ended after 7 &lt;b&gt;." in page
    assert "Every one of its" not in page
