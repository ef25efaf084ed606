"""What PrepareData stores, as later steps read it: shards by row, and arrays of several files as one."""

import pickle
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

CONTENTS = [np.random.default_rng(row).bytes(1 + 200 * row) for row in range(11)]
NAMES = [f"{row:016x}.{'png' if row % 2 else 'jpg'}" for row in range(11)]
LABELS = [row % 3 for row in range(11)]


def write(folder: Path) -> Path:
    """Shards of 4 images, by two instances."""
    folder.mkdir(parents=True)
    for instance, rows in enumerate((range(6), range(6, 11))):
        with closing(ImageWriter(folder, "train", instance, images_per_shard=4)) as shards:
            for row in rows:
                shards.add(NAMES[row], LABELS[row], CONTENTS[row])
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "train")


def test_every_row_is_read_as_it_was_written_also_by_threads_and_processes(folder: Path) -> None:
    images = PreparedImages(folder, "train")
    assert (images.labels.tolist(), images.labels.dtype) == (LABELS, np.int64)
    assert [images.name(row) for row in range(len(images))] == NAMES
    assert pickle.loads(pickle.dumps(images)).read(5) == CONTENTS[5]
    rows = np.random.default_rng(0).integers(0, 11, 200).tolist()
    pools = [ThreadPoolExecutor(8), *(ProcessPoolExecutor(2, get_context(method)) for method in ("fork", "spawn"))]
    for pool in pools:
        with pool:
            assert list(pool.map(images.read, rows)) == [CONTENTS[row] for row in rows]
    with pytest.raises(IndexError):
        images.read(11)


def test_webdataset_reads_the_shards(folder: Path) -> None:
    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    assert len(shards) == 4
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [name.partition(".")[0] for name in NAMES]
    assert [sample.get("png", sample.get("jpg")) for sample in samples] == CONTENTS
    assert [int(sample["cls"]) for sample in samples] == LABELS


def test_missing_and_shortened_shards_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(StepError, match=r"holds no prepared images of the train split\. Run PrepareData again"):
        PreparedImages(tmp_path, "train")
    shard = sorted(folder.glob("*.tar"))[-1]
    shard.write_bytes(shard.read_bytes()[:1600])
    with pytest.raises(StepError, match=rf"ends before {NAMES[10]} in {shard} does\. Run PrepareData again\.$"):
        PreparedImages(folder, "train").read(10)


WHOLE = np.random.default_rng(0).normal(size=(11, 4, 3)).astype(np.float16)
SOME, VIEWS = np.array([10, 0, 3, 4, 4, 9, 1]), np.array([0, 3, 2, 2, 1, 0, 3])


@pytest.mark.parametrize("cuts", [(), (4,), (4, 8), (1, 1, 10)])
def test_files_are_indexed_as_one_array(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    for number, rows in enumerate(np.split(WHOLE, cuts)):
        np.save(tmp_path / f"train-{number:06d}.npy", rows)
    array = StoredArray(sorted(tmp_path.iterdir()))
    assert (array.shape, len(array)) == (WHOLE.shape, 11)
    keys: list[Any] = [slice(None), slice(2, 7), (slice(0, 11), 0), (slice(6, 100), slice(None))]
    keys += [(slice(0, 5), slice(0, 2)), SOME, SOME - 11, (SOME, 0), (SOME, VIEWS), (SOME[:0], 0)]
    for key in keys:
        found = array[key]
        assert (type(found), found.flags.writeable) == (np.ndarray, True)
        np.testing.assert_array_equal(found, WHOLE[key])
    for key in (np.array([11]), (np.array([0, 11]), 0), (slice(0, 1), 4)):
        with pytest.raises(IndexError):
            array[key]
