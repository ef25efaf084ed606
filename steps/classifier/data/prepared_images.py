"""Prepared images: a split's encoded image files in tar shards, written once and read by row.

`train/train-000000.tar` holds consecutive images of the manifest's order as WebDataset has it: `KEY.png` or `KEY.jpg`,
and `KEY.cls`, the label. A job can stream it. `train-000000.index` beside it says where each image lies, so that any
row takes one read. A split's folder is enough to read it; rows are those of its embeddings.

Which images make a shard follows from the data alone, and a shard's bytes from its images: N instances write the same
files as one does.
"""

import io
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classifier.job.failures import StepError
from classifier.job.open_files import OpenFiles

INDEX_ENDING = ".index"  # in NumPy's format
MODE = 0o644
REMEDY = "Run PrepareData again"

# One image in a shard's index; where its file begins in the tar, and how long it is, in bytes.
INDEX_ROW = np.dtype([("offset", "<i8"), ("size", "<i4"), ("label", "<i4"), ("name", "S24")])


class PreparedImages:
    """One split's prepared images, by row.

    Opening reads the indexes only. Any number of threads may read. Worker processes may inherit it or be given it:
    it pickles without open files.

    Args:
        folder: The split's folder in PrepareData's output, or the channel that is made of it.
        split: Its name: train, validation or test.

    Raises:
        StepError: Shards are missing or cut off.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = folder, split
        self._shards = shard_files(folder, split)
        indexes = [_read_index(shard) for shard in self._shards]
        self._starts = np.cumsum([0, *map(len, indexes)])
        self._index = np.concatenate(indexes)
        self.labels: npt.NDArray[np.int64] = self._index["label"].astype(np.int64)  # (N,)
        self._files = OpenFiles(self._shards)

    def __len__(self) -> int:
        return len(self._index)

    def name(self, row: int) -> str:
        """The image's file name: 16 digits of its original's sha256, and .png or .jpg."""
        return str(self._index["name"][row].decode())

    def place(self, row: int) -> str:
        """Where the image lies, for a sentence."""
        return f"{self.name(row)} in {self._shard_of(row)[1]}"

    def read(self, row: int) -> bytes:
        """The encoded image file's content."""
        number, path = self._shard_of(row)
        offset, size = (int(self._index[field][row]) for field in ("offset", "size"))
        content = self._files.read(number, size, offset)
        if len(content) < size:
            raise StepError(f"{path} ends before {self.name(row)} does. {REMEDY}.")
        return content

    def _shard_of(self, row: int) -> tuple[int, Path]:
        if not 0 <= row < len(self):
            raise IndexError(f"There are {len(self)} rows, but row {row} was asked for.")
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return number, self._shards[number]


class ShardWriter:
    """Writes one shard and its index: all of it or nothing. Ends with `close` or `abandon`."""

    def __init__(self, folder: Path, split: str, number: int) -> None:
        self.path = folder / f"{shard_name(split, number)}.tar"
        self._unfinished = self.path.with_name(f".{self.path.name}")
        self._rows: list[tuple[int, int, int, bytes]] = []
        self._tar = tarfile.open(self._unfinished, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - until it is closed

    def add(self, name: str, label: int, content: bytes) -> None:
        """The next image: its file and its label."""
        offset = self._add(name, content)
        self._add(f"{name.partition('.')[0]}.cls", str(label).encode())
        self._rows.append((offset, len(content), label, name.encode()))

    def close(self) -> None:
        """What was added appears."""
        self._tar.close()
        index = index_of(self.path)
        unfinished_index = index.with_name(f".{index.name}")
        with unfinished_index.open("wb") as file:
            np.save(file, np.array(self._rows, INDEX_ROW))
        self._unfinished.replace(self.path)
        unfinished_index.replace(index)  # last: a shard without an index is none

    def abandon(self) -> None:
        """Nothing appears."""
        self._tar.close()
        self._unfinished.unlink(missing_ok=True)

    def _add(self, name: str, content: bytes) -> int:
        """The content's place in the tar. Time and owner would differ from run to run; here they are 0."""
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), MODE
        offset = self._tar.offset + tarfile.BLOCKSIZE
        self._tar.addfile(member, io.BytesIO(content))
        return offset


def shard_name(split: str, number: int) -> str:
    """Without its ending: `train-000000`."""
    return f"{split}-{number:06d}"


def index_of(shard: Path) -> Path:
    """The index beside a shard."""
    return shard.with_name(f"{shard.stem}{INDEX_ENDING}")


def shard_files(folder: Path, split: str) -> list[Path]:
    """All shards of a split that have an index, in the rows' order.

    Raises:
        StepError: There is none, or one between others is missing.
    """
    pattern = re.compile(rf"{re.escape(split)}-\d{{6,}}{re.escape(INDEX_ENDING)}")
    names = [path.name for path in folder.iterdir() if pattern.fullmatch(path.name)] if folder.is_dir() else []
    if not names:
        raise StepError(f"{folder} holds no prepared images of the {split} split, which PrepareData writes. {REMEDY}.")
    numbers = {int(name.removesuffix(INDEX_ENDING).rpartition("-")[2]) for name in names}
    missing = sorted(set(range(max(numbers) + 1)) - numbers)
    if missing:
        raise StepError(f"{folder} lacks {shard_name(split, missing[0])}{INDEX_ENDING}. {REMEDY}.")
    return [folder / f"{shard_name(split, number)}.tar" for number in sorted(numbers)]


def _read_index(shard: Path) -> npt.NDArray[Any]:
    """(images of the shard,) INDEX_ROW, of a shard that is there as a whole."""
    path = index_of(shard)
    try:
        rows: npt.NDArray[Any] = np.load(path, allow_pickle=False)
        size = shard.stat().st_size
    except FileNotFoundError as error:
        raise StepError(f"{error.filename} is missing. {REMEDY}.") from None
    except (ValueError, EOFError) as error:
        raise StepError(f"{path} is no index of a shard ({error}). {REMEDY}.") from None
    if rows.dtype != INDEX_ROW or not len(rows):
        raise StepError(f"{path} is no index of a shard. {REMEDY}.")
    if size < int(rows["offset"][-1]) + int(rows["size"][-1]):
        raise StepError(f"{shard} is cut off: it has {size:,} bytes, and images lie beyond them. {REMEDY}.")
    return rows
