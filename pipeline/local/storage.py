"""Amazon S3 as plain files: `s3://bucket/key` is `<home>/s3/bucket/key`.

Objects are hard-linked in and out where the file system allows, else copied. An object appears whole or not at all.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.local.state import State


class StorageError(PipelineError):
    """An object that is not there, or a URI that is none."""


class Storage:
    """The S3 of one home."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.root = state.home / "s3"

    def path(self, uri: str) -> Path:
        """The file or directory of a URI, whether or not it is there.

        Raises:
            StorageError: not an S3 URI, or one that leaves the storage.
        """
        scheme, _, rest = uri.partition("://")
        parts = rest.rstrip("/").split("/")
        if scheme != "s3" or not parts[0] or ".." in parts:
            raise StorageError(f"{uri!r} is not a usable S3 URI; expected s3://bucket/key.")
        return self.root.joinpath(*parts)

    def uri(self, path: Path) -> str:
        """The URI of a file of the storage."""
        return f"s3://{path.relative_to(self.root).as_posix()}"

    def exists(self, uri: str) -> bool:
        """Whether there is an object of that name, or any below it."""
        return self.path(uri).exists()

    def read(self, uri: str) -> bytes:
        """The bytes of one object.

        Raises:
            StorageError: there is none.
        """
        path = self.path(uri)
        if not path.is_file():
            raise StorageError(f"{uri} does not exist in the local S3 at {self.root}.")
        return path.read_bytes()

    def write(self, uri: str, content: bytes) -> None:
        """Create or replace an object."""
        path = self.path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        unfinished.write_bytes(content)
        unfinished.replace(path)

    def upload(self, source: Path, uri: str) -> None:
        """Store a file, or every file below a directory; symbolic links are not followed, as on SageMaker."""
        target = self.path(uri)
        if source.is_file():
            place(source, target)
            return
        for file in files_below(source):
            place(file, target / file.relative_to(source))

    def download(self, uri: str, folder: Path) -> None:
        """Place one object, or everything below a prefix, into a directory.

        Raises:
            StorageError: there is nothing.
        """
        source = self.path(uri)
        folder.mkdir(parents=True, exist_ok=True)
        if source.is_file():
            place(source, folder / source.name)
        elif source.is_dir():
            for file in files_below(source):
                place(file, folder / file.relative_to(source))
        else:
            raise StorageError(f"{uri} does not exist in the local S3 at {self.root}.")

    def digest(self, uri: str) -> str:
        """SHA-256 over names and contents below a URI; "absent" where nothing is there.

        A file's own digest is remembered until its size, time of change or inode differs.
        """
        top = self.path(uri)
        if not top.exists():
            return "absent"
        known = self.state.known_digests(str(top))
        fresh: dict[str, tuple[str, str]] = {}
        total = hashlib.sha256()
        for file in [top] if top.is_file() else files_below(top):
            status = file.stat()
            stamp = f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"
            found = known.get(str(file))
            if found is None or found[0] != stamp:
                found = fresh[str(file)] = (stamp, file_digest(file))
            name = file.name if file == top else file.relative_to(top).as_posix()
            total.update(f"{name}\0{found[1]}\n".encode())
        if fresh:
            self.state.put_digests(fresh)
        return total.hexdigest()


def files_below(folder: Path) -> Iterator[Path]:
    """Every plain file below a directory, in the order of their names; unfinished ones are passed over."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda found: found.name):
            if entry.is_dir(follow_symlinks=False):
                yield from files_below(Path(entry.path))
            elif entry.is_file(follow_symlinks=False) and not is_unfinished(entry.name):
                yield Path(entry.path)


def is_unfinished(name: str) -> bool:
    """Whether a name is that of an object still being written: `.name.xxxxxxxx`."""
    head, _, tail = name.rpartition(".")
    return head.startswith(".") and len(tail) == 8 and len(head) > 1


def file_digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def place(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`: a hard link, or a copy where linking is not possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        if not source.samefile(target):
            unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
            place(source, unfinished)
            unfinished.replace(target)
    except OSError:
        unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        shutil.copy2(source, unfinished)
        unfinished.replace(target)
