"""What train.py reads: the embeddings channel and the manifest channel, checked against each other.

Embeddings stay on disk: a batch reads its own rows only, so data may be larger than memory. A split may come in parts,
which several instances wrote.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classifier.data.parts import PartedArray, part_files
from classifier.job.failures import StepError

REMEDY = "Run PrepareData again and train on its output"


@dataclass(frozen=True)
class Split:
    """One split's images as the backbone sees them."""

    embeddings: PartedArray  # (N, views, D) float16, on disk; view 0 is the plain centre crop
    labels: npt.NDArray[np.int64]  # (N,) index into classes
    # (N, 3): each plain view's mean per channel, as the network sees it, normalised; None from an older PrepareData
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
    embeddings = PartedArray([_array(file, mapped=True) for file in _embeddings_files(directory, name)])
    labels = _array(directory / f"{name}_labels.npy", mapped=False)
    dim = manifest["backbone"]["feature_dim"]
    if embeddings.ndim != 3 or embeddings.shape[2] != dim:
        raise StepError(
            f"The {name} split's embeddings have shape {embeddings.shape}, but manifest.json announces "
            f"(images, views, {dim}). {REMEDY}."
        )
    listed = sum(manifest["counts"][name].values())
    if not len(embeddings) == len(labels) == listed:
        raise StepError(
            f"The {name} split has {len(embeddings)} embeddings, {len(labels)} labels, "
            f"and manifest.json lists {listed} images: they belong to different data. {REMEDY}."
        )
    if len(labels) == 0:
        raise StepError(f"The {name} split is empty. Raise its share in data.split, or add images.")
    if labels.min() < 0 or labels.max() >= len(manifest["classes"]):
        raise StepError(
            f"{name}_labels.npy holds labels from {labels.min()} to {labels.max()}, "
            f"but manifest.json has {len(manifest['classes'])} classes. {REMEDY}."
        )
    return Split(embeddings, labels.astype(np.int64), _input_means(directory, name, len(labels)))


def _embeddings_files(directory: Path, name: str) -> list[Path]:
    files = part_files(directory, name)
    if not files:
        raise StepError(f"{directory} holds no embeddings of the {name} split, which PrepareData writes. {REMEDY}.")
    return files


def _input_means(directory: Path, name: str, rows: int) -> npt.NDArray[np.float32] | None:
    files = part_files(directory, name, "_input_means")
    if not files:
        return None
    means: npt.NDArray[np.float32] = np.concatenate([_array(file, mapped=False) for file in files])
    if means.shape != (rows, 3):
        raise StepError(
            f"The {name} split's input means have shape {means.shape}, but its images are {rows}, with 3 channels: "
            f"they belong to different data. {REMEDY}."
        )
    return means


def _array(path: Path, *, mapped: bool) -> Any:
    """The array, memory-mapped or in memory."""
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise StepError(f"{path.parent} holds no {path.name}, which PrepareData writes. {REMEDY}.") from None
    except (ValueError, EOFError) as error:
        raise StepError(f"{path} is not a NumPy array ({error}). {REMEDY}.") from None
