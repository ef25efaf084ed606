"""manifest.json: what PrepareData made of the data set, for every later step and for people."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset import SPLITS, natural
from images import LOSSLESS_FORMATS
from inspection import LabelledImage

SCHEMA_VERSION = 2
ID_DIGITS = 16


@dataclass(frozen=True, slots=True)  # slots: there is one for each image
class Entry:
    """An image in its split."""

    image: LabelledImage
    split: str
    label: int  # index into the classes

    @property
    def suffix(self) -> str:
        """The test split is kept without loss, so that evaluation sees exactly what the endpoint would."""
        return ".png" if self.split == "test" or self.image.format in LOSSLESS_FORMATS else ".jpg"

    @property
    def name(self) -> str:
        """Of the prepared image's file."""
        return f"{self.image.sha256[:ID_DIGITS]}{self.suffix}"

    def to_dict(self) -> dict[str, Any]:
        """As manifest.json lists it."""
        return {
            "name": self.name,
            "source": self.image.file.source,
            "sha256": self.image.sha256,
            "split": self.split,
            "label": self.label,
        }


def list_entries(images: Sequence[LabelledImage], splits: dict[str, str], classes: Sequence[str]) -> list[Entry]:
    """All images in the manifest's order: by split, class and source. `splits` is sha256 -> split."""
    labels = {name: label for label, name in enumerate(classes)}
    entries = [Entry(image, splits[image.sha256], labels[image.file.class_name]) for image in images]
    return sorted(entries, key=lambda entry: (SPLITS.index(entry.split), entry.label, natural(entry.image.file.source)))


def count(entries: Sequence[Entry], classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """split -> class -> number of images; every class is listed in every split."""
    counts = Counter((entry.split, entry.label) for entry in entries)
    return {split: {name: counts[split, label] for label, name in enumerate(classes)} for split in SPLITS}


def class_weights(train_counts: dict[str, int]) -> dict[str, float]:
    """N / (C n_c) over the training images: a class as large as the average weighs 1."""
    total = sum(train_counts.values())
    return {name: total / (len(train_counts) * number) for name, number in train_counts.items()}


def dataset_sha256(entries: Sequence[Entry], classes: Sequence[str]) -> str:
    """Names the images and their classes, wherever they lie and however they are split."""
    lines = sorted(f"{entry.image.sha256} {classes[entry.label]}\n" for entry in entries)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def write(path: Path, manifest: dict[str, Any]) -> None:
    """All of it or nothing: a reader never finds half a manifest."""
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)  # bit by bit: the text of a large manifest is never in memory whole
        file.write("\n")
    unfinished.replace(path)
