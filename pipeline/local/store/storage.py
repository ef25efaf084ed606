"""Amazon S3 as plain files: `s3://bucket/key` is `<home>/s3/bucket/key`.

An object appears whole or not at all, and is a copy wherever somebody may still write to the original or to what is
downloaded. Hard links stand for what a job that has ended leaves, and for what is read behind an overlay.
"""

import contextlib
import gzip
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.local.store.state import State

SAMPLED_FILES, SAMPLE_BYTES = 4, 65536
WORTHWHILE_RATIO = 0.8  # weights and tensors hardly get smaller, and trying takes half a second for 16 MB


class StorageError(PipelineError):
    """An object that is not there, or a URI that is none."""


class Storage:
    """The S3 of one home."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.root = state.home / "s3"

    def path(self, uri: str) -> Path:
        """Return the file or directory of a URI, whether or not it is there; StorageError if it is no S3 URI."""
        scheme, _, rest = uri.partition("://")
        parts = rest.rstrip("/").split("/")
        if scheme != "s3" or parts[0] in ("", ".") or ".." in parts or "\0" in rest:
            raise StorageError(f"{uri!r} is not a usable S3 URI; expected s3://bucket/key.")
        return self.root.joinpath(*parts)

    def exists(self, uri: str) -> bool:
        """Return whether there is an object of that name, or any below it."""
        return self.path(uri).exists()

    def objects(self, uri: str) -> list[tuple[str, Path]]:
        """Return what an S3Prefix stands for: (name below the prefix, file); one object is listed under its own name.

        `s3://b/data/part-` names no directory, but every key that begins so, as on S3; a directory goes before that.
        """
        top = self.path(uri)
        if top.is_file():
            return [(top.name, top)]
        if top.is_dir():
            return [(file.relative_to(top).as_posix(), file) for file in files_below(top, links=True)]
        if uri.endswith("/") or top.parent == self.root or not top.parent.is_dir():
            return []
        begun = sorted(entry for entry in top.parent.iterdir() if entry.name.startswith(top.name))
        files = (file for entry in begun for file in ([entry] if entry.is_file() else files_below(entry, links=True)))
        return [(file.relative_to(top.parent).as_posix(), file) for file in files]

    def manifest_objects(self, uri: str) -> list[tuple[str, Path]]:
        """Return what a ManifestFile, in the format of S3DataSource, lists: (name below its prefix, file)."""
        try:
            first, *names = json.loads(self.read(uri))
            prefix = first["prefix"]
            files = [(str(name).lstrip("/"), self.path(f"{prefix}{name}")) for name in names]
        except (ValueError, TypeError, KeyError) as problem:
            form = '[{"prefix": "s3://bucket/data/"}, "name", ...]'
            raise StorageError(f"{uri} is no manifest of S3 objects, which has the form {form}.") from problem
        for name, file in files:
            if not file.is_file():
                raise self.missing(f"{uri} lists {prefix}{name}, which")
        return files

    def missing(self, what: str) -> StorageError:
        """Return the refusal of what is not there."""
        return StorageError(f"{what} does not exist in the local S3 at {self.root}.")

    def read(self, uri: str) -> bytes:
        """Return the bytes of one object; StorageError if there is none."""
        if not self.path(uri).is_file():
            raise self.missing(uri)
        return self.path(uri).read_bytes()

    def write(self, uri: str, content: bytes) -> None:
        """Create or replace an object."""
        with replacing(self.path(uri)) as unfinished:
            unfinished.write_bytes(content)

    def upload(self, source: Path, uri: str) -> None:
        """Hard-link a file, or every file below a directory; symbolic links are not followed, as on SageMaker."""
        target = self.path(uri)
        if source.is_file():
            place(source, target)
        for file in files_below(source) if source.is_dir() else ():
            place(file, target / file.relative_to(source))

    def download(
        self,
        uri: str,
        folder: Path,
        *,
        link_from_bytes: float = math.inf,
        share: tuple[int, int] = (0, 1),
        is_manifest: bool = False,
    ) -> bool:
        """Place what lies at or below a URI, or what its manifest lists, into a directory; whether by hard links.

        From `link_from_bytes` in all the files are links; of a share (rank, count) it is every `count`-th object.
        """
        objects = self.manifest_objects(uri) if is_manifest else self.objects(uri)
        if not objects:
            raise self.missing(uri)
        found = objects[share[0] :: share[1]]
        folder.mkdir(parents=True, exist_ok=True)
        linked = sum(file.stat().st_size for _, file in found) >= link_from_bytes
        for name, file in found:
            (place if linked else copy)(file, folder / name)
        return linked

    def digest(self, uri: str, *, is_manifest: bool = False) -> str:
        """SHA-256 over names and contents below a URI, or of what a manifest lists; "absent" where nothing is there.

        A file's own digest is remembered until its size, times of change or inode differ. A new link to a file changes
        the time of its status, which therefore counts only where there is no other link.
        """
        try:
            objects = self.manifest_objects(uri) if is_manifest else self.objects(uri)
        except StorageError:
            objects = []
        if not objects:
            return "absent"
        prefix = database_text(self.path(uri))
        below = "SELECT path, stamp, digest FROM digests WHERE path = ? OR path BETWEEN ? AND ?"
        known = {path: rest for path, *rest in self.state.rows(below, (prefix, f"{prefix}/", f"{prefix}0"))}
        fresh, total = [], hashlib.sha256()
        for name, file in objects:
            status, key = file.stat(), database_text(file)
            touched = status.st_ctime_ns if status.st_nlink == 1 else 0
            now = f"{status.st_size} {status.st_mtime_ns} {touched} {status.st_ino}"
            found, digest = known.get(key, ("", ""))
            if found != now:
                digest = file_digest(file)
                fresh.append((key, now, digest))
            total.update(os.fsencode(f"{name}\0{digest}\n"))
        with self.state.transaction() if fresh else contextlib.nullcontext():
            for row in fresh:
                self.state.rows("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", row)
        return total.hexdigest()


def database_text(path: Path) -> str:
    """Return a path as SQLite can keep it, also one that is not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def files_below(folder: Path, *, links: bool = False) -> Iterator[Path]:
    """Yield every plain file below a directory, in the order of their names; unfinished ones are passed over.

    Symbolic links to files are passed over too, as SageMaker does with what jobs leave, unless `links` asks for them.
    """
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False) and not is_unfinished(entry.name):
            yield from files_below(Path(entry.path), links=links)
        elif entry.is_file(follow_symlinks=links) and not is_unfinished(entry.name):
            yield Path(entry.path)


