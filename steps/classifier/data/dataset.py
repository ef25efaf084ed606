"""The data set's layout: which folders are classes, which splits are given, and which files may be images.

Accepted are `class/image.*`, `train|valid|validation|val|test/class/image.*`, and one archive of either; all may lie
within an enclosing folder. Hidden files and what systems leave behind (.DS_Store, Thumbs.db, __MACOSX) are ignored.
Other files that belong to no class are listed as skipped.
"""

import os
import re
import shutil
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from classifier.job.failures import StepError, cause

SPLITS = ("train", "validation", "test")
SPLIT_FOLDERS = {**{name: name for name in SPLITS}, "valid": "validation", "val": "validation"}
JUNK = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "icon\r"})
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
ARCHIVE_DAMAGE = (shutil.ReadError, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError,
                  RuntimeError)  # fmt: skip
LAYOUTS = (
    "a folder per class with its images, or train, validation and test folders with such folders, "
    "or one .zip or .tar(.gz) archive of either, is accepted"
)
NAMED = 5  # so many culprits are named in an error


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and why."""

    path: str
    reason: str


@dataclass
class Listing:
    """Classes in natural order, and the files that may be images of them.

    `files` has a row for each file in a class folder, folder by folder in natural order: `path` within `root` (str),
    `label` (index into the classes), and `given`, the split that the data set has it in (or NaN).
    """

    root: Path
    classes: list[str]
    files: pd.DataFrame
    skipped: list[Skipped] = field(default_factory=list)


@contextmanager
def open_dataset(folder: Path, *, scratch: Path) -> Iterator[Path]:
    """Yield the folder that holds the data set; an archive is unpacked below `scratch` for as long as it is needed."""
    if not folder.is_dir():
        raise StepError(f"There is no folder {folder}; {LAYOUTS}.")
    archives = [entry for entry in visible(folder) if entry.is_file() and entry.name.lower().endswith(ARCHIVES)]
    if not archives or subfolders(folder):
        yield folder
        return
    if len(archives) > 1:
        raise StepError(f"{folder} holds {len(archives)} archives ({some(archives)}), but exactly one is accepted.")
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".unpacked-") as unpacked:
        try:
            (unzip if archives[0].name.lower().endswith(".zip") else untar)(archives[0], Path(unpacked))
        except ARCHIVE_DAMAGE as error:
            raise StepError(
                f"{archives[0]} cannot be unpacked ({cause(error)}); a .zip, .tar, .tar.gz or .tgz without a password, "
                "whose members do not lead out of it, is accepted."
            ) from error
        yield Path(unpacked)


def unzip(archive: Path, directory: Path) -> None:
    """Unpack the regular files of a .zip."""
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            info.filename = info.filename.replace("\\", "/")  # as some programs on Windows write it
            if info.filename.startswith("/") or ".." in info.filename.split("/"):
                raise zipfile.BadZipFile(f"{info.filename!r} is outside the destination")
            if stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG):
                opened.extract(info, directory)


def untar(archive: Path, directory: Path) -> None:
    """Unpack the regular files of a .tar, .tar.gz or .tgz."""
    with tarfile.open(archive) as opened:
        while member := opened.next():
            opened.members.clear()  # type: ignore[attr-defined]  # or all of them would stay in memory
            if member.name.startswith("/") or ".." in re.split(r"[/\\]", member.name):
                raise tarfile.TarError(f"{member.name!r} is outside the destination")
            if member.isreg():
                opened.extract(member, directory, filter="data")
        stream: Any = opened.fileobj  # tarfile stops without an error at a header that is cut off or damaged
        stream.seek(opened.offset)
        rest = stream.read(tarfile.BLOCKSIZE)
        if rest.strip(b"\0") or 0 < len(rest) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it is cut off or damaged")


def list_images(root: Path) -> Listing:
    """Find the classes and the files in their folders."""
    top = enclosed(root)
    name = "The archive" if root.name.startswith(".unpacked-") else str(top)
    skipped = stray_files(root, top)
    folders: list[tuple[Path, str | None]] = [(folder, None) for folder in subfolders(top)]
    if has_split_folders(top, name):
        splits, folders = folders, []
        for folder, _ in splits:
            if split := SPLIT_FOLDERS.get(folder.name.casefold()):
                skipped += stray_files(root, folder)
                folders += [(class_folder, split) for class_folder in subfolders(folder)]
            else:
                skipped.append(
                    Skipped(printable(str(folder.relative_to(root))), "not a train, validation or test folder")
                )
    classes = list(dict.fromkeys(folder.name for folder, given in folders if given in (None, "train")))
    refuse_classes(classes, name)
    rows = [(path, folder.name, given) for folder, given in folders for path in files_below(root, folder)]
    files = pd.DataFrame(rows, columns=["path", "label", "given"], dtype=object)
    for split, names in files[~files["label"].isin(classes)].groupby("given")["label"]:
        raise StepError(
            f"The {split} folder holds {some(sorted(set(names), key=natural))}, which the train folder does not; every "
            "class must have images in train."
        )
    files["label"] = files["label"].map({name: label for label, name in enumerate(classes)}).astype("int32")
    files["given"] = pd.Categorical(files["given"], categories=SPLITS)
    return Listing(root, classes, files, skipped)


def has_split_folders(top: Path, name: str) -> bool:
    """Return whether the folders are splits, not classes; a class may be called train, too."""
    folders = subfolders(top)
    splits = {SPLIT_FOLDERS.get(folder.name.casefold()): folder for folder in folders}
    if "train" in splits:
        return bool(subfolders(splits["train"])) and (len(splits.keys() - {None}) > 1 or len(folders) == 1)
    if folders and None not in splits and any(subfolders(folder) for folder in folders):
        raise StepError(f"{name} holds {some(folders)}, but no train folder; {LAYOUTS}.")
    return False


def refuse_classes(classes: Sequence[str], name: str) -> None:
    """Refuse fewer than two classes, and names that cannot be shown in reports and in the endpoint's answers."""
    if not classes:
        raise StepError(f"{name} holds no class folders; {LAYOUTS}.")
    if len(classes) == 1:
        raise StepError(f"{name} holds only one class, {classes[0]!r}, but a classifier needs two or more.")
    for class_name in classes:
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in class_name):
            raise StepError(
                f"The class folder {class_name!a} must have a name in UTF-8 without control characters; rename it."
            )


