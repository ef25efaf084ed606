"""Archives of images: unpacked into a directory, and never outside of it.

Only regular files are written. A member whose name leads out of the archive makes the whole archive suspect and is
refused; links and devices are left out.
"""

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from classifier.job.failures import StepError, cause

# A member's name, and how to open it.
Member = tuple[str, Callable[[], AbstractContextManager[IO[bytes]]]]

DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    gzip.BadGzipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
)


def is_archive(path: Path) -> bool:
    """Whether the name is one of an accepted kind."""
    return path.name.lower().endswith(tuple(READERS))


def unpack(path: Path, directory: Path) -> None:
    """Write the archive's regular files below `directory`."""
    read_members = next(reader for suffix, reader in READERS.items() if path.name.lower().endswith(suffix))
    try:
        for name, open_member in read_members(path):
            target = directory / _inside(name, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_member() as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
    except DAMAGE as error:
        raise StepError(
            f"{path} cannot be unpacked ({cause(error)}); a .zip, .tar, .tar.gz or .tgz without a password is accepted."
        ) from error


def _inside(name: str, archive: Path) -> PurePosixPath:
    """The member's relative path."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise StepError(
            f"{archive} holds a member named {name!r}, which leads out of the archive; only relative paths within it "
            "are accepted."
        )
    return path


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir() and stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG):
                yield info.filename, lambda info=info: archive.open(info)  # type: ignore[misc]


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path) as archive:
        while info := archive.next():
            archive.members.clear()  # type: ignore[attr-defined]  # or all of them would stay in memory
            if info.isreg():
                yield info.name, lambda info=info: archive.extractfile(info)  # type: ignore[misc]
        _refuse_unread_rest(archive)


def _refuse_unread_rest(archive: tarfile.TarFile) -> None:
    """tarfile stops without a word at a header that is cut off or damaged."""
    stream: Any = archive.fileobj  # decompressed
    stream.seek(archive.offset)
    rest = stream.read(tarfile.BLOCKSIZE)
    if rest.strip(b"\0") or 0 < len(rest) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it is cut off or damaged")


READERS: dict[str, Callable[[Path], Iterator[Member]]] = {
    ".zip": _zip_members,
    ".tar": _tar_members,
    ".tar.gz": _tar_members,
    ".tgz": _tar_members,
}
