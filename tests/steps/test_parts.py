"""Several files as one array: every way to ask gives what NumPy gives for the whole."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from failures import StepError
from instances import Instance, read_instance
from parts import PartedArray, part_files, part_name

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
    (slice(0, 5), VIEWS[:2]),
]


@pytest.mark.parametrize("cuts", [[], [4], [4, 8], [1, 2, 10]])
@pytest.mark.parametrize("key", KEYS, ids=str)
def test_parts_are_indexed_as_one_array(cuts: list[int], key: Any) -> None:
    parted = PartedArray(np.split(WHOLE, cuts))
    assert (parted.shape, parted.ndim, parted.dtype, len(parted)) == (WHOLE.shape, 3, np.float16, 11)
    np.testing.assert_array_equal(parted[key], WHOLE[key])
    np.testing.assert_array_equal(np.asarray(parted), WHOLE)


def test_rows_outside_are_refused() -> None:
    parted = PartedArray(np.split(WHOLE, [4]))
    with pytest.raises(IndexError, match=r"^There are 11 rows, but row 3 to 11 were asked for\.$"):
        parted[np.array([3, 11])]
    with pytest.raises(IndexError, match=r"^Rows of several parts can be sliced without a step"):
        parted[::2]


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