def enclosed(folder: Path) -> Path:
    """Return the folder itself, or the one that it only wraps."""
    folders = subfolders(folder)
    wraps = len(folders) == 1 and folders[0].name.casefold() not in SPLIT_FOLDERS and subfolders(folders[0])
    return enclosed(folders[0]) if wraps else folder


def files_below(root: Path, folder: Path) -> list[str]:
    """Return the paths within `root` of all files below a folder, in natural order; no link to a folder is followed."""
    found: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_junk(name)]
        start = Path(parent).relative_to(root)
        found += [str(start / name) for name in names if not is_junk(name)]
    return sorted(found, key=natural)


def stray_files(root: Path, folder: Path) -> list[Skipped]:
    """Return the files beside the folders that matter."""
    strays = (path.relative_to(root) for path in visible(folder) if not path.is_dir())
    return [Skipped(printable(str(path)), "not in a class folder") for path in strays]


def subfolders(folder: Path) -> list[Path]:
    return [entry for entry in visible(folder) if entry.is_dir()]


def visible(folder: Path) -> list[Path]:
    """Return a folder's entries in natural order, without junk."""
    return sorted((path for path in folder.iterdir() if not is_junk(path.name)), key=lambda path: natural(path.name))


def is_junk(name: str) -> bool:
    return name.startswith(".") or name.casefold() in JUNK


def natural(name: str) -> Any:
    """Return a sort key that counts: `2.cat` before `10.dog`, `005.x` before `006.y`."""
    parts = re.findall(r"\d+|\D+", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], name


def printable(path: str) -> str:
    """Return a path as JSON and people can read it, even if it is not UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()


def some(names: Sequence[Path] | Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    shown = [name.name if isinstance(name, Path) else name for name in names[:NAMED]]
    return ", ".join(shown) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
