"""Embeddings that earlier runs made: an image that is still there is not embedded again, nor after a run was killed.

The cache is a folder of files that are written once and never changed, so that instances and runs may add to it side
by side, in S3 as on a disk. `RECIPE/DIGEST.npy` holds some images' embeddings: RECIPE names all that they depend on
besides the image, DIGEST is of the file's bytes. A file that is not what its name says, as half an upload would be, is
passed over.
"""

import hashlib
import io
import json
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classifier.job.failures import say
from classifier.job.files import whole_file

ROWS_PER_FILE = 512
SECONDS_PER_FILE = 10.0  # a killed run loses no more than that
DIGEST_DIGITS = 32
KEY_BYTES = 8  # of a sha256; what is found by them is compared whole
OPEN_FILES = 4

Features = npt.NDArray[np.float16]
Means = npt.NDArray[np.float32]


class EmbeddingCache:
    """What an earlier run found for an image, by the sha256 of its bytes.

    Args:
        earlier: The cache as it was when the run began; None or a missing folder is an empty one.
        output: Receives what this run adds; None keeps nothing.
        recipe: Whatever embeddings depend on, as JSON can hold it.
    """

    def __init__(self, earlier: Path | None, output: Path | None, recipe: dict[str, Any]) -> None:
        name = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
        self.output = output / name if output else None
        self.files = [path for path in sorted((earlier / name).glob("*.npy")) if is_whole(path)] if earlier else []
        self.keys, self.places = read_index(self.files)
        self.rows = lru_cache(OPEN_FILES)(lambda number: load_rows(self.files[number]))
        self.waiting: list[tuple[str, Features, Means]] = []
        self.last_write = time.monotonic()

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, sha256: str, views: int) -> tuple[Features, Means] | None:
        """Features (views, D) and the channels' means (3,); None if not so many views are known."""
        key = int(sha256[: 2 * KEY_BYTES], 16)
        place = int(np.searchsorted(self.keys, np.uint64(key)))
        if place == len(self.keys) or int(self.keys[place]) != key:
            return None
        file, number = self.places[place].tolist()
        row = self.rows(file)[number]
        if row["sha256"].tobytes() != bytes.fromhex(sha256) or len(row["features"]) < views:
            return None
        return row["features"][:views], row["means"]

    def add(self, sha256: str, features: Features, means: Means) -> None:
        """Keep an image's features (views, D) and means (3,) for later runs; written now and then."""
        if self.output is None:
            return
        if self.waiting and self.waiting[0][1].shape != features.shape:
            self.write()
        self.waiting.append((sha256, features, means))
        if len(self.waiting) >= ROWS_PER_FILE or time.monotonic() - self.last_write >= SECONDS_PER_FILE:
            self.write()

    def write(self) -> None:
        """Write what waits: all of the file at once, under a name that says whether it is whole."""
        if self.waiting and self.output:
            views, dim = self.waiting[0][1].shape
            rows = np.zeros(len(self.waiting), row_type(views, dim))
            for row, (sha256, features, means) in zip(rows, self.waiting, strict=True):
                row["sha256"] = np.frombuffer(bytes.fromhex(sha256), np.uint8)
                row["features"], row["means"] = features, means
            save(rows, self.output)
            self.waiting.clear()
        self.last_write = time.monotonic()


def is_whole(path: Path) -> bool:
    """Whether a file's bytes are those that its name tells of."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest[:DIGEST_DIGITS] != path.stem:
        say(f"the embedding cache's file {path.name} is damaged; its images are embedded again")
    return digest[:DIGEST_DIGITS] == path.stem


def load_rows(path: Path) -> npt.NDArray[Any]:
    """(images of the file,) row_type, memory-mapped."""
    rows: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return rows


def read_index(files: Sequence[Path]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """Where each image is found: the beginnings of the sha256, sorted, (N,), and file and row of each, (N, 2).

    16 bytes an image. Of an image that several files have, the one with the most views counts.
    """
    keys: list[npt.NDArray[np.uint64]] = [np.empty(0, np.uint64)]
    places: list[npt.NDArray[np.uint32]] = [np.empty((0, 2), np.uint32)]
    views: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    for number, path in enumerate(files):
        rows = load_rows(path)
        beginnings = np.ascontiguousarray(rows["sha256"][:, :KEY_BYTES])
        keys.append(beginnings.view(">u8")[:, 0].astype(np.uint64))
        places.append(np.column_stack([np.full(len(rows), number), np.arange(len(rows))]).astype(np.uint32))
        views.append(np.full(len(rows), rows.dtype["features"].shape[0]))
    every = np.concatenate(keys)
    order = np.lexsort((-np.concatenate(views), every))  # a stable sort: of equals, the first file comes first
    _, first = np.unique(every[order], return_index=True)
    return every[order][first], np.concatenate(places)[order][first]


def row_type(views: int, dim: int) -> np.dtype[Any]:
    """One image in a file of the cache."""
    return np.dtype([("sha256", "u1", (32,)), ("means", "<f4", (3,)), ("features", "<f2", (views, dim))])


def save(rows: npt.NDArray[Any], folder: Path) -> None:
    """Write a file under the digest of its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, rows)
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    with whole_file(folder / f"{digest[:DIGEST_DIGITS]}.npy", "wb") as file:
        file.write(content.getbuffer())
