"""Every file of the data set is read once: is it an image, which one (sha256), and how large?

Files are decoded here, too, so that a damaged one is known before the split is drawn.
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import closing
from functools import partial

from classifier.data import images
from classifier.data.catalogue import Catalogue, Found
from classifier.data.dataset import ImageFile, Skipped
from classifier.data.images import ImageError, ImageTooLarge
from classifier.job.failures import StepError
from classifier.job.workers import Progress, each

NAMED = 3  # so many unreadable files are named in an error
FOUND_AT_A_TIME = 512


def inspect(catalogue: Catalogue, *, max_megapixels: float, workers: int) -> list[Skipped]:
    """Tell the catalogue which files are images. The others, in the files' order, each with its reason."""
    progress = Progress("checked", catalogue.count_files())
    found: list[Found] = []
    skipped: list[Skipped] = []
    work = partial(_inspect, max_pixels=int(max_megapixels * 1e6))
    with closing(each(work, catalogue.files(), workers=workers)) as results:
        for result in results:
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                found.append(result)
            if len(found) == FOUND_AT_A_TIME:
                catalogue.describe(found)
                found.clear()
            progress.advance(1)
    catalogue.describe(found)
    return skipped


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


def _inspect(numbered: tuple[int, ImageFile], *, max_pixels: int) -> Found | Skipped:
    number, file = numbered
    if not file.path.is_file():
        return Skipped(file.source, "not a regular file")
    try:
        return _identify(number, file, max_pixels)
    except ImageTooLarge as error:
        raise StepError(
            f"{file.source}: {str(error).rstrip('.')}; remove or resize it, or raise data.max_image_megapixels."
        ) from error
    except ImageError as error:
        return Skipped(file.source, str(error))
    except OSError as error:
        return Skipped(file.source, f"cannot be read: {os.strerror(error.errno or 0)}")


def _identify(number: int, file: ImageFile, max_pixels: int) -> Found:
    """A large file that is no image (a video, say) is not read beyond its beginning."""
    with file.path.open("rb") as opened:
        data = opened.read(images.SNIFFED_BYTES)
        if images.is_image(data):
            data += opened.read()
    info = images.inspect(data, max_pixels=max_pixels)
    return Found(number, hashlib.sha256(data).hexdigest(), info.format, info.shorter_side)
