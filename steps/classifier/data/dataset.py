"""The data set as it comes: which folders are classes, which splits are given, and which files are images.

Accepted are `class/image.*`, `train|valid|validation|val|test/class/image.*`, and one archive of either; all may lie
within an enclosing folder. Hidden files and what systems leave behind (.DS_Store, Thumbs.db, __MACOSX) are ignored.
"""

import hashlib
import json
import os
import re
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from classifier.data.images import NEEDS_HEIF, ImageError, decode_opened, open_image
from classifier.job.failures import StepError, cause, say
from classifier.job.system import core_count, each, progress

Reasons = dict[str, str]  # path of a file -> why it is not used
SPLITS = ("train", "validation", "test")
SPLIT_FOLDERS = {**{name: name for name in SPLITS}, "valid": "validation", "val": "validation"}
JUNK = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "icon\r"})
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
ARCHIVE_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError)
LAYOUTS = (
    "a folder per class with its images, or train, validation and test folders with such folders, "
    "or one .zip or .tar(.gz) archive of either, is accepted"
)
UNPACKED = ".unpacked-"  # how the folder of an unpacked archive begins
UNREADABLE = ".unreadable.json"  # pipeline/service/sources.py writes it
NAMED = 5  # so many culprits are named in an error


@contextmanager
def open_dataset(folder: Path, *, scratch: Path) -> Iterator[Path]:
    """Yield the folder that holds the data set; an archive is unpacked below `scratch` for as long as it is needed."""
    entries = [entry for entry in folder.iterdir() if not is_junk(entry.name)]
    archives = [entry for entry in entries if entry.name.lower().endswith(ARCHIVES)]
    if len(archives) != 1 or any(entry.is_dir() for entry in entries):
        yield folder
        return
    with tempfile.TemporaryDirectory(dir=scratch, prefix=UNPACKED) as unpacked:
        try:
            unpack(archives[0], Path(unpacked))
        except ARCHIVE_DAMAGE as error:
            raise StepError(
                f"{archives[0]} cannot be unpacked ({cause(error)}); a .zip, .tar, .tar.gz or .tgz without a password, "
                "whose members do not lead out of it, is accepted."
            ) from error
        yield Path(unpacked)


def unpack(archive: Path, directory: Path) -> None:
    """Unpack the regular files of an archive; zipfile, and tarfile's filter, let none of them out of the directory."""
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                info.filename = info.filename.replace("\\", "/")  # as some programs on Windows write it
                if stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG):
                    zipped.extract(info, directory)
        return
    with tarfile.open(archive) as tar:
        while member := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]  # or all of them would stay in memory
            if member.isreg():
                tar.extract(member, directory, filter="data")
        stream: Any = tar.fileobj  # tarfile stops without an error at a header that is cut off or damaged
        stream.seek(tar.offset)
        rest = stream.read(tarfile.BLOCKSIZE)
        if rest.strip(b"\0") or 0 < len(rest) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it is cut off or damaged")


def list_files(root: Path) -> tuple[list[str], pd.DataFrame, Reasons]:
    """Return the classes, the files in their folders, both in natural order, and the files that are in none.

    Columns: `path` within `root`, `label` (index into the classes), `given`, the split that it lies in (or NaN), and
    `below`, the folders below the class folder.
    """
    paths, enclosing = files_below(root), ""  # the latter of folders that only wrap the data set
    while len(top := folders_in(paths)) == 1 and split_of(*top) is None and any(path.count("/") > 1 for path in paths):
        enclosing += f"{min(top)}/"
        paths = [path.removeprefix(f"{min(top)}/") for path in paths if "/" in path]
    name = "The archive" if root.name.startswith(UNPACKED) else str(root / enclosing)
    depth = 1 if has_split_folders(paths, name) else 0  # of the class folders
    rows, skipped = list[tuple[str, str, str | None, str]](), dict[str, str]()
    for path in paths:
        *folders, _ = path.split("/")
        split = split_of(folders[0]) if depth and folders else None
        if depth and folders and split is None:
            skipped[printable(enclosing + folders[0])] = "not a train, validation or test folder"
        elif len(folders) <= depth:
            skipped[printable(enclosing + path)] = "not in a class folder"
        else:
            rows.append((enclosing + path, folders[depth], split, "/".join(folders[depth + 1 :])))
    files = pd.DataFrame(rows, columns=["path", "class", "given", "below"], dtype=object)  # not all names are UTF-8
    is_train = files["given"].isna() | (files["given"] == "train")
    classes = sorted(set(files["class"][is_train]), key=natural)
    if len(classes) < 2:
        found = f"only one class, {classes[0]!r}, but a classifier needs two or more" if classes else "no class folders"
        raise StepError(f"{name} holds {found}; {LAYOUTS}.")
    for class_name in classes:  # which reports and the endpoint's answers show
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in class_name):
            raise StepError(
                f"The class folder {class_name!a} must have a name in UTF-8 without control characters; rename it."
            )
    for split, names in files[~files["class"].isin(classes)].groupby("given")["class"]:
        raise StepError(
            f"The {split} folder holds {some(sorted(set(names), key=natural))}, which the train folder does not; every "
            "class must have images in train."
        )
    files["label"] = pd.Categorical(files.pop("class"), categories=classes).codes.astype("int32")
    files["given"] = pd.Categorical(files["given"], categories=SPLITS)
    return classes, files, skipped


