"""Where the images come from: `--data` or `data.source` becomes one of five kinds of source.

resolve       names the kind and checks, cheaply, that the source is there
write_digits  writes out the handwritten digits that scikit-learn ships
files         lists a folder in a fixed order; hidden files and folders are left out
fingerprint   a digest of that list: two equal fingerprints stage to the same place
"""

import hashlib
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.errors import DataSourceError
from pipeline.paths import ROOT
from pipeline.suggestion import did_you_mean

Kind = Literal["sample", "digits", "folder", "archive", "s3"]

S3_URI = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?")
ACCEPTED = "sample, digits, a folder, a .zip, .tar, .tar.gz or .tgz archive, or s3://bucket/prefix"
ARCHIVES: dict[str, Callable[[Path], bool]] = {  # by the end of the name, what recognises the content
    ".zip": zipfile.is_zipfile,
    ".tar": tarfile.is_tarfile,
    ".tar.gz": tarfile.is_tarfile,
    ".tgz": tarfile.is_tarfile,
}
SAMPLE = ROOT / "sample" / "photos"
DIGITS_TIME_NS = 946_684_800 * 10**9  # 2000-01-01: they have the same fingerprint wherever they are written


@dataclass(frozen=True)
class Source:
    """A data source that exists: `path` (absolute) of a sample, folder or archive, or S3 `uri`; digits have neither."""

    kind: Kind
    path: Path | None = None
    uri: str | None = None


class File(NamedTuple):
    """A visible file below a folder."""

    relative: str  # with forward slashes
    path: str
    size: int  # bytes
    mtime_ns: int


def resolve(source: str, *, relative_to: Path | None = None) -> Source:
    """The source that `source` names; a relative path starts at `relative_to`, or at the working directory.

    A folder that happens to be called `sample` is reached as `./sample`.
    """
    if source == "sample":
        return Source("sample", path=SAMPLE)
    if source == "digits":
        return Source("digits")
    if source.startswith("s3:"):
        return _s3(source)
    if "://" in source:
        raise DataSourceError(f"Data source '{source}' is not accepted: download it and give {ACCEPTED}.")
    path = Path(os.path.abspath((relative_to or Path()) / Path(source).expanduser()))  # noqa: PTH100 keeps links
    try:
        return _local(source, path)
    except OSError as error:
        raise DataSourceError(f"Data source '{source}' cannot be read: {error.strerror}.") from error


def write_digits(folder: Path) -> None:
    """Writes scikit-learn's 1,797 handwritten digits as 8x8 grey PNGs: `<class>/digit-0001.png` and so on.

    The folder appears complete or not at all; one that is already there is left as it is.
    """
    if folder.is_dir() and any(folder.iterdir()):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        complete = Path(temporary, folder.name)
        _write_digits(complete)
        try:
            complete.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was quicker
                raise


def files(folder: Path) -> Iterator[File]:
    """The visible files below a folder, links followed, folder by folder in the order of their names."""
    return _scan(folder, "", ())


def fingerprint(path: Path) -> str:
    """Hex SHA-256 over relative path, size and mtime of each file of a folder, or of the one archive; no content."""
    digest = hashlib.sha256()
    for file in files(path) if path.is_dir() else (_single(path),):
        digest.update(os.fsencode(f"{file.relative}\0{file.size}\0{file.mtime_ns}\n"))
    return digest.hexdigest()


def _s3(source: str) -> Source:
    if not S3_URI.fullmatch(source):
        raise DataSourceError(
            f"Data source '{source}' is not an S3 address: write s3://bucket/prefix, "
            "the bucket of 3 to 63 lower-case letters, digits, dots and dashes."
        )
    return Source("s3", uri=source)


def _local(source: str, path: Path) -> Source:
    if path.is_dir():
        return _folder(source, path)
    if path.is_file():
        return _archive(source, path)
    raise DataSourceError(f"Data source '{source}' does not exist.{_nearest(source, path)}")


def _folder(source: str, path: Path) -> Source:
    if next(files(path), None) is None:
        raise DataSourceError(f"Data source '{source}' is an empty folder: put one folder of images per class into it.")
    return Source("folder", path=path)


def _archive(source: str, path: Path) -> Source:
    suffix = next((suffix for suffix in ARCHIVES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise DataSourceError(f"Data source '{source}' is a file but not a known archive: give {ACCEPTED}.")
    if not ARCHIVES[suffix](path):
        raise DataSourceError(f"Data source '{source}' is damaged, or not the {suffix} archive its name says it is.")
    return Source("archive", path=path)


def _nearest(source: str, path: Path) -> str:
    """A hint: what in the deepest existing folder is called nearly like the part that is missing."""
    missing = path
    while not missing.parent.is_dir():
        missing = missing.parent
    known = [sibling.name for sibling in missing.parent.iterdir() if not sibling.name.startswith(".")]
    if source == path.name:
        known += ["sample", "digits"]
    return did_you_mean(missing.name, known) or f" Give {ACCEPTED}."


def _scan(folder: str | Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[File]:
    """Yields the files of one folder and of those below; `above` identifies the folders around: no link loops."""
    try:
        status = Path(folder).stat()
        with os.scandir(folder) as entries:
            visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise DataSourceError(f"The folder '{folder}' cannot be read: {error.strerror}.") from error
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in visible:
        if entry.is_dir():
            yield from _scan(entry.path, f"{prefix}{entry.name}/", (*above, here))
        else:
            yield _file(entry, f"{prefix}{entry.name}")


def _file(entry: os.DirEntry[str], relative: str) -> File:
    try:
        status = entry.stat()
    except OSError as error:
        raise DataSourceError(
            f"'{entry.path}' cannot be read: {error.strerror}; remove it, or restore what it links to."
        ) from error
    return File(relative, entry.path, status.st_size, status.st_mtime_ns)


def _single(path: Path) -> File:
    status = path.stat()
    return File(path.name, str(path), status.st_size, status.st_mtime_ns)


def _write_digits(folder: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    for label in digits.target_names:
        Path(folder, str(label)).mkdir(parents=True)
    pixels = (digits.images * (255 / 16)).round().astype("uint8")  # (1797, 8, 8) uint8 from float64 in 0..16
    for number, (image, label) in enumerate(zip(pixels, digits.target, strict=True), start=1):
        path = Path(folder, str(label), f"digit-{number:04}.png")
        Image.fromarray(image).save(path, optimize=True)
        os.utime(path, ns=(DIGITS_TIME_NS, DIGITS_TIME_NS))
