"""The first stage and its loop: the best epoch, patience, class balance, the optimizer, and what it warns about."""

import copy
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from classifier.data.training_data import Split, TrainingData, load
from classifier.training.head_training import BalancedCrossEntropy, HeadTraining, class_weights
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.job import Checkpoint, restart_under_torchrun
from classifier.training.loop import Watcher, train
from classifier.training.optimizer import AdamW, decay_weights, scheduled_lr
from classifier.training.results import warnings_of
from tests.steps.prepared_data import STEPS, Prepared, StopAfter, base_environment

SETTLED = Hyperparameters(epochs=30, batch_size=16, hidden_units=8, lr=0.02, dropout=0.0)  # all is learned soon


class LosesItsWay(HeadTraining):
    """Never becomes better than after its third epoch."""

    def validate(self, watcher: Watcher):
        found = super().validate(watcher)
        epoch = round(self.optimizer.step_count / self.steps)
        logits = torch.nn.functional.one_hot(found.labels, 3) * float(min(epoch, 3)) + torch.arange(3)
        return replace(found, logits=logits, held_out=None)


@pytest.fixture(scope="module")
def data(prepared: Prepared) -> TrainingData:
    return load(prepared.embeddings, prepared.manifest)


def test_training_ends_when_no_epoch_was_better_for_so_long(data: TrainingData, capsys) -> None:
    result = train(LosesItsWay(data, SETTLED), patience=4)
    assert (len(result.epochs), result.kept.figures.epoch, result.stopped) == (7, 7, None)
    assert result.ended_early == (
        "Training ended after 7 of 30 epochs: none of the last 4 was better than epoch 3 (patience 4)."
    )
    assert capsys.readouterr().out.splitlines()[-1] == result.ended_early


@pytest.mark.parametrize("patience", [0, 27])
def test_patience_that_is_off_or_outlasts_the_epochs_ends_nothing(data: TrainingData, patience: int) -> None:
    result = train(LosesItsWay(data, SETTLED), patience=patience)
    assert (len(result.epochs), result.ended_early) == (30, None)


def test_patience_is_not_forgotten_over_an_interruption(data: TrainingData, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "training.pt", "a")
    stopped = train(LosesItsWay(data, SETTLED), watcher=StopAfter(23), checkpoint=checkpoint, patience=4)
    assert (stopped.stopped, stopped.ended_early) == ("Enough.", None)
    again = train(LosesItsWay(data, SETTLED), checkpoint=checkpoint, patience=4)
    assert again.epochs == train(LosesItsWay(data, SETTLED), patience=4).epochs
    once_more = train(LosesItsWay(data, SETTLED), checkpoint=checkpoint, patience=4)
    assert (once_more.epochs, once_more.ended_early) == (again.epochs, again.ended_early)


def test_second_stage_is_given_its_own_patience(data: TrainingData) -> None:
    first = train(HeadTraining(data, SETTLED))
    second = train(LosesItsWay(data, SETTLED), earlier=first, patience=4)
    best = min(second.epochs[30:], key=lambda epoch: epoch.selection_log_loss)  # the first stage's do not count
    assert second.epochs[-1].epoch - best.epoch == 4
    assert second.ended_early is not None and f"better than epoch {best.epoch} " in second.ended_early


@pytest.mark.parametrize(("balance", "expected"), [(0.0, [1, 1]), (1.0, [2 / 3, 2]), (0.5, [0.845299, 1.464102])])
def test_weights_of_classes_have_a_mean_of_one_over_the_images(balance: float, expected: list[float]) -> None:
    labels = np.array([0, 0, 0, 1])
    weights = class_weights(labels, 2, balance)
    assert weights.tolist() == pytest.approx(expected, rel=1e-5)
    assert float(weights[torch.from_numpy(labels)].mean()) == pytest.approx(1)
    assert class_weights(np.array([0, 0, 2, 2]), 3, balance).tolist() == [1, 1, 1]  # a class without images


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
        settings = Hyperparameters(epochs=20, lr=0.03, hidden_units=0, class_balance=balance)
        answers = train(HeadTraining(made, settings)).kept.validation.logits.argmax(dim=1).numpy()
        found[balance] = int((answers[labels == 1] == 1).sum())
    assert found[0.0] < 10 <= found[1.0]


def test_sound_training_has_no_warnings_and_a_class_that_training_lacks_is_one(data: TrainingData) -> None:
    assert warnings_of(data, train(HeadTraining(data, replace(SETTLED, epochs=2)))) == []
    kept = np.flatnonzero(data.train.labels != 1)
    fewer = replace(data, train=Split(np.asarray(data.train.embeddings[kept]), data.train.labels[kept]))
    [sentence] = warnings_of(fewer, train(HeadTraining(fewer, replace(SETTLED, epochs=2))))
    assert sentence.startswith(f"Validation has 8 images of {data.classes[1]!r}, but training has none")


