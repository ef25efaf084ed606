"""What train.py reads: the embeddings channel and the manifest channel, checked against each other.

Embeddings stay on disk, memory-mapped: a batch reads its own rows only, so data may be larger than memory.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from failures import StepError

REMEDY = "Run PrepareData again and train on its output"


@dataclass(frozen=True)
class Split:
    """One split's images as the backbone sees them."""

    embeddings: npt.NDArray[np.float16]  # (N, views, D), memory-mapped; view 0 is the plain centre crop
    labels: npt.NDArray[np.int64]  # (N,) index into classes

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
    """manifest.json as PrepareData wrote it."""
    path = directory / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StepError(f"{directory} holds no manifest.json, which PrepareData writes. {REMEDY}.") from None
    except ValueError as error:
        raise StepError(f"{path} is not JSON ({error}). {REMEDY}.") from None
    missing = [key for key in ("classes", "counts", "preprocess", "backbone") if key not in manifest]
    if missing:
        raise StepError(f"{path} lacks {', '.join(missing)}. {REMEDY}.")
    return manifest


def _split(directory: Path, name: str, manifest: dict[str, Any]) -> Split:
    embeddings = _array(directory / f"{name}.npy", mapped=True)
    labels = _array(directory / f"{name}_labels.npy", mapped=False)
    dim = manifest["backbone"]["feature_dim"]
    if embeddings.ndim != 3 or embeddings.shape[2] != dim:
        raise StepError(
            f"{name}.npy has shape {embeddings.shape}, but manifest.json announces (images, views, {dim}). {REMEDY}."
        )
    listed = sum(manifest["counts"][name].values())
    if not len(embeddings) == len(labels) == listed:
        raise StepError(
            f"{name}.npy has {len(embeddings)} rows, {name}_labels.npy {len(labels)}, "
            f"and manifest.json lists {listed} images: they belong to different data. {REMEDY}."
        )
    if len(labels) == 0:
        raise StepError(f"The {name} split is empty. Raise its share in data.split, or add images.")
    if labels.min() < 0 or labels.max() >= len(manifest["classes"]):
        raise StepError(
            f"{name}_labels.npy holds labels from {labels.min()} to {labels.max()}, "
            f"but manifest.json has {len(manifest['classes'])} classes. {REMEDY}."
        )
    return Split(embeddings, labels.astype(np.int64))


def _array(path: Path, *, mapped: bool) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise StepError(f"{path.parent} holds no {path.name}, which PrepareData writes. {REMEDY}.") from None
    except (ValueError, EOFError) as error:
        raise StepError(f"{path} is not a NumPy array ({error}). {REMEDY}.") from None
    return array
