"""Files that others may read at any moment: replaced as a whole, or growing by whole lines."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that appears under its name once it is complete; if writing fails, the old one stays."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with unfinished.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # so that it is complete after a power failure, too
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


class LineFile:
    """Appends blocks of whole lines to a file, which may exist; when the disk is full, the lines that fit are kept."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.size_bytes = os.fstat(self._descriptor).st_size

    def append(self, lines: str) -> None:
        """Write lines, each with its newline."""
        block, written = lines.encode(), 0
        try:
            while written < len(block):  # a disk that fills up takes a part first, and raises at the rest
                written += os.write(self._descriptor, block[written:])
        except OSError:
            self.size_bytes += block.rfind(b"\n", 0, written) + 1
            os.ftruncate(self._descriptor, self.size_bytes)
            raise
        self.size_bytes += written

    def close(self) -> None:
        os.close(self._descriptor)
