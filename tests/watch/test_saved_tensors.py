"""Saved tensors are read as smdebug reads them, while they are being written, and from damaged files."""

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import STEPS_PER_EPOCH, trained

from watch.read.records import decode, encode
from watch.read.run import read_record
from watch.read.tensors import KEPT_STEPS, PATIENCE_LOOKS, Mode, SavedTensors, TensorUnavailable, workers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # smdebug's protobuf code is of 2020

EPOCHS = 3
INDEX, EVENTS = "index/000000000", "events/000000000000/000000000000_worker_0.tfevents"
ONE = f"{INDEX}/000000000001_worker_0.json"


@pytest.fixture(scope="module")
def tensors_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("run") / "tensors", epochs=EPOCHS, lr=0.05)


@pytest.fixture
def copy(tensors_dir: Path, tmp_path: Path) -> Path:
    """The same files, to be damaged."""
    return Path(shutil.copytree(tensors_dir, tmp_path / "tensors"))


def steps_of(saved: SavedTensors, *, last: bool = False) -> list[int]:
    return [step.global_step for step in saved.new_steps(last=last)]


def test_every_tensor_of_every_step_is_read_as_smdebug_reads_it(tensors_dir: Path) -> None:
    from smdebug.trials import create_trial

    trial, saved, compared = create_trial(str(tensors_dir)), SavedTensors(tensors_dir), 0
    for step in saved.new_steps():
        mode, mode_step = trial.mode_modestep(step.global_step)
        assert (mode.name, mode_step) == (step.mode.name, step.step)
        names = saved.tensor_names(step=step.step, mode=step.mode)
        assert names == trial.tensor_names(step=mode_step, mode=mode)
        for name in names:
            value, expected = saved.tensor(name).value(step.step, step.mode), trial.tensor(name).value(mode_step, mode)
            np.testing.assert_array_equal(value, expected)
            assert (value.shape, value.dtype) == (expected.shape, expected.dtype)
            compared += 1
        for collection in ("losses", "gradients", "weights", "biases", "relu_input", "relu_output"):
            found = saved.tensor_names(step=step.step, mode=step.mode, collection=collection)
            assert found == trial.tensor_names(step=mode_step, mode=mode, collection=collection)
    assert compared == EPOCHS * (STEPS_PER_EPOCH * 11 + 7)  # validation has no gradients
    assert saved.unreadable == []


def test_saved_reductions_answer_where_raw_values_were_not_saved(tmp_path: Path) -> None:
    import smdebug.pytorch as smdebug
    from smdebug.trials import create_trial

    hook = smdebug.Hook(
        out_dir=str(tmp_path),
        include_collections=["weights"],
        reduction_config=smdebug.ReductionConfig(reductions=["mean"], abs_reductions=["mean"], norms=["l2"]),
        save_config=smdebug.SaveConfig(save_interval=1),
    )
    network = torch.nn.Linear(3, 2)
    hook.register_module(network)
    hook.set_mode(smdebug.modes.TRAIN)
    network(torch.ones(1, 3))
    hook.close()
    saved = SavedTensors(tmp_path)
    assert steps_of(saved) == [0]
    theirs = create_trial(str(tmp_path)).tensor("Linear_weight")
    for name, absolute in [("mean", False), ("mean", True), ("l2", False)]:
        expected = float(theirs.reduction_value(0, name, mode=smdebug.modes.TRAIN, abs=absolute))
        assert saved.tensor("Linear_weight").reduction_value(0, name, mode=Mode.TRAIN, abs=absolute) == expected
    with pytest.raises(TensorUnavailable):
        saved.tensor("Linear_weight").value(0, mode=Mode.TRAIN)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i8", "u1", "?", ">f4"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_smdebug_reads_the_records_that_are_written_here(dtype: str, shape: tuple[int, ...]) -> None:
    from smdebug.core.tfrecord.tensor_reader import TensorReader

    value = np.arange(6).astype(dtype)[: int(np.prod(shape))].reshape(shape)
    record = encode("layer/weight", value, step=300, mode=2, mode_step=7)
    [(name, step, read, mode, mode_step)] = TensorReader(record).read_tensors()
    assert (name, step, mode.name, mode_step) == ("layer/weight", 300, "EVAL", 7)
    for found in (read, decode(record)):
        np.testing.assert_array_equal(found, value)
        assert found.shape == shape


def test_each_worker_is_read_by_itself(copy: Path) -> None:
    for name in (ONE, "collections/000000000/worker_0_collections.json"):
        shutil.copy(copy / name, copy / name.replace("worker_0", "worker_10"))
        shutil.copy(copy / name, copy / name.replace("worker_0", "worker_2"))
    assert workers(copy) == ["worker_0", "worker_2", "worker_10"]
    assert steps_of(SavedTensors(copy, "worker_10")) == [1]
    assert len(steps_of(SavedTensors(copy))) == EPOCHS * (STEPS_PER_EPOCH + 1)


