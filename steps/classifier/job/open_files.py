"""Files that are read at given places: by any number of threads, and by processes that inherit or are handed them.

A read is one call to the kernel, which keeps what is read often. Mapping the files into memory would cost a page fault
for most of the reads, and would make the process look as large as what it has ever touched.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OPEN_AT_A_TIME = 256  # processes may have 1,024, by default


class OpenFiles:
    """Opens a file when it is first read from; pickles without open files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._open: dict[int, _Descriptor] = {}

    def read(self, number: int, size: int, offset: int) -> bytes:
        """So many bytes of the file with that number; fewer where it ends before."""
        descriptor = self._descriptor(number)  # held while it is read from: another thread may put its own in its place
        return os.pread(descriptor.number, size, offset)

    def read_into(self, number: int, buffer: memoryview, offset: int) -> int:
        """As many bytes as the buffer takes; how many there were."""
        descriptor = self._descriptor(number)
        return os.preadv(descriptor.number, (buffer,), offset)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def _descriptor(self, number: int) -> "_Descriptor":
        """Without a lock, which a forked process might inherit closed: two threads may open the same file at worst."""
        found = self._open.get(number)
        if found is None:
            if len(self._open) >= OPEN_AT_A_TIME:
                self._open.clear()  # who still reads from one keeps it open
            found = self._open[number] = _Descriptor(os.open(self.paths[number], os.O_RDONLY | os.O_CLOEXEC))
        return found


class _Descriptor:
    """An open file that is closed when nobody has it any more."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)
