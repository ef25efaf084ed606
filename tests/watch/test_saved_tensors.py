"""Saved tensors are read as smdebug reads them, while they are being written."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import STEPS_PER_EPOCH, SmallTraining

from watch.read.tensors import KEPT_STEPS, PATIENCE_LOOKS, Mode, SavedTensors, TensorUnavailable
from watch.rules.judge import Judge
from watch.rules.registry import make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # smdebug's protobuf code is of 2020

EPOCHS = 3
INDEX = "index/000000000"


@pytest.fixture(scope="module")
def tensors_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run") / "tensors"
    training = SmallTraining(directory)
    training.epochs(EPOCHS)
    training.close()
    return directory


@pytest.fixture(scope="module")
def trial(tensors_dir: Path) -> Any:
    """smdebug's own view."""
    from smdebug.trials import create_trial

    return create_trial(str(tensors_dir))


@pytest.fixture
def copy(tensors_dir: Path, tmp_path: Path) -> Path:
    """The same files, to be damaged."""
    return Path(shutil.copytree(tensors_dir, tmp_path / "tensors"))


def test_every_tensor_of_every_step_is_read_as_smdebug_reads_it(tensors_dir: Path, trial: Any) -> None:
    saved = SavedTensors(tensors_dir)
    compared = 0
    for step in saved.new_steps():
        mode, mode_step = trial.mode_modestep(step.global_step)
        assert (mode.name, mode_step) == (step.mode.name, step.step)
        names = saved.tensor_names(step=step.step, mode=step.mode)
        assert names == trial.tensor_names(step=mode_step, mode=mode)
        for name in names:
            value, expected = (
                saved.tensor(name).value(step.step, mode=step.mode),
                trial.tensor(name).value(mode_step, mode),
            )
            np.testing.assert_array_equal(value, expected)
            assert (value.shape, value.dtype) == (expected.shape, expected.dtype)
            compared += 1
    assert compared == EPOCHS * (STEPS_PER_EPOCH * 11 + 7)  # validation has no gradients
    assert saved.unreadable == []


@pytest.mark.parametrize("collection", ["losses", "gradients", "weights", "biases", "relu_input", "relu_output"])
def test_collections_hold_what_smdebug_says(tensors_dir: Path, trial: Any, collection: str) -> None:
    from smdebug import modes

    saved = SavedTensors(tensors_dir)
    list(saved.new_steps())
    names = saved.tensor_names(step=0, mode=Mode.TRAIN, collection=collection)
    assert names == trial.tensor_names(step=0, mode=modes.TRAIN, collection=collection)
    assert names


def test_a_rule_says_the_same_on_smdebug_s_trial(tensors_dir: Path, trial: Any) -> None:
    rules = {
        "VanishingGradient": {"threshold": 0.05},
        "WeightUpdateRatio": {"small_threshold": 0.02},
        "DeadRelu": {"threshold_layer": 0, "threshold_inactivity": 100},
        "LossNotDecreasing": {"num_steps": 2, "diff_percent": 50},
        "Overtraining": {"patience_train": 1, "patience_validation": 1, "delta": 5},
        "AllZero": {"tensor_regex": ".*relu_output", "threshold": 10},
    }
    ours = [make(name, parameters) for name, parameters in rules.items()]
    saved = SavedTensors(tensors_dir)
    for step in saved.new_steps():
        see(ours, saved, step.step, step.mode)
    theirs = [make(name, parameters) for name, parameters in rules.items()]
    for global_step in trial.steps():
        mode, step_number = trial.mode_modestep(global_step)
        see(theirs, trial, step_number, mode)
    assert [judge.sentences() for judge in ours] == [judge.sentences() for judge in theirs]
    assert all(judge.sentences() for judge in ours)


def see(judges: list[Judge], trial: Any, step: int, mode: Any) -> None:
    for judge in judges:
        judge.see(trial, step, mode, 0.0)
        assert judge.traceback is None, judge.traceback


def test_each_step_comes_once_and_new_ones_come_later(tensors_dir: Path, tmp_path: Path) -> None:
    saved = SavedTensors(tmp_path / "tensors")
    assert list(saved.new_steps()) == []
    shutil.copytree(tensors_dir / "events", tmp_path / "tensors/events")
    (tmp_path / "tensors" / INDEX).mkdir(parents=True)
    files = sorted((tensors_dir / INDEX).iterdir())
    for file in files[:2]:
        shutil.copy(file, tmp_path / "tensors" / INDEX)
    assert [step.global_step for step in saved.new_steps()] == [0, 1]
    assert list(saved.new_steps()) == []
    shutil.copy(files[2], tmp_path / "tensors" / INDEX)
    assert [step.global_step for step in saved.new_steps()] == [2]


def test_steps_beyond_a_thousand_are_found_in_their_own_folder(copy: Path) -> None:
    saved = SavedTensors(copy)
    count = len(list(saved.new_steps()))
    (copy / "index/000000002").mkdir()
    shutil.copy(copy / INDEX / "000000000000_worker_0.json", copy / "index/000000002/000000002500_worker_0.json")
    assert [step.global_step for step in saved.new_steps()] == [2500]
    assert count == EPOCHS * (STEPS_PER_EPOCH + 1)