def test_each_step_comes_once_and_new_ones_come_later(tensors_dir: Path, tmp_path: Path) -> None:
    saved = SavedTensors(tmp_path)
    assert steps_of(saved) == []
    (tmp_path / INDEX).mkdir(parents=True)
    (tmp_path / "index/000000002").mkdir()
    for number, target in enumerate(("000000000/000000000000", "000000000/000000000001", "000000002/000000002500")):
        shutil.copy(tensors_dir / ONE, tmp_path / f"index/{target}_worker_0.json")
        assert steps_of(saved) == [[0], [1], [2500]][number]
    assert steps_of(saved) == []


def test_only_the_newest_steps_are_kept(copy: Path) -> None:
    index = json.loads((copy / ONE).read_text())
    for step in range(100, 100 + 2 * KEPT_STEPS):
        index["meta"]["mode_step"] = step
        (copy / INDEX / f"{step:012d}_worker_0.json").write_text(json.dumps(index))
    saved = SavedTensors(copy)
    steps_of(saved)
    assert saved.steps(mode=Mode.TRAIN) == list(range(100 + KEPT_STEPS, 100 + 2 * KEPT_STEPS))


def test_a_half_written_index_file_is_waited_for_and_then_given_up(copy: Path) -> None:
    whole = (copy / ONE).read_bytes()
    (copy / ONE).write_bytes(whole[:50])
    patient, waiting, at_the_end = SavedTensors(copy), SavedTensors(copy), SavedTensors(copy)
    assert [steps_of(patient)[:1] for _ in range(PATIENCE_LOOKS)] == [[0], *[[]] * (PATIENCE_LOOKS - 2), [2]]
    assert steps_of(at_the_end, last=True)[:2] == [0, 2]
    for given_up in (patient, at_the_end):
        assert [sentence.partition(":")[0] for sentence in given_up.unreadable] == [f"{ONE} cannot be read"]
    assert steps_of(waiting) == [0]
    (copy / ONE).write_bytes(whole)
    assert steps_of(waiting)[0] == 1
    assert waiting.unreadable == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: path.write_bytes(b"\xff" * path.stat().st_size),
        lambda path: path.write_bytes(path.read_bytes()[:12] + b"\x07" * 4000),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    ],
)
def test_a_damaged_tensor_file_is_reported_and_the_others_are_read(copy: Path, damage: Callable[[Path], Any]) -> None:
    damage(copy / EVENTS)
    saved = SavedTensors(copy)
    steps_of(saved, last=True)
    with pytest.raises(TensorUnavailable):
        saved.tensor("ClassifierHead_hidden.weight").value(0, mode=Mode.TRAIN)
    assert saved.unreadable[0].startswith(f"{EVENTS} cannot be read: ")
    assert saved.tensor("ClassifierHead_hidden.weight").value(1, mode=Mode.TRAIN).shape == (1, 6, 12)
    with pytest.raises(TensorUnavailable, match="gradient/x was not saved at step 0 of mode EVAL"):
        saved.tensor("gradient/x").value(0, mode=Mode.EVAL)


def test_whatever_is_in_the_files_nothing_is_raised(tensors_dir: Path, tmp_path: Path) -> None:
    """Bytes cut off, flipped, put in; JSON of another kind; for three seconds at most."""
    source, random_, until = tensors_dir.parent, random.Random(29), time.monotonic() + 3
    foreign = [b"[]", b"null", b"[" * 100_000, b"\xff\xfe{", b'{"meta": 1, "tensor_payload": []}', b"1e999", b"{}"]
    files = [path.relative_to(source) for path in source.rglob("*worker_0*") if path.is_file()]
    for turn in range(40):
        if time.monotonic() > until:
            return
        run = Path(shutil.copytree(source, tmp_path / str(turn)))
        for path in random_.sample(files, 8):
            content = bytearray((run / path).read_bytes())
            place = random_.randrange(len(content) + 1)
            content[place:] = random_.choice([b"", random_.randbytes(3) + content[place + 3 :], content[place - 9 :]])
            (run / path).write_bytes(random_.choice([content, content, random_.choice(foreign)]))
        saved = SavedTensors(run / "tensors")
        for step in saved.new_steps(last=True):
            for name in saved.tensor_names(step=step.step, mode=step.mode):
                try:
                    saved.tensor(name).reduction_value(step.step, "mean", step.mode)
                except TensorUnavailable:
                    assert saved.unreadable
        assert read_record(run).missing
