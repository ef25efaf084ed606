"""The data set's layout: which folders are classes, which splits are given, and which files may be images.

Accepted are `class/image.*`, `train|valid|validation|val|test/class/image.*`, and one archive of either; all may lie
within an enclosing folder. Hidden files and what systems leave behind (.DS_Store, Thumbs.db, __MACOSX) do not exist
here. Other files that belong to no class are listed as skipped.
"""

import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from classifier.data.archive import is_archive, unpack
from classifier.job.failures import StepError

SPLITS = ("train", "validation", "test")
SPLIT_FOLDERS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
JUNK = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "icon\r"})
LAYOUTS = (
    "a folder per class with its images, or train, validation and test folders with such folders, "
    "or one .zip or .tar(.gz) archive of either, is accepted"
)
NAMED = 5  # so many culprits are named in an error


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file in a class folder; whether it is an image is not known yet."""

    path: Path
    source: str  # path within the data set, with slashes
    label: int  # index into the classes
    given_split: str | None  # of SPLITS; None where the data set is not split


@dataclass(frozen=True)
class ClassFolder:
    """A folder with images of one class."""

    path: Path
    given_split: str | None


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and why."""

    path: str
    reason: str


@dataclass
class Listing:
    """Where a data set's files are. The files themselves are not kept, since there may be millions."""

    root: Path
    classes: list[str]
    folders: list[ClassFolder] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def files(self) -> Iterator[ImageFile]:
        """All files in class folders: folder by folder, within one in no order."""
        labels = {name: label for label, name in enumerate(self.classes)}
        for folder in self.folders:
            for path in files_below(folder.path):
                yield ImageFile(path, relative(self.root, path), labels[folder.path.name], folder.given_split)


@contextmanager
def open_dataset(folder: Path, *, scratch: Path) -> Iterator[Path]:
    """The folder that holds the data set; an archive is unpacked below `scratch` for as long as it is needed."""
    if not folder.is_dir():
        raise StepError(f"There is no folder {folder}; {LAYOUTS}.")
    archives = [entry for entry in visible(folder) if entry.is_file() and is_archive(entry)]
    if not archives or subfolders(folder):
        yield folder
        return
    if len(archives) > 1:
        raise StepError(f"{folder} holds {len(archives)} archives ({some(archives)}), but exactly one is accepted.")
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".unpacked-") as unpacked:
        unpack(archives[0], Path(unpacked))
        yield Path(unpacked)


def list_images(root: Path) -> Listing:
    """Find the classes, in natural order, and their folders."""
    top = enclosed(root)
    listing = list_split_folders(root, top) if has_split_folders(root, top) else list_class_folders(root, top)
    if not listing.classes:
        raise StepError(f"{name_of(root, top)} holds no class folders; {LAYOUTS}.")
    if len(listing.classes) == 1:
        raise StepError(
            f"{name_of(root, top)} holds only one class, {listing.classes[0]!r}, but a classifier needs two or more."
        )
    refuse_unprintable(listing.classes)
    return listing


def list_class_folders(root: Path, top: Path) -> Listing:
    """`class/image.*`"""
    folders = subfolders(top)
    found = [ClassFolder(folder, None) for folder in folders]
    return Listing(root, [folder.name for folder in folders], found, stray_files(root, top))


def list_split_folders(root: Path, top: Path) -> Listing:
    """`train|valid|validation|val|test/class/image.*`; the classes are those of train."""
    listing = Listing(root, [])
    listing.skipped += stray_files(root, top)
    for folder in subfolders(top):
        split = split_of(folder)
        if split is None:
            listing.skipped.append(Skipped(relative(root, folder), "not a train, validation or test folder"))
            continue
        listing.skipped += stray_files(root, folder)
        listing.folders += [ClassFolder(class_folder, split) for class_folder in subfolders(folder)]
    train = (folder.path.name for folder in listing.folders if folder.given_split == "train")
    listing.classes = list(dict.fromkeys(train))
    refuse_unknown_classes(listing)
    return listing