def is_unfinished(name: str) -> bool:
    """Return whether a name is that of an object still being written: `.name.0123abcd`."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}", name) is not None


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def copy(source: Path, target: Path) -> None:
    """Make a file with the same content and times, which its owner may write to; it shares blocks where it can."""
    with replacing(target) as unfinished:
        with source.open("rb") as content, unfinished.open("wb") as stream:
            try:
                while os.copy_file_range(content.fileno(), stream.fileno(), 2**30):
                    pass
            except (OSError, AttributeError):  # between file systems, or on another system: from where it stopped
                shutil.copyfileobj(content, stream, 2**20)
        shutil.copystat(source, unfinished)
        unfinished.chmod(source.stat().st_mode | 0o600)


def place(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`: a hard link, or a copy where linking is not possible."""
    if target.exists() and source.samefile(target):
        return
    try:
        with replacing(target) as unfinished:
            os.link(source, unfinished)
    except OSError:
        copy(source, target)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path to write to, which takes the place of `target` in one step, or is removed if the writing fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        yield unfinished
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def pack(folder: Path, archive: Path) -> None:
    """Make a .tar.gz of a directory's content; the same content gives the same bytes."""
    files = list(files_below(folder)) if folder.is_dir() else []
    level = 1 if is_compressible(files) else 0
    with (
        archive.open("wb") as stream,
        gzip.GzipFile(fileobj=stream, mode="wb", mtime=0, compresslevel=level, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for file in files:
            name = file.relative_to(folder).as_posix()
            tar.add(file, name, filter=lambda it: it.replace(mtime=0, uid=0, gid=0, uname="", gname="", deep=False))


def is_compressible(files: Sequence[Path]) -> bool:
    """Return whether packing is worth its time, as far as the middle of the largest files tells."""
    sample = b""
    for size, file in sorted((file.stat().st_size, file) for file in files)[-SAMPLED_FILES:]:
        with file.open("rb") as stream:
            stream.seek(max(0, size - SAMPLE_BYTES) // 2)
            sample += stream.read(SAMPLE_BYTES)
    return len(zlib.compress(sample, 1)) < WORTHWHILE_RATIO * len(sample)
