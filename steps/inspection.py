"""Every file of the data set is read once: is it an image, which one (sha256), and how large?

Files are decoded here, too, so that a damaged one is known before the split is drawn.
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import images
from dataset import ImageFile, Skipped
from failures import StepError
from images import ImageError, ImageTooLarge
from progress import Progress
from workers import each

NAMED = 3  # so many unreadable files are named in an error


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image that can be used."""

    file: ImageFile
    sha256: str  # of the file's bytes
    format: str  # Pillow's name
    shorter_side: int  # px


def inspect(
    files: Sequence[ImageFile], *, max_megapixels: float, workers: int
) -> tuple[list[LabelledImage], list[Skipped]]:
    """The images in the files' order, and the files that are none, each with its reason."""
    progress = Progress("checked", len(files))
    found: list[LabelledImage] = []
    skipped: list[Skipped] = []
    with closing(each(partial(_inspect, max_pixels=int(max_megapixels * 1e6)), files, workers=workers)) as results:
        for result in results:
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                found.append(result)
            progress.advance(1)
    return found, skipped


def refuse_unreadable(skipped: Sequence[Skipped], files: int, *, max_fraction: float) -> None:
    """Too many unreadable files mean that something else is wrong with the data."""
    if len(skipped) <= max_fraction * files:
        return
    named = "; ".join(f"{file.path}: {file.reason.rstrip('.')}" for file in skipped[:NAMED])
    more = f"; and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
    raise StepError(
        f"{len(skipped)} of {files} files in class folders ({len(skipped) / files:.1%}) cannot be used as images, but "
        f"at most {max_fraction:.1%} is accepted ({named}{more}); remove them or raise data.max_unreadable_fraction."
    )


def _inspect(file: ImageFile, *, max_pixels: int) -> LabelledImage | Skipped:
    if not file.path.is_file():
        return Skipped(file.source, "not a regular file")
    try:
        return _identify(file, max_pixels)
    except ImageTooLarge as error:
        raise StepError(
            f"{file.source}: {str(error).rstrip('.')}; remove or resize it, or raise data.max_image_megapixels."
        ) from error
    except ImageError as error:
        return Skipped(file.source, str(error))
    except OSError as error:
        return Skipped(file.source, f"cannot be read: {os.strerror(error.errno or 0)}")


def _identify(file: ImageFile, max_pixels: int) -> LabelledImage:
    """A large file that is no image (a video, say) is not read beyond its beginning."""
    with file.path.open("rb") as opened:
        data = opened.read(images.SNIFFED_BYTES)
        if images.is_image(data):
            data += opened.read()
    info = images.inspect(data, max_pixels=max_pixels)
    return LabelledImage(file, hashlib.sha256(data).hexdigest(), info.format, info.shorter_side)
