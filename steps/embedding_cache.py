"""Embeddings that earlier runs made: an image that is still there is not embedded again, nor after a run was killed.

The cache is a folder of files that are written once and never changed, so that instances and runs may add to it side
by side, in S3 as on a disk. `RECIPE/DIGEST.npy` holds some images' embeddings: RECIPE names all that they depend on
besides the image, DIGEST is of the file's bytes. A file that is not what its name says, as half an upload would be, is
passed over.
"""

import hashlib
import json
import secrets
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from failures import say

ROWS_PER_FILE = 512
SECONDS_PER_FILE = 10.0  # a killed run loses no more than that
DIGEST_DIGITS = 32

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
        self.files: list[npt.NDArray[Any]] = []  # memory-mapped
        self.places: dict[bytes, tuple[int, int]] = {}  # sha256 -> file, row
        self.waiting: list[tuple[str, Features, Means]] = []
        self.last_write = time.monotonic()
        for path in sorted((earlier / name).glob("*.npy")) if earlier else ():
            self._open(path)

    def __len__(self) -> int:
        return len(self.places)

    def find(self, sha256: str, views: int) -> tuple[Features, Means] | None:
        """Features (views, D) and the channels' means (3,); None if not so many views are known."""
        place = self.places.get(bytes.fromhex(sha256))
        if place is None:
            return None
        row = self.files[place[0]][place[1]]
        return (row["features"][:views], row["means"]) if len(row["features"]) >= views else None

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

    def _open(self, path: Path) -> None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest[:DIGEST_DIGITS] != path.stem:
            say(f"the embedding cache's file {path.name} is damaged; its images are embedded again")
            return
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        for number, sha256 in enumerate(rows["sha256"]):
            key = sha256.tobytes()
            known = self.places.get(key)
            if known is None or self.files[known[0]].dtype["features"].shape < rows.dtype["features"].shape:
                self.places[key] = (len(self.files), number)
        self.files.append(rows)


def row_type(views: int, dim: int) -> np.dtype[Any]:
    """One image in a file of the cache."""
    return np.dtype([("sha256", "u1", (32,)), ("means", "<f4", (3,)), ("features", "<f2", (views, dim))])


def save(rows: npt.NDArray[Any], folder: Path) -> None:
    """Write a file under the digest of its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".unfinished.{secrets.token_hex(4)}"
    with unfinished.open("wb") as file:
        np.save(file, rows)
    with unfinished.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    unfinished.replace(folder / f"{digest[:DIGEST_DIGITS]}.npy")
