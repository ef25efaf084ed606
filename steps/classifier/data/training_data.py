"""What train.py reads: the embeddings channel and the manifest channel, checked against each other.

The former holds for each split, in the rows' order of manifest/images.jsonl, `SPLIT_labels.npy` (images,) int64, and of
each instance of PrepareData `SPLIT-000000.npy` (images, views, D) float16 and `SPLIT-000000_means.npy` (images, 3).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classifier.job.failures import StepError

REMEDY = "Run PrepareData again and train on its output"
MAPPED_BYTES, PAGE_BYTES = 64 << 20, 4096  # the former is touched before files are mapped anew


class StoredArray:
    """Rows of .npy files as one array (N, ...) on disk, indexed as NumPy does, by rows (a slice or an array) first.

    What a mapping has ever touched counts as the process's memory, so files are mapped anew once in a while.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        arrays: list[Any] = [np.load(file, mmap_mode="r") for file in files]
        self._files: list[Any] = [(array.filename, array.dtype, "r", array.offset, array.shape) for array in arrays]
        self._starts = np.cumsum([0, *map(len, arrays)])
        self.shape: tuple[int, ...] = (int(self._starts[-1]), *arrays[0].shape[1:])
        self._rows, self._row_bytes = np.arange(len(self)), PAGE_BYTES + arrays[0].nbytes // max(1, len(arrays[0]))
        self._arrays, self._touched_bytes = list[npt.NDArray[Any]](), MAPPED_BYTES

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        index, *rest = key if isinstance(key, tuple) else (key,)
        rows = self._rows[index]  # raises as NumPy does
        self._touched_bytes += len(rows) * self._row_bytes
        if self._touched_bytes > MAPPED_BYTES:
            self._arrays, self._touched_bytes = [np.asarray(np.memmap(*file)) for file in self._files], 0
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        places = [np.flatnonzero(numbers == number) for number in range(len(self._arrays))]
        found = []
        for array, start, place in zip(self._arrays, self._starts, places, strict=False):
            own = (other[place] if isinstance(other, np.ndarray) else other for other in rest)
            found.append(array[(rows[place] - start, *own)])
        result: npt.NDArray[Any] = np.concatenate(found)
        result[np.concatenate(places)] = result.copy()
        return result


@dataclass(frozen=True)
class Split:
    """One split's images as the backbone sees them."""

    embeddings: StoredArray  # (N, views, D) float16, on disk; view 0 is the plain centre crop
    labels: npt.NDArray[np.int64]  # (N,) index into classes
    input_means: npt.NDArray[np.float32] | None = None  # (N, 3): each plain view's, as the network sees it, normalised
    groups: npt.NDArray[np.int64] | None = None  # (N,): equal for images of one group, which are never told apart

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class TrainingData:
    """Both splits that training reads, and the manifest that describes them."""

    manifest: dict[str, Any]
    train: Split
    validation: Split

    @property
    def classes(self) -> list[str]:
        return list(self.manifest["classes"])

    @property
    def feature_dim(self) -> int:
        return int(self.train.embeddings.shape[2])


def join(arrays: Sequence[npt.NDArray[Any] | None]) -> npt.NDArray[Any] | None:
    """Return the splits' arrays one after another, if all are there."""
    found = [array for array in arrays if array is not None]
    return np.concatenate(found) if len(found) == len(arrays) else None


def load(embeddings_dir: Path, manifest_dir: Path) -> TrainingData:
    """Open both channels. Raises a StepError if they are not of one run of PrepareData."""
    manifest = read_manifest(manifest_dir)
    return TrainingData(manifest, *(open_split(embeddings_dir, name, manifest) for name in ("train", "validation")))


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return manifest.json as PrepareData wrote it."""
    return dict(json.loads((directory / "manifest.json").read_text(encoding="utf-8")))


def read_listing(directory: Path) -> list[dict[str, Any]]:
    """Return what images.jsonl says of each image, in the rows' order of each split."""
    lines = (directory / "images.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def open_embeddings(directory: Path, split: str) -> StoredArray:
    """Return a split's embeddings, (N, views, D) float16."""
    return StoredArray(sorted(directory.glob(f"{split}-[0-9]*[0-9].npy")))


def open_split(directory: Path, name: str, manifest: dict[str, Any]) -> Split:
    """Open a split's embeddings, labels and input means."""
    embeddings, labels = open_embeddings(directory, name), np.load(directory / f"{name}_labels.npy")
    means = [np.load(path) for path in sorted(directory.glob(f"{name}-*_means.npy"))]
    dim, listed = manifest["backbone"]["feature_dim"], sum(manifest["counts"][name].values())
    if embeddings.shape[2:] != (dim,) or not len(embeddings) == len(labels) == listed:
        raise StepError(
            f"The {name} split has embeddings of shape {embeddings.shape} and {len(labels)} labels, but manifest.json "
            f"lists {listed} images with {dim} features: they belong to different data. {REMEDY}."
        )
    groups = directory / f"{name}_groups.npy"  # of earlier versions there is none
    return Split(
        embeddings, labels, np.concatenate(means) if means else None, np.load(groups) if groups.exists() else None
    )
