"""The catalogue: every file of the data set, and what becomes of it, in a SQLite file instead of in memory.

    add_files -> files, describe -> copies, drop -> assign, pool, move -> arrange -> entries, labels, ...

Rows are in the data set's natural order until `arrange` puts them in the manifest's: by split, class and source. The
file is scratch: nothing of it is ever committed, and it goes with the run.
"""

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from classifier.data.dataset import SPLITS, ImageFile, natural
from classifier.data.images import LOSSLESS_FORMATS

ROWS_AT_A_TIME = 512
ID_DIGITS = 16

# `given` is the split that the data set came with, `split` the one that was chosen: indexes into SPLITS. An image is a
# file whose sha256 is known.
SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE found (folder INTEGER, key BLOB, path BLOB, source TEXT, label INTEGER, given INTEGER);
CREATE TABLE files (
    number INTEGER PRIMARY KEY, key BLOB, path BLOB, source TEXT, label INTEGER, given INTEGER,
    sha256 TEXT, format TEXT, shorter_side INTEGER, split INTEGER);
CREATE TABLE entries (
    number INTEGER PRIMARY KEY, path BLOB, source TEXT, sha256 TEXT, format TEXT, split INTEGER, label INTEGER);
"""
POOL = "(given IS NULL OR given = 0)"  # images whose split is to be chosen


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at a file's content says, if it is an image."""

    number: int  # the file's, in the catalogue
    sha256: str  # of the file's bytes
    format: str  # Pillow's name
    shorter_side: int  # px


@dataclass(frozen=True, slots=True)
class Copy:
    """One of several files with the same bytes."""

    number: int
    source: str
    label: int
    given_split: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """An image in its split."""

    path: Path
    source: str  # path within the data set
    sha256: str
    format: str
    split: str
    label: int  # index into the classes

    @property
    def suffix(self) -> str:
        """The test split is kept without loss, so that evaluation sees exactly what the endpoint would."""
        return ".png" if self.split == "test" or self.format in LOSSLESS_FORMATS else ".jpg"

    @property
    def name(self) -> str:
        """Of the prepared image's file."""
        return f"{self.sha256[:ID_DIGITS]}{self.suffix}"


