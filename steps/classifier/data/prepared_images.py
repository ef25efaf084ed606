"""Prepared images: a split's encoded image files in WebDataset shards, written once and read by row.

`train/train-000000.tar` holds consecutive images of the manifest's order: `KEY.cls`, the label, and `KEY.png` or
`KEY.jpg`. WebDataset reads it as a stream. `train-000000.npy` beside it says where each image lies, so that any row
takes one read, of a file on S3 as on a disk.
"""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classifier.job.failures import StepError

IMAGES_PER_SHARD = 1024  # photos take about 130 MB as PNG, and a third of that as JPEG
SHARDS_PER_INSTANCE = 10_000  # numbers that are kept for each
REMEDY = "Run PrepareData again"

# One image in a shard's index; where its file begins in the tar, and how long it is, in bytes.
INDEX_ROW = np.dtype([("offset", "<i8"), ("size", "<i4"), ("label", "<i4"), ("name", "S24")])


class PreparedImages:
    """One split's prepared images, by row; threads and other processes may share it.

    Args:
        folder: The split's folder in PrepareData's output, or the channel that is made of it.
        split: Its name: train, validation or test.

    Raises:
        StepError: Shards are missing or cut off.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self._shards = sorted(folder.glob(f"{split}-*.tar"))
        if not self._shards:
            raise StepError(f"{folder} holds no prepared images of the {split} split. {REMEDY}.")
        indexes = [_read_index(shard) for shard in self._shards]
        self._starts = np.cumsum([0, *map(len, indexes)])
        self._index = np.concatenate(indexes)
        self.labels: npt.NDArray[np.int64] = self._index["label"].astype(np.int64)  # (N,)

    def __len__(self) -> int:
        return len(self._index)

    def name(self, row: int) -> str:
        """Return the image's file name: 16 digits of its original's sha256, and .png or .jpg."""
        return str(self._index["name"][row].decode())

    def place(self, row: int) -> str:
        """Return where the image lies, for a sentence."""
        return f"{self.name(row)} in {self._shard_of(row)}"

    def read(self, row: int) -> bytes:
        """Return the encoded image file's content."""
        shard, size = self._shard_of(row), int(self._index["size"][row])
        with shard.open("rb") as file:
            file.seek(int(self._index["offset"][row]))
            content = file.read(size)
        if len(content) < size:
            raise StepError(f"{shard} ends before {self.name(row)} does. {REMEDY}.")
        return content

    def _shard_of(self, row: int) -> Path:
        if not 0 <= row < len(self):
            raise IndexError(f"There are {len(self)} rows, but row {row} was asked for.")
        return self._shards[int(np.searchsorted(self._starts, row, side="right")) - 1]


class ImageWriter:
    """Writes a split's shards with their indexes, or an instance's part of them. Close it."""

    def __init__(
        self, folder: Path, split: str, *, instance: int = 0, images_per_shard: int = IMAGES_PER_SHARD
    ) -> None:
        import webdataset  # only those who write need it

        pattern, first = f"{folder}/{split}-%06d.tar", instance * SHARDS_PER_INSTANCE
        self._shards = webdataset.ShardWriter(
            pattern, images_per_shard, start_shard=first, post=_write_index, verbose=0, mtime=0
        )
        self.close = self._shards.close

    def add(self, name: str, label: int, content: bytes) -> None:
        """Append an image file of that name."""
        key, _, ending = name.partition(".")
        self._shards.write({"__key__": key, "cls": label, ending: content})


def _write_index(shard: str) -> None:
    with tarfile.open(shard) as tar:
        members = tar.getmembers()
        rows = [
            (image.offset_data, image.size, int(tar.extractfile(label).read()), image.name)  # type: ignore[union-attr]
            for label, image in zip(members[::2], members[1::2], strict=True)
        ]
    np.save(Path(shard).with_suffix(".npy"), np.array(rows, INDEX_ROW))


def _read_index(shard: Path) -> npt.NDArray[Any]:
    """Return (images of the shard,) INDEX_ROW, of a shard that is complete."""
    path = shard.with_suffix(".npy")
    try:
        rows: npt.NDArray[Any] = np.load(path, allow_pickle=False)
        end = int(rows["offset"][-1]) + int(rows["size"][-1]) if len(rows) else 0
    except (OSError, ValueError, EOFError, LookupError) as error:
        raise StepError(f"{path} is no index of a shard ({error}). {REMEDY}.") from None
    if shard.stat().st_size < end:
        raise StepError(f"{shard} is cut off: it has {shard.stat().st_size:,} bytes, and images lie beyond. {REMEDY}.")
    return rows
