"""The images that a command line names: files, folders, and patterns such as `photos/**/*.jpg`."""

import glob
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.service.sources import files

SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def named_images(words: Iterable[str]) -> list[Path]:
    """Every image once, in the order of the words; a file may have any name, of folders the image files count.

    Raises:
        UsageError: a word names nothing.
    """
    return list(dict.fromkeys(path for word in words for path in images_of(word)))


def images_of(word: str) -> list[Path]:
    """What one word names."""
    path = Path(word)
    if path.is_dir():
        return [path / relative for relative in folder_images(path)]
    if path.exists():
        return [path]
    if not glob.has_magic(word):
        raise UsageError(f"No such image: {word}")
    matches = glob.glob(word, recursive=True)  # noqa: PTH207  unlike Path.glob it takes absolute patterns
    found = sorted(match for match in map(Path, matches) if match.is_file())
    if not found:
        raise UsageError(f"No file matches {word}")
    return found


def folder_images(folder: Path) -> list[str]:
    """The image files below a folder, by suffix, hidden ones left out: paths from the folder, with forward slashes.

    Raises:
        UsageError: there is none.
    """
    found = [file.relative for file in files(folder) if is_image_name(file.relative) and not file.reason]
    if not found:
        raise UsageError(f"{folder} holds no image; looked for: {', '.join(SUFFIXES)}")
    return found


def is_image_name(name: str) -> bool:
    """Whether a file's name ends like an image's."""
    return name.lower().endswith(SUFFIXES)