class Catalogue:
    """Use as a context manager; `path` is a file that does not exist yet."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path)
        self._database.executescript(SCHEMA)

    def __enter__(self) -> "Catalogue":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def add_files(self, files: Iterable[ImageFile]) -> None:
        """All files, in any order within a class folder, but folder by folder."""
        folders: dict[tuple[str | None, int], int] = {}

        def row(file: ImageFile) -> tuple[object, ...]:
            folder = folders.setdefault((file.given_split, file.label), len(folders))
            given = None if file.given_split is None else SPLITS.index(file.given_split)
            return folder, natural(file.source), os.fsencode(file.path), file.source, file.label, given

        self._database.executemany("INSERT INTO found VALUES (?, ?, ?, ?, ?, ?)", map(row, files))
        self._database.execute(
            "INSERT INTO files (key, path, source, label, given) "
            "SELECT key, path, source, label, given FROM found ORDER BY folder, key"
        )
        self._database.execute("DROP TABLE found")

    def files(self) -> Iterator[tuple[int, ImageFile]]:
        """Every file with its number, in the order of numbers."""
        query = "SELECT number, path, source, label, given FROM files WHERE number > ? ORDER BY number LIMIT ?"
        last = 0
        while rows := self._database.execute(query, (last, ROWS_AT_A_TIME)).fetchall():
            for number, path, source, label, given in rows:
                yield number, ImageFile(Path(os.fsdecode(path)), source, label, _split_name(given))
            last = rows[-1][0]

    def count_files(self) -> int:
        """Files in class folders, whatever they are."""
        return self._count("SELECT count(*) FROM files")

    def given_splits(self) -> frozenset[str]:
        """The splits that the data set comes with; empty when it is not split."""
        rows = self._database.execute("SELECT DISTINCT given FROM files WHERE given IS NOT NULL")
        return frozenset(SPLITS[given] for (given,) in rows)

    def describe(self, found: Iterable[Found]) -> None:
        """These files are images."""
        self._database.executemany(
            "UPDATE files SET sha256 = ?, format = ?, shorter_side = ? WHERE number = ?",
            ((image.sha256, image.format, image.shorter_side, image.number) for image in found),
        )

    def count_images(self) -> int:
        """Images that have not been dropped."""
        return self._count("SELECT count(*) FROM files WHERE sha256 IS NOT NULL")

    def copies(self) -> Iterator[tuple[str, list[Copy]]]:
        """sha256 and files of each image that is there more than once, in the order of the first ones."""
        self._database.execute("CREATE INDEX IF NOT EXISTS by_sha256 ON files (sha256)")
        repeated = self._database.execute(
            "SELECT sha256 FROM files WHERE sha256 IS NOT NULL GROUP BY sha256 HAVING count(*) > 1 ORDER BY min(number)"
        )
        query = "SELECT number, source, label, given FROM files WHERE sha256 = ? ORDER BY number"
        for (sha256,) in repeated:
            same = self._database.execute(query, (sha256,))
            yield sha256, [Copy(number, source, label, _split_name(given)) for number, source, label, given in same]

    def drop(self, numbers: Iterable[int]) -> None:
        """Leave these images out; not while `copies` goes on."""
        self._database.executemany("UPDATE files SET sha256 = NULL WHERE number = ?", ((n,) for n in numbers))

    def pool_sizes(self) -> Counter[int]:
        """Label -> images whose split is to be chosen."""
        query = f"SELECT label, count(*) FROM files WHERE sha256 IS NOT NULL AND {POOL} GROUP BY label"
        return Counter(dict(self._database.execute(query)))

    def assign(self, choose: Callable[[str], str]) -> None:
        """Given validation and test splits stay; of any other image `choose(sha256)` is the split."""
        self._database.create_function("choose", 1, lambda sha256: SPLITS.index(choose(sha256)), deterministic=True)
        self._database.execute(
            f"UPDATE files SET split = CASE WHEN {POOL} THEN choose(sha256) ELSE given END WHERE sha256 IS NOT NULL"
        )

    def pool_splits(self) -> Counter[tuple[int, str]]:
        """(label, split) -> images whose split was chosen."""
        query = f"SELECT label, split, count(*) FROM files WHERE sha256 IS NOT NULL AND {POOL} GROUP BY label, split"
        return Counter({(label, SPLITS[split]): count for label, split, count in self._database.execute(query)})

    def pool(self, label: int) -> Iterator[tuple[int, str, str]]:
        """Number, sha256 and split of each image of a class whose split was chosen."""
        query = (
            f"SELECT number, sha256, split FROM files WHERE label = ? AND sha256 IS NOT NULL AND {POOL} ORDER BY number"
        )
        for number, sha256, split in self._database.execute(query, (label,)):
            yield number, sha256, SPLITS[split]

    def move(self, number: int, split: str) -> None:
        """Choose another split for an image."""
        self._database.execute("UPDATE files SET split = ? WHERE number = ?", (SPLITS.index(split), number))

    def arrange(self) -> None:
        """Put the images in the manifest's order."""
        self._database.execute(
            "INSERT INTO entries (path, source, sha256, format, split, label) "
            "SELECT path, source, sha256, format, split, label FROM files WHERE sha256 IS NOT NULL "
            "ORDER BY split, label, key"
        )

    def shorter_sides(self) -> npt.NDArray[np.int32]:
        """Of all images, px."""
        rows = self._database.execute("SELECT shorter_side FROM files WHERE sha256 IS NOT NULL")
        return np.fromiter((side for (side,) in rows), np.int32)

    def sizes(self) -> dict[str, int]:
        """Split -> number of images."""
        counts = dict(self._database.execute("SELECT split, count(*) FROM entries GROUP BY split"))
        return {name: counts.get(split, 0) for split, name in enumerate(SPLITS)}

    def class_sizes(self) -> Counter[tuple[str, int]]:
        """(split, label) -> number of images."""
        rows = self._database.execute("SELECT split, label, count(*) FROM entries GROUP BY split, label")
        return Counter({(SPLITS[split], label): count for split, label, count in rows})

    def entries(self, split: str | None = None, start: int = 0, stop: int | None = None) -> Iterator[Entry]:
        """A split's rows from `start` to `stop`, or all images; in the manifest's order."""
        sizes = self.sizes()
        first = 0 if split is None else sum(sizes[name] for name in SPLITS[: SPLITS.index(split)])
        last = first + (sum(sizes.values()) if split is None else sizes[split])
        rows = self._database.execute(
            "SELECT path, source, sha256, format, split, label FROM entries WHERE number > ? AND number <= ?",
            (first + start, last if stop is None else min(last, first + stop)),
        )
        for path, source, sha256, format, chosen, label in rows:
            yield Entry(Path(os.fsdecode(path)), source, sha256, format, SPLITS[chosen], label)

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """(N,) of a split."""
        rows = self._database.execute(
            "SELECT label FROM entries WHERE split = ? ORDER BY number", (SPLITS.index(split),)
        )
        return np.fromiter((label for (label,) in rows), np.int64)

    def labelled_hashes(self) -> Iterator[tuple[str, int]]:
        """sha256 and label of every image, ordered by sha256."""
        yield from self._database.execute("SELECT sha256, label FROM entries ORDER BY sha256")

    def _count(self, query: str) -> int:
        return int(self._database.execute(query).fetchone()[0])


def _split_name(given: int | None) -> str | None:
    return None if given is None else SPLITS[given]