def refuse_unknown_classes(listing: Listing) -> None:
    """A class that is only in validation or test could never be learned; an empty folder is none."""
    others = [folder for folder in listing.folders if folder.path.name not in listing.classes]
    unknown = [folder for folder in others if any(True for _ in files_below(folder.path))]
    for split in SPLITS[1:]:
        names = sorted({folder.path.name for folder in unknown if folder.given_split == split}, key=natural)
        if names:
            raise StepError(
                f"The {split} folder holds {some(names)}, which the train folder does not; every class must have "
                "images in train."
            )
    listing.folders = [folder for folder in listing.folders if folder not in others]


def has_split_folders(root: Path, top: Path) -> bool:
    """Whether the folders are splits, not classes; a class may be called train, too."""
    folders = subfolders(top)
    splits = {split_of(folder): folder for folder in folders if split_of(folder)}
    if "train" in splits:
        return bool(subfolders(splits["train"])) and (len(splits) > 1 or len(folders) == 1)
    if folders and len(splits) == len(folders) and any(subfolders(folder) for folder in folders):
        raise StepError(f"{name_of(root, top)} holds {some(folders)}, but no train folder; {LAYOUTS}.")
    return False


def enclosed(folder: Path) -> Path:
    """The folder itself, or the one that it only wraps."""
    folders = subfolders(folder)
    wraps = len(folders) == 1 and split_of(folders[0]) is None and subfolders(folders[0])
    return enclosed(folders[0]) if wraps else folder


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a class folder; links to folders are not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_junk(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from files_below(Path(entry.path))
            elif not entry.is_dir():
                yield Path(entry.path)


def stray_files(root: Path, folder: Path) -> list[Skipped]:
    """Files beside the folders that matter."""
    strays = (entry for entry in visible(folder) if not entry.is_dir())
    return [Skipped(relative(root, entry), "not in a class folder") for entry in strays]


def subfolders(folder: Path) -> list[Path]:
    return [entry for entry in visible(folder) if entry.is_dir()]


def visible(folder: Path) -> list[Path]:
    """A folder's entries in natural order, without junk."""
    return sorted(
        (entry for entry in folder.iterdir() if not is_junk(entry.name)), key=lambda entry: natural(entry.name)
    )


def is_junk(name: str) -> bool:
    return name.startswith(".") or name.casefold() in JUNK


def split_of(folder: Path) -> str | None:
    return SPLIT_FOLDERS.get(folder.name.casefold())


def natural(name: str) -> bytes:
    """Sort key that counts: `2.cat` before `10.dog`, `005.x` before `006.y`; as bytes, which a database orders too."""
    key = bytearray()
    for part in re.findall(r"\d+|\D+", name.casefold()):
        if part.isdecimal():
            digits = str(int(part)).encode()
            key += b"\1" + len(digits).to_bytes(2) + digits
        else:
            key += b"\2" + part.encode("utf-8", "surrogatepass") + b"\0"
    return bytes(key) + b"\0" + name.encode("utf-8", "surrogatepass")


def refuse_unprintable(classes: list[str]) -> None:
    """Class names end up in reports and in the endpoint's answers."""
    for name in classes:
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise StepError(
                f"The class folder {name!a} must have a name in UTF-8 without control characters; rename it."
            )


def relative(root: Path, path: Path) -> str:
    """The path within the data set; of a name that is not UTF-8 a readable form."""
    return path.relative_to(root).as_posix().encode("utf-8", "backslashreplace").decode()


def name_of(root: Path, top: Path) -> str:
    """What to call the data set's top folder; the place where an archive was unpacked means nothing to a reader."""
    return str(top) if not root.name.startswith(".unpacked-") else "The archive"


def some(names: list[Path] | list[str]) -> str:
    """The first few, and how many more."""
    shown = [name.name if isinstance(name, Path) else name for name in names[:NAMED]]
    return ", ".join(shown) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
