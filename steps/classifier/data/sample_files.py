"""A few real images of the validation split, which travel with the manifest into the model.

An endpoint proves itself on them: that a runtime answers as the trained network did, and that a request is answered.
They are prepared images, as their shard holds them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, TypeVar

FOLDER = "samples"  # in the manifest output, and in the model
COUNT = 8


class InSplit(Protocol):
    """An image, as far as it matters here; a worker of the endpoint, which only reads, needs no catalogue."""

    @property
    def split(self) -> str: ...

    @property
    def label(self) -> int: ...


Image = TypeVar("Image", bound=InSplit)


def chosen(entries: Iterable[Image]) -> list[Image]:
    """The first image of each class, then the second, until there are COUNT."""
    seen: dict[int, int] = {}
    turns: list[tuple[int, Image]] = []
    for entry in entries:
        if entry.split == "validation":
            seen[entry.label] = seen.get(entry.label, 0) + 1
            if seen[entry.label] <= COUNT:
                turns.append((seen[entry.label], entry))
    return [entry for _, entry in sorted(turns, key=lambda turn: turn[0])[:COUNT]]


def write(parent: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Files' suffixes and contents, numbered in their order."""
    folder = parent / FOLDER
    for number, (suffix, content) in enumerate(files):
        folder.mkdir(exist_ok=True)
        (folder / f"{number:02d}{suffix}").write_bytes(content)


def paths(parent: Path) -> list[Path]:
    """In their order; none where an older PrepareData or training wrote the folder's parent."""
    return sorted((parent / FOLDER).glob("*"))