def has_split_folders(paths: Sequence[str], name: str) -> bool:
    """Return whether the uppermost folders are splits, not classes; a class may be called train, too."""
    folders = folders_in(paths)
    splits = {split_of(folder) for folder in folders}
    nested = {split_of(folder) for folder in folders_in(path for path in paths if path.count("/") > 1)}
    if nested and not splits & {None, "train"}:
        raise StepError(f"{name} holds {some(sorted(folders))}, but no train folder; {LAYOUTS}.")
    return "train" in nested and (len(splits - {None}) > 1 or len(folders) == 1)


def folders_in(paths: Iterable[str]) -> set[str]:
    return {path.partition("/")[0] for path in paths if "/" in path}


def split_of(folder: str) -> str | None:
    return SPLIT_FOLDERS.get(folder.casefold())


def files_below(root: Path) -> list[str]:
    """Return the paths within `root` of all files, in natural order, without junk; no link to a folder is followed."""
    found: list[str] = []
    for parent, folders, names in os.walk(root):
        folders[:] = sorted((name for name in folders if not is_junk(name)), key=natural)
        start = Path(parent).relative_to(root)
        found += [str(start / name) for name in sorted(names, key=natural) if not is_junk(name)]
    return found


def inspect(files: pd.DataFrame, root: Path, max_pixels: int, max_unreadable: float) -> tuple[pd.DataFrame, Reasons]:
    """Return the files that can be decoded, and the others; more of these than that share are refused.

    Columns are added: `sha256` of the file's bytes, `format` (Pillow's name), `shorter_side` (px).
    """
    found = each(partial(inspect_file, root, max_pixels), files["path"], workers=core_count())
    rows = list(progress(found, "checked", len(files)))
    inspected = files.join(pd.DataFrame(rows, files.index, ["reason", "sha256", "format", "shorter_side"]))
    readable = inspected["reason"].isna()
    unusable = unstaged(root) | {printable(row.path): row.reason for row in inspected[~readable].itertuples()}
    if heif := sum(reason == NEEDS_HEIF for reason in unusable.values()):
        say(f"{heif} HEIC or AVIF files were skipped: install pillow-heif")
    total = int(readable.sum()) + len(unusable)
    if len(unusable) > max_unreadable * total:
        named = some([f"{path}: {reason}" for path, reason in unusable.items()])
        raise StepError(
            f"{len(unusable)} of {total} files in class folders ({len(unusable) / total:.1%}) cannot be used "
            f"as images, but at most {max_unreadable:.1%} is accepted ({named}); remove them or raise "
            "data.max_unreadable_fraction."
        )
    return inspected[readable].drop(columns="reason"), unusable


def unstaged(root: Path) -> Reasons:
    """Return the files that could not be read when the data set was staged, which lists them in this hidden file."""
    file = root / UNREADABLE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def inspect_file(root: Path, max_pixels: int, path: str) -> tuple[Any, ...]:
    """Return None, sha256, format and shorter side, or only a reason; of a video, say, little is read."""
    try:
        with (root / path).open("rb") as file:
            image = open_image(file, max_pixels)
            kind, (width, height) = image.format, image.size
            image.draft(None, (max(1, width // 8), max(1, height // 8)))  # a JPEG is decoded smaller, which is quicker
            decode_opened(image)
            file.seek(0)
            return None, hashlib.file_digest(file, "sha256").hexdigest(), kind, min(width, height)
    except ImageError as error:
        return str(error), None, None, None
    except OSError as error:
        return f"cannot be read: {os.strerror(error.errno or 0)}", None, None, None


def is_junk(name: str) -> bool:
    return name.startswith(".") or name.casefold() in JUNK


def natural(name: str) -> Any:
    """Return a sort key that counts: `2.cat` before `10.dog`, `005.x` before `006.y`."""
    parts = re.findall(r"\d+|\D+", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], name


def printable(path: str) -> str:
    """Return a path as JSON and people can read it, even if it is not UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()


def some(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
