"""Every file of the data set is read once: is it an image, which one (sha256), and how large?

Files are decoded here, too, so that a damaged one is known before the split is drawn.
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from classifier.data.dataset import Listing, Skipped, printable
from classifier.data.images import ImageError, ImageTooLarge, decode_opened, open_image
from classifier.job.failures import StepError
from classifier.job.system import Progress, each

NAMED = 3  # so many unreadable files are named in an error


def inspect(listing: Listing, *, max_megapixels: float, workers: int) -> tuple[pd.DataFrame, list[Skipped]]:
    """Return the rows of the listing that are images, and the other files with their reasons.

    To each image is added: `sha256` of the file's bytes, `format` (Pillow's name), `shorter_side` (px).
    """
    progress, found = Progress("checked", len(listing.files)), []
    work = partial(_inspect, listing.root, max_pixels=int(max_megapixels * 1e6))
    with closing(each(work, listing.files["path"], workers=workers)) as results:
        for result in results:
            found.append(result)
            progress.advance(1)
    images = listing.files[[not isinstance(result, Skipped) for result in found]]
    columns = zip(*(result for result in found if not isinstance(result, Skipped)), strict=True)
    sha256, format, shorter_side = columns if len(images) else ((), (), ())
    images = images.assign(sha256=np.array(sha256, object), format=pd.Categorical(format), shorter_side=shorter_side)
    return images, [result for result in found if isinstance(result, Skipped)]


def refuse_unreadable(skipped: Sequence[Skipped], files: int, *, max_fraction: float) -> None:
    """Refuse data with too many unreadable files, which mean that something else is wrong with it."""
    if len(skipped) <= max_fraction * files:
        return
    named = "; ".join(f"{file.path}: {file.reason.rstrip('.')}" for file in skipped[:NAMED])
    more = f"; and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
    raise StepError(
        f"{len(skipped)} of {files} files in class folders ({len(skipped) / files:.1%}) cannot be used as images, but "
        f"at most {max_fraction:.1%} is accepted ({named}{more}); remove them or raise data.max_unreadable_fraction."
    )


def _inspect(root: Path, path: str, *, max_pixels: int) -> tuple[str, str | None, int] | Skipped:
    """Return sha256, format and shorter side; of a file that is no image (a video, say) only the beginning is read."""
    if not (root / path).is_file():
        return Skipped(printable(path), "not a regular file")
    try:
        with (root / path).open("rb") as file:
            image = open_image(file, max_pixels)
            format, shorter_side = image.format, min(image.size)
            smaller = max(1, image.width // 8), max(1, image.height // 8)
            image.draft(None, smaller)  # a JPEG is decoded at an eighth of its size, which is quicker
            decode_opened(image)
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest(), format, shorter_side
    except ImageTooLarge as error:
        raise StepError(
            f"{printable(path)}: {str(error).rstrip('.')}; remove or resize it, or raise data.max_image_megapixels."
        ) from error
    except ImageError as error:
        return Skipped(printable(path), str(error))
    except OSError as error:
        return Skipped(printable(path), f"cannot be read: {os.strerror(error.errno or 0)}")
