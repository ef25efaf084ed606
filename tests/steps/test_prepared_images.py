"""Shards of prepared images: any row with one read, from threads and other processes, and the same bytes every time."""

import os
import pickle
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from classifier.data.prepared_images import PreparedImages, ShardWriter
from classifier.job import open_files
from classifier.job.failures import StepError

SIZES = (4, 4, 3)  # images of the shards


def content(row: int) -> bytes:
    """A file that no other row has, of 1 byte and more."""
    return np.random.default_rng(row).bytes(1 + 200 * row)


def name(row: int) -> str:
    return f"{row:016x}.{'png' if row % 2 else 'jpg'}"


def write(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rows: Iterator[int] = iter(range(sum(SIZES)))
    for number, size in enumerate(SIZES):
        with closing(ShardWriter(folder, "train", number)) as shard:
            for _, row in zip(range(size), rows, strict=False):
                shard.add(name(row), row % 3, content(row))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "train")


def test_every_row_is_read_as_it_was_written(folder: Path) -> None:
    images = PreparedImages(folder, "train")
    assert len(images) == 11
    assert (images.labels.tolist(), images.labels.dtype) == ([row % 3 for row in range(11)], np.int64)
    for row in (10, 0, 4, 3, 7, 7):
        assert (images.name(row), images.read(row)) == (name(row), content(row))
    for row in (11, -1):
        with pytest.raises(IndexError, match=rf"^There are 11 rows, but row {row} was asked for\.$"):
            images.read(row)


def test_a_shard_is_a_tar_of_files_and_labels(folder: Path) -> None:
    with tarfile.open(folder / "train-000001.tar") as tar:
        members = tar.getmembers()
        assert [member.name for member in members[:4]] == [name(4), f"{4:016x}.cls", name(5), f"{5:016x}.cls"]
        assert {(m.mtime, m.uid, m.gid, m.mode, m.uname, m.gname) for m in members} == {(0, 0, 0, 0o644, "", "")}
        assert tar.extractfile(members[2]).read() == content(5)
        assert tar.extractfile(members[3]).read() == b"2"


def test_the_same_images_make_the_same_bytes(tmp_path: Path, folder: Path) -> None:
    again = write(tmp_path / "again")
    for path in sorted(folder.iterdir()):
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_threads_read_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "OPEN_AT_A_TIME", 1)  # files are closed and opened all the time
    images = PreparedImages(folder, "train")
    rows = np.random.default_rng(0).integers(0, 11, 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(images.read, rows)) == [content(row) for row in rows]


def test_a_file_stays_open_while_another_thread_lets_go_of_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, pread = PreparedImages(folder, "train"), os.pread

    def late(descriptor: int, size: int, offset: int) -> bytes:
        images._files._open.clear()
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", late)
    assert images.read(5) == content(5)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_what_is_handed_to_them(folder: Path, method: str) -> None:
    images = PreparedImages(folder, "train")
    images.read(0)
    with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
        assert list(pool.map(images.read, range(11))) == [content(row) for row in range(11)]
    assert pickle.loads(pickle.dumps(images)).read(5) == content(5)


def test_nothing_is_left_of_a_shard_that_was_not_finished(tmp_path: Path) -> None:
    shard = ShardWriter(tmp_path, "train", 0)
    shard.add(name(0), 0, content(0))
    assert "holds no prepared images" in refusal(tmp_path)
    shard.abandon()
    assert list(tmp_path.iterdir()) == []


def refusal(folder: Path) -> str:
    with pytest.raises(StepError) as error:
        PreparedImages(folder, "train")
    return str(error.value)


def test_what_is_missing_or_cut_off_is_named(folder: Path) -> None:
    shard, index = folder / "train-000001.tar", folder / "train-000001.index"
    whole, rows = shard.read_bytes(), index.read_bytes()
    shard.write_bytes(whole[:3000])
    assert refusal(folder) == (
        f"{shard} is cut off: it has 3,000 bytes, and images lie beyond them. Run PrepareData again."
    )
    shard.unlink()
    assert refusal(folder) == f"{shard} is missing. Run PrepareData again."
    index.write_bytes(rows[:20])
    assert refusal(folder).startswith(f"{index} is no index of a shard (")
    index.unlink()
    assert refusal(folder) == f"{folder} lacks train-000001.index. Run PrepareData again."
    for path in folder.iterdir():
        path.unlink()
    sentence = f"{folder} holds no prepared images of the train split, which PrepareData writes. Run PrepareData again."
    assert refusal(folder) == sentence


def test_a_shard_that_shrinks_after_it_was_opened_is_said(folder: Path) -> None:
    images = PreparedImages(folder, "train")
    shard = folder / "train-000002.tar"
    shard.write_bytes(shard.read_bytes()[:6000])
    with pytest.raises(StepError, match=rf"^{shard} ends before {name(10)} does\. Run PrepareData again\.$"):
        images.read(10)