def test_one_answer_to_everything_is_a_warning(data: TrainingData) -> None:
    result = train(HeadTraining(data, replace(SETTLED, epochs=1)))
    stuck = replace(result.kept.validation, logits=torch.tensor([[0.0, 0.1, 0.0]]).expand(24, 3))
    [sentence] = warnings_of(data, replace(result, kept=replace(result.kept, validation=stuck)))
    assert sentence.startswith(f"Every validation image was taken for {data.classes[1]!r}: ")


def test_optimizer_does_what_torch_adamw_does() -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(5, 3)
    other = copy.deepcopy(module)
    ours = AdamW([{**group, "lr_scale": 0.5} for group in decay_weights(module, 0.3)], lr=0.1, total_steps=10)
    groups = [{"params": [other.weight], "weight_decay": 0.3}, {"params": [other.bias], "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups)
    for number in range(10):
        batch = torch.randn(4, 5)
        for one in (module, other):
            one(batch).square().sum().backward()
        for group in theirs.param_groups:
            group["lr"] = 0.5 * scheduled_lr(0.1, number, 10)
        ours.step()
        theirs.step()
        theirs.zero_grad()
    assert torch.allclose(module.weight, other.weight, atol=1e-6) and torch.allclose(module.bias, other.bias, atol=1e-6)


def test_a_parameter_without_a_gradient_is_left_alone_and_others_learn() -> None:
    used, unused = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2, 2))
    optimizer = AdamW([{"params": [unused, used], "weight_decay": 0.1}], lr=0.1, total_steps=4)
    used.sum().backward()
    optimizer.step()
    assert unused.eq(1).all() and used.lt(1).all() and used.grad is None
    optimizer.step()  # nobody has one


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    rates = [scheduled_lr(1.0, step, 100) for step in range(101)]
    assert rates[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[100] == pytest.approx(0)


IMPORTS = "import sys; sys.path.insert(0, sys.argv[1]); import {}; print(*sorted(sys.modules))"


@pytest.mark.parametrize(
    ("script", "absent"),
    [
        ("trial", {"timm", "smdebug", "torch._dynamo", "PIL", "scipy", "torchvision"}),
        ("train", {"timm", "torchvision", "smdebug", "torch._dynamo"}),
    ],
)
def test_scripts_import_what_they_need_when_they_need_it(script: str, absent: set[str]) -> None:
    command = [sys.executable, "-c", IMPORTS.format(script), str(STEPS)]
    process = subprocess.run(command, env=base_environment(), capture_output=True, text=True, timeout=120, check=True)
    assert not absent & set(process.stdout.split())


ONE = {"SM_HOSTS": '["algo-1"]', "SM_NUM_GPUS": "1"}
SEVERAL = {"SM_HOSTS": '["algo-1", "algo-2"]', "SM_CURRENT_HOST": "algo-2", "SM_NUM_GPUS": "4"}


@pytest.mark.parametrize("variables", [{}, ONE, {"SM_NUM_GPUS": "0"}, SEVERAL, SEVERAL | {"WORLD_SIZE": "8"}], ids=str)
def test_torchrun_starts_a_process_for_each_gpu_of_each_instance_where_there_are_several(variables, monkeypatch):
    started: list[list[str]] = []
    monkeypatch.setattr("os.environ", dict(variables))
    monkeypatch.setattr("os.execv", lambda program, command: started.append(command))
    monkeypatch.setattr("sys.argv", ["train.py", "--lr", "0.1"])
    restart_under_torchrun()
    assert bool(started) is (variables is SEVERAL)
    for command in started:
        assert command[:3] == [sys.executable, "-m", "torch.distributed.run"]
        assert command[-3:] == ["train.py", "--lr", "0.1"]
        assert {"--nnodes=2", "--node-rank=1", "--nproc-per-node=4", "--master-addr=algo-1"} < set(command)


def test_a_stop_in_the_first_epoch_keeps_what_was_learned_and_prints_no_metric(data: TrainingData, capsys) -> None:
    stopped = train(HeadTraining(data, SETTLED), watcher=StopAfter(1))
    assert re.fullmatch(r"Epoch 1 was cut short; validation accuracy 0\.\d{4}\n", capsys.readouterr().out)
    assert [epoch.epoch for epoch in stopped.epochs] == [1] and stopped.kept.figures == stopped.epochs[0]
