"""Embeddings of earlier runs, found again by an image's content: what a run embeds, it adds to a shared folder."""

import hashlib
import json
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from classifier.job.system import whole_file

IMAGES_PER_FILE = 256  # a run that is killed loses no more embeddings than that


class EmbeddingCache:
    """Reads `earlier/RECIPE/*.npy` and writes `output/RECIPE/*.npy`; features are (views, D) float16 arrays."""

    def __init__(self, earlier: Path | None, output: Path, recipe: dict[str, Any]) -> None:
        name = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
        self.folder, self.waiting, self.places = output / name, list[Any](), dict[bytes, tuple[Path, int]]()
        for file in sorted(earlier.glob(f"{name}/*.npy")) if earlier else []:
            with suppress(ValueError, EOFError):  # half an upload
                known = np.load(file, mmap_mode="r")["sha256"].tolist()
                self.places |= {sha256: (file, row) for row, sha256 in enumerate(known)}

    def find(self, sha256: str, views: int) -> Any:
        """Return an image's features, or None if that many views are not known."""
        file, row = self.places.get(sha256.encode(), (None, 0))
        found = np.load(file, mmap_mode="r")["features"][row, :views] if file else ()
        return np.array(found) if len(found) == views else None

    def add(self, sha256: str, features: Any) -> None:
        """Keep an image's features, which are written when there are enough of them, and by `write`."""
        if self.waiting and (self.waiting[0][1].shape != features.shape or len(self.waiting) == IMAGES_PER_FILE):
            self.write()
        self.waiting.append((sha256, features))

    def write(self) -> None:
        """Write what waits."""
        if self.waiting:
            rows = np.array(self.waiting, [("sha256", "S64"), ("features", "<f2", self.waiting[0][1].shape)])
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(self.folder / f"{secrets.token_hex(8)}.npy", "wb") as file:
                np.save(file, rows)
            self.waiting.clear()
