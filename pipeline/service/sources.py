"""Where the images come from: what `--data` or `data.source` names, found and listed, but not opened."""

import functools
import hashlib
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import DataSourceError
from pipeline.paths import ROOT
from pipeline.suggestion import did_you_mean

S3_URI = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?")
SHIPPED = {"sample": "sample-v2", "digits": "sample-v1"}  # data sets of the project -> what they are staged as
ACCEPTED = "sample, digits, a folder, a .zip, .tar, .tar.gz or .tgz archive, or s3://bucket/prefix"
ARCHIVES: dict[str, Callable[[Path], bool]] = {  # by the end of the name, what recognises the content
    ".zip": zipfile.is_zipfile,
    ".tar": tarfile.is_tarfile,
    ".tar.gz": tarfile.is_tarfile,
    ".tgz": tarfile.is_tarfile,
}
SAMPLE = ROOT / "sample" / "photos"
UNREADABLE = ".unreadable.json"  # beside the staged files, for steps/classifier/data/dataset.py
DIGITS_TIME_NS = 946_684_800 * 10**9  # 2000-01-01: the digits have the same fingerprint wherever they are written


class File(NamedTuple):
    """A visible file below a folder."""

    relative: str  # with forward slashes
    path: str
    size: int  # bytes
    mtime_ns: int
    reason: str | None = None  # why it cannot be read


@dataclass(frozen=True)
class Source:
    """A data source that exists: a folder or an archive at `path`, objects below `uri`; the digits have neither."""

    name: str  # resolves to the same source in any working directory
    path: Path | None = None  # absolute
    uri: str | None = None

    @functools.cached_property
    def files(self) -> list[File]:
        """The files of a folder, or the one archive, as they were when first asked for."""
        if self.path is None:
            return []
        if self.path.is_dir():
            return list(files(self.path))
        status = self.path.stat()
        return [File(self.path.name, str(self.path), status.st_size, status.st_mtime_ns)]

    @property
    def unreadable(self) -> dict[str, str]:
        """Why files are not staged, by their names within the folder."""
        return {printable(file.relative): file.reason for file in self.files if file.reason}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the files' names, sizes and times, not of their content."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(os.fsencode(f"{file.relative}\0{file.size}\0{file.mtime_ns}\n"))
        return digest.hexdigest()


def resolve(source: str, *, relative_to: Path | None = None) -> Source:
    """Return what `source` names; a relative path starts at `relative_to`, or at the working directory.

    A folder that happens to be called `sample` is reached as `./sample`.
    """
    if source in SHIPPED:
        return Source(source, path=SAMPLE if source == "sample" else None)
    if source.startswith("s3:"):
        if S3_URI.fullmatch(source):
            return Source(source, uri=source)
        raise DataSourceError(
            f"Data source '{source}' is not an S3 address: write s3://bucket/prefix, "
            "the bucket of 3 to 63 lower-case letters, digits, dots and dashes."
        )
    if "://" in source:
        raise DataSourceError(f"Data source '{source}' is not accepted: download it and give {ACCEPTED}.")
    try:
        path = Path(os.path.abspath((relative_to or Path()) / Path(source).expanduser()))  # noqa: PTH100 keeps links
        found = Source(str(path), path=path)
        if path.is_dir():
            if all(file.reason for file in found.files):
                raise DataSourceError(
                    f"Data source '{source}' is an empty folder: put one folder of images per class into it."
                )
        elif not path.is_file():
            raise DataSourceError(f"Data source '{source}' does not exist.{hint(source, path)}")
        elif not (suffix := next((each for each in ARCHIVES if path.name.lower().endswith(each)), "")):
            raise DataSourceError(f"Data source '{source}' is a file but not a known archive: give {ACCEPTED}.")
        elif not ARCHIVES[suffix](path):
            raise DataSourceError(
                f"Data source '{source}' is damaged, or not the {suffix} archive its name says it is."
            )
    except (OSError, RuntimeError) as error:  # the latter: no home folder for ~
        said = error.strerror if isinstance(error, OSError) else error
        raise DataSourceError(f"Data source '{source}' cannot be read: {said}.") from error
    return found


def hint(source: str, path: Path) -> str:
    """Return what in the deepest existing folder is called nearly like the part of the path that is missing."""
    missing = path
    while not missing.parent.is_dir():
        missing = missing.parent
    known = [sibling.name for sibling in missing.parent.iterdir() if not sibling.name.startswith(".")]
    known += SHIPPED if source == path.name else ()
    return did_you_mean(missing.name, known) or f" Give {ACCEPTED}."


def files(folder: str | Path, prefix: str = "", above: tuple[tuple[int, int], ...] = ()) -> Iterator[File]:
    """Yield the visible files below a folder in the order of their names; links are followed, but not in circles."""
    try:
        status = os.stat(folder)  # noqa: PTH116  a million of them
        with os.scandir(folder) as entries:
            visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise DataSourceError(f"The folder '{folder}' cannot be read: {error.strerror}.") from error
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in visible:
        relative, is_folder = f"{prefix}{entry.name}", False
        with suppress(OSError):  # a link in a circle
            is_folder = entry.is_dir()
        if is_folder:
            yield from files(entry.path, f"{relative}/", (*above, here))
        else:
            yield file_of(entry, relative)


def file_of(entry: os.DirEntry[str], relative: str) -> File:
    try:
        status, reason = entry.stat(), None
        if not stat.S_ISREG(status.st_mode):
            reason = "is not a regular file"
        elif not os.access(entry.path, os.R_OK):
            reason = "cannot be read: Permission denied"
    except OSError as error:
        status, reason = entry.stat(follow_symlinks=False), f"is a link that leads nowhere: {error.strerror}"
    return File(relative, entry.path, status.st_size, status.st_mtime_ns, reason)


def printable(path: str) -> str:
    """Return a path as JSON and people can read it, even if it is not UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()


def write_digits(folder: Path) -> None:
    """Write scikit-learn's 1,797 handwritten digits as 8x8 grey PNGs: `<class>/digit-0001.png` and so on."""
    from PIL import Image
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype("uint8")  # (1797, 8, 8) uint8 from float64 in 0..16
    for number, (image, label) in enumerate(zip(pixels, digits.target, strict=True), start=1):
        path = folder / str(label) / f"digit-{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, optimize=True)
        os.utime(path, ns=(DIGITS_TIME_NS, DIGITS_TIME_NS))
