"""A text file that only ever grows by whole lines, so that a reader may follow it while it is written."""

import os
from pathlib import Path


class LineFile:
    """Appends blocks of whole lines to a file, each block with one write.

    Where a block does not fit on the disk, the lines that did fit stay, and later blocks follow them: a reader that has
    seen a whole line never sees it change.

    Args:
        path: Directories above it are made. A file that is there already is continued.

    Raises:
        OSError: From the constructor or append(), when the file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.size_bytes = os.fstat(self._descriptor).st_size

    def append(self, lines: str) -> None:
        """Write lines, each with its newline."""
        block, written = lines.encode(), 0
        try:
            while written < len(block):  # a disk that fills up takes a part first, and says so at the rest
                written += os.write(self._descriptor, block[written:])
        except OSError:
            self.size_bytes += block.rfind(b"\n", 0, written) + 1
            os.ftruncate(self._descriptor, self.size_bytes)
            raise
        self.size_bytes += written

    def close(self) -> None:
        os.close(self._descriptor)
