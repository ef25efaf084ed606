"""Parts: a split's rows as several .npy files, so that several instances can write them, and one array to who reads.

Which rows make a part follows from the data alone. N instances write the same files as one does.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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
    """Arrays (N1, views, D), (N2, views, D), ... as one (N, views, D); what is asked for is read, and nothing else.

    It is indexed as NumPy's are, first by rows: a number, a slice without a step, or an array. `[rows, views]` with two
    arrays is a view of each row, `[start:stop, 0]` the plain view of some.
    """

    def __init__(self, arrays: Sequence[Rows]) -> None:
        self.arrays = list(arrays)
        self.starts = np.cumsum([0, *map(len, self.arrays)])
        self.shape = (int(self.starts[-1]), *self.arrays[0].shape[1:])
        self.ndim, self.dtype = len(self.shape), self.arrays[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Rows:
        if len(self.arrays) == 1:
            found: Rows = self.arrays[0][key]
            return found
        rows, *rest = key if isinstance(key, tuple) else (key,)
        return self._slice(rows, rest) if isinstance(rows, slice) else self._rows(np.asarray(rows), rest)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.concatenate(self.arrays).astype(dtype or self.dtype, copy=False)

    def _slice(self, rows: slice, rest: list[Any]) -> Rows:
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise IndexError(f"Rows of several parts can be sliced without a step, but got {rows}.")
        pieces = [
            array[(slice(max(start - first, 0), max(stop - first, 0)), *rest)]
            for first, array in zip(self.starts, self.arrays, strict=False)  # starts has the end, too
            if start < first + len(array) and stop > first
        ]
        return np.concatenate(pieces) if pieces else self.arrays[0][(slice(0, 0), *rest)]

    def _rows(self, rows: npt.NDArray[Any], rest: list[Any]) -> Rows:
        """Each part's rows, put in their places."""
        if rows.size and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"There are {len(self)} rows, but row {rows.min()} to {rows.max()} were asked for.")
        rows = rows + len(self) * (rows < 0)
        parts = np.searchsorted(self.starts, rows, side="right") - 1
        if rows.ndim == 0:
            single: Rows = self.arrays[parts][(rows - self.starts[parts], *rest)]
            return single
        one = self.arrays[0][(0, *(0 if isinstance(index, np.ndarray) else index for index in rest))]
        result = np.empty((len(rows), *one.shape), self.dtype)
        for part in np.unique(parts):
            chosen = parts == part
            inner = (index[chosen] if isinstance(index, np.ndarray) else index for index in rest)
            result[chosen] = self.arrays[part][(rows[chosen] - self.starts[part], *inner)]
        return result
