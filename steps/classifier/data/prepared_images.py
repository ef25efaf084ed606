"""Prepared images: a split's encoded image files in WebDataset shards, written once and read by row.

`train/train-000000.tar` holds consecutive images of the manifest's order: `KEY.cls`, the label, and `KEY.png` or
`KEY.jpg`. `train-000000.npy` beside it says where each lies, so that a row takes one read, on S3 as on a disk.
"""

import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from classifier.job.failures import StepError

IMAGES_PER_SHARD = 1024  # photos take about 130 MB as PNG, and a third of that as JPEG
SHARDS_PER_INSTANCE = 10_000  # numbers that are kept for each
SAMPLES = "samples"  # folder of a few real images, in the manifest output and in the model

# One image in a shard's index; where its file begins in the tar, and how long it is, in bytes.
INDEX_ROW = np.dtype([("offset", "<i8"), ("size", "<i4"), ("label", "<i4"), ("name", "S24")])


class PreparedImages:
    """The images of a split, by row, from its folder; threads and other processes may share it."""

    def __init__(self, folder: Path, split: str) -> None:
        self._shards = sorted(folder.glob(f"{split}-*.tar"))
        if not self._shards:
            raise StepError(f"{folder} holds no prepared images of the {split} split. Run PrepareData again.")
        indexes = [np.load(shard.with_suffix(".npy")) for shard in self._shards]
        self._index, self._ends = np.concatenate(indexes), np.cumsum([len(index) for index in indexes])
        self.labels: npt.NDArray[np.int64] = self._index["label"].astype(np.int64)  # (N,)

    def __len__(self) -> int:
        return len(self._index)

    def name(self, row: int) -> str:
        """Return the image's file name: 16 digits of its original's sha256, and .png or .jpg."""
        return str(self._index["name"][row].decode())

    @property
    def names(self) -> list[str]:
        """The images' file names, by row."""
        return [self.name(row) for row in range(len(self))]

    def place(self, row: int) -> str:
        """Return where the image lies, for a sentence."""
        return f"{self.name(row)} in {self._shards[int(np.searchsorted(self._ends, row, side='right'))]}"

    def read(self, row: int) -> bytes:
        """Return the encoded image file's content."""
        offset, size, _, _ = self._index[row].item()
        with self._shards[int(np.searchsorted(self._ends, row, side="right"))].open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) < size:
            raise StepError(f"The shard ends before {self.place(row)} does. Run PrepareData again.")
        return content


class ImageWriter:
    """Writes a split's shards with their indexes, or an instance's part of them. Close it."""

    def __init__(self, folder: Path, split: str, instance: int = 0, images_per_shard: int = IMAGES_PER_SHARD) -> None:
        import webdataset  # only those who write need it

        settings = {"start_shard": instance * SHARDS_PER_INSTANCE, "post": write_index, "verbose": 0, "mtime": 0}
        self._shards = webdataset.ShardWriter(f"{folder}/{split}-%06d.tar", images_per_shard, **settings)
        self.close = self._shards.close

    def add(self, name: str, label: int, content: bytes) -> None:
        """Append an image file of that name."""
        key, _, ending = name.partition(".")
        self._shards.write({"__key__": key, "cls": label, ending: content})


def write_index(shard: str) -> None:
    """Write where each image of a complete shard lies, beside it."""
    with tarfile.open(shard) as tar:
        members = tar.getmembers()
        rows = [
            (image.offset_data, image.size, int(tar.extractfile(label).read()), image.name)  # type: ignore[union-attr]
            for label, image in zip(members[::2], members[1::2], strict=True)
        ]
    np.save(Path(shard).with_suffix(".npy"), np.array(rows, INDEX_ROW))


def sample_files(parent: Path) -> list[Path]:
    """Return the real images that travel with the manifest and with the model, which an endpoint proves itself on."""
    return sorted((parent / SAMPLES).glob("*"))
