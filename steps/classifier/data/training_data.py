"""What train.py reads: the embeddings channel and the manifest channel, checked against each other.

The embeddings channel holds for each split SPLIT, in the rows' order of manifest/images.jsonl:
`SPLIT-000000.npy` (images, views, D) float16, one such file for each instance of PrepareData, `SPLIT-000000_means.npy`
(images, 3) float32 beside it, and `SPLIT_labels.npy` (images,) int64.
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


class StoredArray:
    """Rows of .npy files as one array (N, ...) on disk, of which an index reads what it asks for.

    It is indexed by rows first, as NumPy does: with a slice or an array. `[rows, views]` with two arrays is a view of
    each row. Files are mapped anew for each read: what a mapping that stays has ever touched would count as the
    process's memory.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        arrays = [_array(file, mapped=True) for file in files]
        if len({(array.shape[1:], array.dtype) for array in arrays}) != 1:
            raise StepError(f"{files[0]} and the other files of its split have different shapes or types. {REMEDY}.")
        self._files: list[Any] = [(array.filename, array.dtype, "r", array.offset, array.shape) for array in arrays]
        self._starts = np.cumsum([0, *map(len, arrays)])
        self.shape: tuple[int, ...] = (int(self._starts[-1]), *arrays[0].shape[1:])
        self.dtype, self.ndim = arrays[0].dtype, len(self.shape)
        self._rows = np.arange(len(self))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        index, *rest = key if isinstance(key, tuple) else (key,)
        rows = self._rows[index]  # raises as NumPy does
        files = np.searchsorted(self._starts, rows, side="right") - 1
        places = [np.flatnonzero(files == number) for number in range(len(self._files))]
        found = []
        for file, start, place in zip(self._files, self._starts, places, strict=False):
            own = (other[place] if isinstance(other, np.ndarray) else other for other in rest)
            found.append(np.asarray(np.memmap(*file)[(rows[place] - start, *own)]))
        result: npt.NDArray[Any] = np.concatenate(found)
        result[np.concatenate(places)] = result.copy()
        return result


@dataclass(frozen=True)
class Split:
    """One split's images as the backbone sees them."""

    embeddings: StoredArray  # (N, views, D) float16, on disk; view 0 is the plain centre crop
    labels: npt.NDArray[np.int64]  # (N,) index into classes
    # (N, 3): each plain view's mean per channel, as the network sees it, normalised; None where nobody has written them
    input_means: npt.NDArray[np.float32] | None = None

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


def load(embeddings_dir: Path, manifest_dir: Path) -> TrainingData:
    """Open both channels; a StepError says what does not fit."""
    manifest = read_manifest(manifest_dir)
    train, validation = (_split(embeddings_dir, name, manifest) for name in ("train", "validation"))
    return TrainingData(manifest, train, validation)


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return manifest.json as PrepareData wrote it."""
    path = directory / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StepError(f"{directory} holds no manifest.json, which PrepareData writes. {REMEDY}.") from None
    except ValueError as error:
        raise StepError(f"{path} is not JSON ({error}). {REMEDY}.") from None
    if missing := [key for key in ("classes", "counts", "preprocess", "backbone") if key not in manifest]:
        raise StepError(f"{path} lacks {', '.join(missing)}. {REMEDY}.")
    return manifest


def open_embeddings(directory: Path, split: str) -> StoredArray:
    """Return a split's embeddings, (N, views, D) float16."""
    files = sorted(directory.glob(f"{split}-[0-9]*[0-9].npy"))
    if not files:
        raise StepError(f"{directory} holds no embeddings of the {split} split, which PrepareData writes. {REMEDY}.")
    return StoredArray(files)


def _split(directory: Path, name: str, manifest: dict[str, Any]) -> Split:
    embeddings, labels = open_embeddings(directory, name), _array(directory / f"{name}_labels.npy")
    means = [_array(path) for path in sorted(directory.glob(f"{name}-*_means.npy"))]
    dim, classes = manifest["backbone"]["feature_dim"], len(manifest["classes"])
    listed = sum(manifest["counts"][name].values())
    if embeddings.shape[2:] != (dim,) or not len(embeddings) == len(labels) == listed:
        raise StepError(
            f"The {name} split has embeddings of shape {embeddings.shape} and {len(labels)} labels, but manifest.json "
            f"lists {listed} images with {dim} features: they belong to different data. {REMEDY}."
        )
    if len(labels) == 0:
        raise StepError(f"The {name} split is empty. Raise its share in data.split, or add images.")
    if labels.min() < 0 or labels.max() >= classes:
        raise StepError(
            f"{name}_labels.npy holds labels from {labels.min()} to {labels.max()}, but manifest.json has {classes} "
            f"classes. {REMEDY}."
        )
    return Split(embeddings, labels.astype(np.int64), np.concatenate(means) if means else None)


def _array(path: Path, *, mapped: bool = False) -> Any:
    """Return the array, memory-mapped or in memory."""
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise StepError(f"{path.parent} holds no {path.name}, which PrepareData writes. {REMEDY}.") from None
    except (ValueError, EOFError) as error:
        raise StepError(f"{path} is not a NumPy array ({error}). {REMEDY}.") from None
