"""A few real images of the validation split, which travel with the manifest into the model.

An endpoint proves itself on them: that a runtime answers as the trained network did, and that a request is answered.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

FOLDER = "samples"  # in the manifest output, and in the model
COUNT = 8


def chosen(labels: Sequence[int]) -> list[int]:
    """Return the rows of the first image of each class, then of the second, until there are COUNT."""
    seen: Counter[int] = Counter()
    turns: list[tuple[int, int]] = []
    for row, label in enumerate(labels):
        seen[label] += 1
        if seen[label] <= COUNT:
            turns.append((seen[label], row))
    return [row for _, row in sorted(turns)[:COUNT]]


def write(parent: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files, given as suffixes and contents, numbered in their order."""
    folder = parent / FOLDER
    for number, (suffix, content) in enumerate(files):
        folder.mkdir(exist_ok=True)
        (folder / f"{number:02d}{suffix}").write_bytes(content)


def paths(parent: Path) -> list[Path]:
    """Return the files in their order; none where an older PrepareData or training wrote the folder's parent."""
    return sorted((parent / FOLDER).glob("*"))
