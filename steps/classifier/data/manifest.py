"""manifest.json: what PrepareData made of the data set, for every later step and for people.

images.jsonl beside it has a line for each image, in the rows' order of each split. It is for people, and as long as the
data set is large.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from classifier.data.catalogue import Catalogue, Entry
from classifier.data.dataset import SPLITS
from classifier.job.files import whole_file

SCHEMA_VERSION = 2


def line_of(entry: Entry) -> dict[str, Any]:
    """An image, as images.jsonl lists it."""
    return {
        "name": entry.name,
        "source": entry.source,
        "sha256": entry.sha256,
        "split": entry.split,
        "label": entry.label,
    }


def count(catalogue: Catalogue, classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """split -> class -> number of images; every class is listed in every split."""
    counts = catalogue.class_sizes()
    return {split: {name: counts[split, label] for label, name in enumerate(classes)} for split in SPLITS}


def class_weights(train_counts: dict[str, int]) -> dict[str, float]:
    """N / (C n_c) over the training images: a class as large as the average weighs 1."""
    total = sum(train_counts.values())
    return {name: total / (len(train_counts) * number) for name, number in train_counts.items()}


def dataset_sha256(catalogue: Catalogue, classes: Sequence[str]) -> str:
    """Names the images and their classes, wherever they lie and however they are split."""
    digest = hashlib.sha256()
    for sha256, label in catalogue.labelled_hashes():
        digest.update(f"{sha256} {classes[label]}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def write(folder: Path, manifest: dict[str, Any], entries: Iterable[Entry]) -> None:
    """images.jsonl and then manifest.json, each whole or not at all."""
    with whole_file(folder / "images.jsonl") as file:
        for entry in entries:
            file.write(json.dumps(line_of(entry)) + "\n")
    with whole_file(folder / "manifest.json") as file:
        json.dump(manifest, file, indent=1)
        file.write("\n")
