"""What PrepareData stores, as later steps read it: shards by row, and arrays of several files as one."""

import pickle
import tarfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from classifier.data.prepared_images import ImageWriter, PreparedImages
from classifier.data.training_data import StoredArray
from classifier.job.failures import StepError

ROWS = range(11)


def content(row: int) -> bytes:
    """A file that no other row has, of 1 byte and more."""
    return np.random.default_rng(row).bytes(1 + 200 * row)


def name(row: int) -> str:
    return f"{row:016x}.{'png' if row % 2 else 'jpg'}"


def write(folder: Path) -> Path:
    """Shards of 4 images, by two instances."""
    folder.mkdir(parents=True)
    for instance, rows in enumerate((ROWS[:6], ROWS[6:])):
        with closing(ImageWriter(folder, "train", instance=instance, images_per_shard=4)) as shards:
            for row in rows:
                shards.add(name(row), row % 3, content(row))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "train")


def test_every_row_is_read_as_it_was_written(folder: Path) -> None:
    images = PreparedImages(folder, "train")
    assert (images.labels.tolist(), images.labels.dtype) == ([row % 3 for row in ROWS], np.int64)
    for row in (10, 0, 4, 3, 7, 7):
        assert (images.name(row), images.read(row)) == (name(row), content(row))
    for row in (11, -1):
        with pytest.raises(IndexError, match=rf"^There are 11 rows, but row {row} was asked for\.$"):
            images.read(row)


def test_webdataset_reads_the_shards(folder: Path) -> None:
    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    assert len(shards) == 4
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{row:016x}" for row in ROWS]
    assert [sample.get("png", sample.get("jpg")) for sample in samples] == [content(row) for row in ROWS]
    assert [int(sample["cls"]) for sample in samples] == [row % 3 for row in ROWS]


def test_the_same_images_make_the_same_bytes(tmp_path: Path, folder: Path) -> None:
    again = write(tmp_path / "again")
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    with tarfile.open(next(folder.glob("*.tar"))) as tar:
        assert {member.mtime for member in tar} == {0}


@pytest.mark.parametrize(
    "pool",
    [lambda: ThreadPoolExecutor(8), *(lambda m=m: ProcessPoolExecutor(2, get_context(m)) for m in ("fork", "spawn"))],
)
def test_threads_and_processes_read_at_once(folder: Path, pool: Callable[[], Any]) -> None:
    images = PreparedImages(folder, "train")
    rows = np.random.default_rng(0).integers(0, 11, 200).tolist()
    with pool() as executor:
        assert list(executor.map(images.read, rows)) == [content(row) for row in rows]
    assert pickle.loads(pickle.dumps(images)).read(5) == content(5)


def damage(folder: Path, what: str) -> None:
    shard, index = folder / "train-000001.tar", folder / "train-000001.npy"
    if what == "cut":
        shard.write_bytes(shard.read_bytes()[:1000])
    elif what == "no index":
        index.unlink()
    elif what == "cut index":
        index.write_bytes(index.read_bytes()[:20])
    elif what == "other index":
        np.save(index, np.arange(3))
    else:
        for path in folder.iterdir():
            path.unlink()


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("cut", "{}/train-000001.tar is cut off: it has 1,000 bytes, and images lie beyond."),
        ("no index", "{}/train-000001.npy is no index of a shard ([Errno 2]"),
        ("cut index", "{}/train-000001.npy is no index of a shard (EOF"),
        ("other index", "{}/train-000001.npy is no index of a shard (only"),
        ("nothing", "{} holds no prepared images of the train split."),
    ],
)
def test_what_is_missing_or_damaged_is_named(folder: Path, what: str, sentence: str) -> None:
    damage(folder, what)
    with pytest.raises(StepError) as error:
        PreparedImages(folder, "train")
    assert str(error.value).startswith(sentence.format(folder))
    assert str(error.value).endswith("Run PrepareData again.")


def test_a_shard_that_shrinks_after_it_was_opened_is_named(folder: Path) -> None:
    images = PreparedImages(folder, "train")
    shard = sorted(folder.glob("*.tar"))[-1]
    shard.write_bytes(shard.read_bytes()[:1600])
    with pytest.raises(StepError, match=rf"^{shard} ends before {name(10)} does\. Run PrepareData again\.$"):
        images.read(10)


WHOLE = np.random.default_rng(0).normal(size=(11, 4, 3)).astype(np.float16)
SOME, VIEWS = np.array([10, 0, 3, 4, 4, 9, 1]), np.array([0, 3, 2, 2, 1, 0, 3])


def stored(folder: Path, *cuts: int) -> StoredArray:
    """WHOLE in several files, cut before these rows."""
    files = []
    for number, rows in enumerate(np.split(WHOLE, cuts)):
        files.append(folder / f"train-{number:06d}.npy")
        np.save(files[-1], rows)
    return StoredArray(files)


@pytest.mark.parametrize("cuts", [(), (4,), (4, 8), (1, 1, 10)])
@pytest.mark.parametrize(
    "key",
    [
        *(slice(None), slice(2, 7), (slice(0, 11), 0), (slice(6, 100), slice(None)), (slice(0, 5), slice(0, 2))),
        *(SOME, SOME - 11, (SOME, 0), (SOME, VIEWS), (SOME[:0], 0)),
    ],
    ids=str,
)
def test_files_are_indexed_as_one_array(tmp_path: Path, cuts: tuple[int, ...], key: Any) -> None:
    array = stored(tmp_path, *cuts)
    assert (array.shape, array.ndim, array.dtype, len(array)) == (WHOLE.shape, 3, np.float16, 11)
    found = array[key]
    assert (type(found), found.flags.writeable) == (np.ndarray, True)
    np.testing.assert_array_equal(found, WHOLE[key])


@pytest.mark.parametrize("cuts", [(), (4,)])
def test_what_is_not_there_is_refused(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    array = stored(tmp_path, *cuts)
    for key in (np.array([11]), (np.array([0, 11]), 0), (slice(0, 1), 4)):
        with pytest.raises(IndexError):
            array[key]
    np.save(tmp_path / "train-000009.npy", WHOLE[:, :2])
    with pytest.raises(StepError, match=r"have different shapes or types"):
        StoredArray([tmp_path / "train-000000.npy", tmp_path / "train-000009.npy"])
    (tmp_path / "train-000000.npy").write_bytes((tmp_path / "train-000000.npy").read_bytes()[:-10])
    with pytest.raises(StepError, match=r"train-000000.npy is not a NumPy array \(.+\)\. Run PrepareData again"):
        StoredArray([tmp_path / "train-000000.npy"])