def test_a_half_written_index_file_is_waited_for(copy: Path) -> None:
    file = copy / INDEX / "000000000001_worker_0.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:50])
    saved = SavedTensors(copy)
    assert [step.global_step for step in saved.new_steps()] == [0]
    file.write_bytes(whole)
    assert next(saved.new_steps()).global_step == 1
    assert saved.unreadable == []


def test_at_the_end_a_broken_index_file_is_not_waited_for(copy: Path) -> None:
    (copy / INDEX / "000000000001_worker_0.json").write_text("{}")
    saved = SavedTensors(copy)
    assert [step.global_step for step in saved.new_steps(last=True)][:2] == [0, 2]
    assert saved.unreadable == [f"{INDEX}/000000000001_worker_0.json cannot be read: 'meta' is missing"]


def test_an_index_file_that_stays_broken_is_given_up_and_reported(copy: Path) -> None:
    (copy / INDEX / "000000000001_worker_0.json").write_text("{")
    saved = SavedTensors(copy)
    looks = [[step.global_step for step in saved.new_steps()] for _ in range(PATIENCE_LOOKS)]
    assert looks[:-1] == [[0]] + [[]] * (PATIENCE_LOOKS - 2)
    assert looks[-1][0] == 2
    assert saved.unreadable == [
        f"{INDEX}/000000000001_worker_0.json cannot be read: "
        "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    ]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda content: b"", "the file ends at byte 0 of"),
        (lambda content: content[:40], "the file ends at byte 40 of"),
        (lambda content: b"\xff" * len(content), "bytes lies in"),
        (lambda content: content[:12] + b"\x07" * (len(content) - 12), "the record is damaged ("),
    ],
)
def test_a_damaged_tensor_file_is_reported_and_makes_its_tensors_unavailable(copy: Path, damage: Any, why: str) -> None:
    file = copy / "events/000000000000/000000000000_worker_0.tfevents"
    file.write_bytes(damage(file.read_bytes()))
    saved = SavedTensors(copy)
    list(saved.new_steps())
    name = json.loads((copy / INDEX / "000000000000_worker_0.json").read_text())["tensor_payload"][0]["tensorname"]
    with pytest.raises(TensorUnavailable):
        saved.tensor(name).value(0, mode=Mode.TRAIN)
    assert saved.unreadable[0].startswith("events/000000000000/000000000000_worker_0.tfevents cannot be read: ")
    assert why in saved.unreadable[0]
    assert saved.tensor("ClassifierHead_hidden.weight").value(1, mode=Mode.TRAIN).shape == (1, 6, 12)


def test_a_tensor_that_was_not_saved_is_unavailable(tensors_dir: Path) -> None:
    saved = SavedTensors(tensors_dir)
    list(saved.new_steps())
    with pytest.raises(TensorUnavailable, match="gradient/x was not saved at step 0 of mode EVAL"):
        saved.tensor("gradient/x").value(0, mode=Mode.EVAL)


def test_only_the_newest_steps_are_kept(copy: Path) -> None:
    for step in range(100, 100 + 2 * KEPT_STEPS):
        index = json.loads((copy / INDEX / "000000000000_worker_0.json").read_text())
        index["meta"]["mode_step"] = step
        (copy / INDEX / f"{step:012d}_worker_0.json").write_text(json.dumps(index))
    saved = SavedTensors(copy)
    for _ in saved.new_steps():
        pass
    assert saved.steps(mode=Mode.TRAIN) == list(range(100 + KEPT_STEPS, 100 + 2 * KEPT_STEPS))


def test_saved_reductions_answer_where_raw_values_were_not_saved(tmp_path: Path) -> None:
    import smdebug.pytorch as smdebug
    from smdebug.trials import create_trial

    hook = smdebug.Hook(
        out_dir=str(tmp_path / "tensors"),
        include_collections=["weights"],
        reduction_config=smdebug.ReductionConfig(reductions=["mean"], abs_reductions=["mean"], norms=["l2"]),
        save_config=smdebug.SaveConfig(save_interval=1),
    )
    network = torch.nn.Linear(3, 2)
    hook.register_module(network)
    hook.set_mode(smdebug.modes.TRAIN)
    for _ in range(2):
        network(torch.ones(1, 3))
    hook.close()
    saved = SavedTensors(tmp_path / "tensors")
    list(saved.new_steps())
    theirs = create_trial(str(tmp_path / "tensors")).tensor("Linear_weight")
    assert saved.tensor_names(step=0, mode=Mode.TRAIN, collection="weights") == ["Linear_weight"]
    for name, absolute in [("mean", False), ("mean", True), ("l2", False)]:
        expected = float(theirs.reduction_value(0, name, mode=smdebug.modes.TRAIN, abs=absolute))
        assert saved.tensor("Linear_weight").reduction_value(0, name, mode=Mode.TRAIN, abs=absolute) == expected
    with pytest.raises(TensorUnavailable):
        saved.tensor("Linear_weight").value(0, mode=Mode.TRAIN)
