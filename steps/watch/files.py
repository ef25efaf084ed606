"""Files that others read at any moment, lines that a log shows at once, and modules as processes."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]  # the folder that holds `watch`


def say(line: str) -> None:
    """Print one line at once, so that logs and metric scrapers see it when it happens."""
    print(f"{line}\n", end="", flush=True)  # one write, so that lines of two threads do not mix


def reason(error: BaseException) -> str:
    """Return the kind of an error and its text, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def module_command(module: str) -> list[str]:
    """Return what runs a module such as `watch.collect.observer`, whatever the working directory holds (-P)."""
    return [sys.executable, "-P", "-m", module]


def module_environment() -> dict[str, str]:
    """Return the environment in which that command finds `watch`."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}


@contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that appears under its name once it is complete; if writing fails, the old one stays."""
    unfinished = path.with_name(f".{path.name}.unfinished")  # one name, so that kills leave one such file at most
    try:
        with unfinished.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # so that it is complete after a power failure, too
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def put(path: Path, content: str | bytes) -> None:
    """Write a whole file, as above, and the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


class LineFile:
    """Appends blocks of whole lines to a file, which may exist; when the disk is full, the lines that fit are kept."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.file = path, path.open("ab", buffering=0)
        self.size_bytes = self.file.tell()

    def append(self, lines: str) -> None:
        """Write lines, each with its newline."""
        block, written = lines.encode(), 0
        try:
            while written < len(block):  # a disk that fills up takes a part first, and raises at the rest
                written += self.file.write(block[written:]) or 0
        except OSError:
            self.size_bytes += block.rfind(b"\n", 0, written) + 1
            self.file.truncate(self.size_bytes)
            raise
        self.size_bytes += written

    def close(self) -> None:
        self.file.close()
