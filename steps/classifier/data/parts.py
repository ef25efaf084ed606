"""Parts: a split's rows as several .npy files, so that several instances can write them, and one array to who reads.

Which rows make a part follows from the data alone. N instances write the same files as one does.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classifier.job.failures import StepError
from classifier.job.open_files import OpenFiles

ROWS_PER_PART = 1024  # prepared photos take about 130 MB as PNG, and a third of that as JPEG

Rows = npt.NDArray[np.float16]


def part_name(split: str, number: int) -> str:
    """Of the files that hold a part, without their endings: `train-00000`."""
    return f"{split}-{number:05d}"


def part_files(folder: Path, split: str, ending: str = "") -> list[Path]:
    """A split's files in the rows' order; all rows may also be in one file, `train.npy`."""
    name = re.compile(rf"{re.escape(split)}(-\d+)?{re.escape(ending)}\.npy")
    return sorted(path for path in folder.iterdir() if name.fullmatch(path.name)) if folder.is_dir() else []


class PartedArray:
    """Files of arrays (N1, views, D), (N2, views, D), ... as one (N, views, D); what is asked for is read, no more.

    Nothing is mapped or kept, so a process does not grow with what it reads, and the number of files does not matter.

    It is indexed as NumPy's arrays are, first by rows: a number, a slice without a step, or an array. `[rows, views]`
    with two arrays is a view of each row, `[start:stop, 0]` the plain view of some.

    Args:
        arrays: As `np.load(..., mmap_mode="r")` opens them.
    """

    def __init__(self, arrays: Sequence["np.memmap[Any, Any]"]) -> None:
        first = arrays[0]
        if any((array.shape[1:], array.dtype) != (first.shape[1:], first.dtype) for array in arrays):
            raise StepError(f"{first.filename} and the other parts of its split have different shapes or types.")
        self._files = OpenFiles([Path(str(array.filename)) for array in arrays])
        self._offsets = np.array([array.offset for array in arrays])  # of the files' data, bytes
        self._starts = np.cumsum([0, *map(len, arrays)])
        self.shape: tuple[int, ...] = (int(self._starts[-1]), *first.shape[1:])
        self.ndim, self.dtype = len(self.shape), first.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Rows:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        numbers = self._numbers(rows)
        if rest and not isinstance(rest[0], slice):
            views = np.broadcast_to(_inside(np.asarray(rest[0]), self.shape[1], "views"), numbers.shape)
            found = self._read(numbers, views, self.shape[2:])[(slice(None), *rest[1:])]
        else:
            found = self._read(numbers, np.zeros_like(numbers), self.shape[1:])[(slice(None), *rest)]
        return found if isinstance(rows, slice) or np.ndim(rows) else found[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)

    def _numbers(self, rows: Any) -> npt.NDArray[np.int64]:
        """(n,) rows from 0."""
        if not isinstance(rows, slice):
            return _inside(np.atleast_1d(np.asarray(rows)), len(self), "rows")
        if rows.step not in (None, 1):
            raise IndexError(f"Rows of several parts can be sliced without a step, but got {rows}.")
        return np.arange(*rows.indices(len(self)))

    def _read(self, rows: npt.NDArray[np.int64], views: npt.NDArray[np.int64], shape: tuple[int, ...]) -> Rows:
        """(n, *shape): of each row what begins at its view."""
        result: Rows = np.empty((len(rows), *shape), self.dtype)
        if not result.size:
            return result
        size, view_size = result[0].nbytes, self.dtype.itemsize * math.prod(self.shape[2:])
        parts = np.searchsorted(self._starts, rows, side="right") - 1
        offsets = self._offsets[parts] + ((rows - self._starts[parts]) * self.shape[1] + views) * view_size
        buffer = memoryview(result.view(np.uint8)).cast("B")  # type: ignore[arg-type]
        for number, (part, offset) in enumerate(zip(parts.tolist(), offsets.tolist(), strict=True)):
            if self._files.read_into(part, buffer[number * size : (number + 1) * size], offset) < size:
                raise StepError(f"{self._files.paths[part]} is cut off. Run PrepareData again.")
        return result


def _inside(indexes: npt.NDArray[Any], length: int, what: str) -> npt.NDArray[np.int64]:
    """Counted from 0, also those that were counted from the end."""
    if indexes.size and not -length <= indexes.min() <= indexes.max() < length:
        raise IndexError(f"There are {length} {what}, but {what} {indexes.min()} to {indexes.max()} were asked for.")
    counted: npt.NDArray[np.int64] = indexes + length * (indexes < 0)
    return counted
