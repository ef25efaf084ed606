"""Several files as one array: every way to ask gives what NumPy gives for the whole."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classifier.data.parts import PartedArray, part_files, part_name
from classifier.job import open_files
from classifier.job.failures import StepError
from classifier.job.instances import Instance, read_instance

WHOLE = np.random.default_rng(0).normal(size=(11, 4, 3)).astype(np.float16)
ROWS = np.array([10, 0, 3, 4, 4, 9, 1])
VIEWS = np.array([0, 3, 2, 2, 1, 0, 3])
KEYS = [
    (slice(0, 11), 0),
    (slice(2, 7), 1),
    (slice(4, 4), 0),
    (slice(6, 100), slice(None)),
    slice(None),
    (ROWS, VIEWS),
    (ROWS, 0),
    ROWS,
    ROWS - 11,
    (ROWS[:0], 0),
    3,
    -1,
    (7, 2),
    (slice(0, 5), slice(0, 2)),
    (-3, slice(1, 3)),
    (ROWS[:0], VIEWS[:0]),
]


Parted = Callable[..., PartedArray]


@pytest.fixture
def parted(tmp_path: Path) -> Parted:
    """WHOLE in several files, cut before these rows."""

    def write(*cuts: int) -> PartedArray:
        files = []
        for number, rows in enumerate(np.split(WHOLE, cuts)):
            files.append(tmp_path / f"{part_name('train', number)}.npy")
            np.save(files[-1], rows)
        return PartedArray([np.load(file, mmap_mode="r") for file in files])

    return write


@pytest.mark.parametrize("cuts", [[], [4], [4, 8], [1, 2, 10]])
@pytest.mark.parametrize("key", KEYS, ids=str)
def test_parts_are_indexed_as_one_array(parted: Parted, cuts: list[int], key: Any) -> None:
    array = parted(*cuts)
    assert (array.shape, array.ndim, array.dtype, len(array)) == (WHOLE.shape, 3, np.float16, 11)
    np.testing.assert_array_equal(array[key], WHOLE[key])
    np.testing.assert_array_equal(np.asarray(array), WHOLE)


def test_more_files_than_may_be_open_are_read(parted: Parted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "OPEN_AT_A_TIME", 2)
    np.testing.assert_array_equal(parted(*range(1, 11))[ROWS, VIEWS], WHOLE[ROWS, VIEWS])


def test_rows_and_views_outside_are_refused(parted: Parted) -> None:
    array = parted(4)
    with pytest.raises(IndexError, match=r"^There are 11 rows, but rows 3 to 11 were asked for\.$"):
        array[np.array([3, 11])]
    with pytest.raises(IndexError, match=r"^There are 4 views, but views -5 to 0 were asked for\.$"):
        array[np.array([3, 1]), np.array([0, -5])]
    with pytest.raises(IndexError, match=r"^Rows of several parts can be sliced without a step"):
        array[::2]


def test_a_file_that_is_cut_off_is_said(parted: Parted, tmp_path: Path) -> None:
    array, last = parted(4), tmp_path / "train-00001.npy"
    last.write_bytes(last.read_bytes()[:-1])
    np.testing.assert_array_equal(array[:10], WHOLE[:10])
    with pytest.raises(StepError, match=rf"^{last} is cut off\. Run PrepareData again\.$"):
        array[10]


def test_parts_of_different_shapes_are_refused(tmp_path: Path) -> None:
    for number, width in enumerate((3, 4)):
        np.save(tmp_path / f"{number}.npy", np.zeros((2, 2, width), np.float16))
    with pytest.raises(StepError, match=rf"^{tmp_path}/0\.npy and the other parts of its split have different shapes"):
        PartedArray([np.load(tmp_path / f"{number}.npy", mmap_mode="r") for number in range(2)])


def test_files_are_found_in_the_rows_order(tmp_path: Path) -> None:
    names = [part_name("train", number) for number in (10, 2, 0)]
    others = ["train_labels", "validation-00000", "train-00000_input_means", "pretrain-00000"]
    for name in [*names, *others]:
        (tmp_path / f"{name}.npy").touch()
    assert [path.name for path in part_files(tmp_path, "train")] == [
        f"train-{n}.npy" for n in ("00000", "00002", "00010")
    ]
    assert [path.stem for path in part_files(tmp_path, "train", "_input_means")] == ["train-00000_input_means"]
    assert part_files(tmp_path / "missing", "train") == []


def test_instances_share_everything_once(tmp_path: Path) -> None:
    hosts = [f"algo-{number}" for number in range(1, 13)]
    instances = [written(tmp_path, current_host=host, hosts=hosts) for host in hosts]
    assert [instance.is_first for instance in instances].count(True) == 1
    assert written(tmp_path, current_host="algo-1", hosts=hosts).is_first
    assert sorted(item for instance in instances for item in instance.share(range(50))) == list(range(50))


def test_without_a_file_there_is_one_instance(tmp_path: Path) -> None:
    assert read_instance(None) == read_instance(tmp_path / "none") == Instance(0, 1)
    assert Instance().share("abc") == ["a", "b", "c"]


def test_a_host_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError) as error:
        written(tmp_path, current_host="algo-3", hosts=["algo-1"])
    assert str(error.value) == (
        f"{tmp_path}/resourceconfig.json must name current_host, and that among hosts, but does not "
        "(ValueError(\"'algo-3' is not in list\"))."
    )


def written(folder: Path, **described: Any) -> Instance:
    """What is read from such a resourceconfig.json."""
    file = folder / "resourceconfig.json"
    file.write_text(json.dumps(described))
    return read_instance(file)
