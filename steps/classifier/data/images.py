"""Images: bytes -> decoded picture -> prepared picture -> pixels -> the network's input.

The same functions serve training, evaluation and the endpoint, so a model sees one kind of pixels everywhere:
`to_pixels(shrink(image)) == to_pixels(image)`, byte for byte.
"""

import contextlib
import importlib
import io
import struct
import zlib
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin, features

from classifier.job.failures import cause

Pixels = npt.NDArray[np.uint8]
Picture = Image.Image
Box = tuple[float, float, float, float]  # left, top, right, bottom in px, not rounded

FORMATS = ["JPEG", "PNG", WebPImagePlugin.WebPImageFile.format, "BMP", TiffImagePlugin.TiffImageFile.format, "GIF"]
FORMATS += ["AVIF"] if features.check("avif") else []
with contextlib.suppress(ImportError):  # photos of telephones are read where it is installed
    importlib.import_module("pillow_heif").register_heif_opener()
    FORMATS.append("HEIF")
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
NO_HEADER = "The image is damaged: its header cannot be read."
NEEDS_HEIF = "It is a HEIC or AVIF image, which pillow-heif reads: install that."
ASPECT_LIMIT = 4  # of a longer strip the middle is used: resizing 65,000 x 1 px must not take gigabytes
REDUCING_GAP = 2.0  # an image may be reduced by a quick method first, to this many times the size that is needed
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")

# What Pillow's decoders raise on damaged files.
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AssertionError,
          AttributeError, RuntimeError, struct.error, zlib.error)  # fmt: skip
Image.MAX_IMAGE_PIXELS = None  # Pillow warns and raises at limits of its own; `max_pixels` is checked here instead


class ImageError(ValueError):
    """An image that cannot be used: one sentence, without its path."""


class ImageTooLarge(ImageError):
    """More pixels than accepted; found before any is decoded."""


@dataclass(frozen=True)
class Preprocess:
    """What turns any image into the network's input; stored in manifest.json and model.json."""

    image_size: int  # side of the square crop, px
    resize_to: int  # shorter side after resizing, px
    mean: tuple[float, float, float]  # per channel, of pixels scaled to 0..1
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Preprocess":
        """Return what JSON keeps of it."""
        return cls(**{**stored, "mean": tuple(stored["mean"]), "std": tuple(stored["std"])})


def decode(data: bytes, *, max_pixels: int, preprocess: Preprocess | None = None) -> Picture:
    """Return the image upright, RGB, 8 bits per channel, alpha over white; of an animation the first frame.

    With `preprocess`, a JPEG is decoded no larger than that needs, which is several times quicker. Pixels differ a
    little, so whatever a model is to see has to be decoded so.
    """
    return decode_opened(open_image(data, max_pixels), preprocess)


def open_image(source: bytes | IO[bytes], max_pixels: int) -> Picture:
    """Read the header only, the first half of `decode`. Raises ImageError, or ImageTooLarge."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        file.seek(4)
        if file.read(4) == b"ftyp" and (brand := file.read(4)) in HEIF_BRANDS:
            is_known = ("AVIF" if brand.startswith(b"avi") else "HEIF") in FORMATS
            raise ImageError(NO_HEADER if is_known else NEEDS_HEIF) from error
        found = "not a JPEG, PNG, WebP, BMP, TIFF or GIF image" if file.seek(0, io.SEEK_END) else "empty"
        raise ImageError(f"The file is {found}.") from error
    except DAMAGE as error:
        raise ImageError(NO_HEADER) from error
    if image.width * image.height > max_pixels:
        raise ImageTooLarge(
            f"The image has {image.width * image.height / 1e6:,.1f} megapixels ({image.width} x {image.height}), "
            f"but at most {max_pixels / 1e6:,g} are accepted."
        )
    return image


def decode_opened(image: Picture, preprocess: Preprocess | None = None) -> Picture:
    """Decode what `open_image` returned, the second half of `decode`. Raises ImageError."""
    try:
        if preprocess:
            scale = REDUCING_GAP * preprocess.resize_to / min(image.size)
            image.draft(None, (max(1, int(image.width * scale)), max(1, int(image.height * scale))))  # of JPEGs only
        image.load()
        with contextlib.suppress(*DAMAGE):  # an orientation that cannot be read counts as upright
            ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)
    except ImageError:
        raise
    except DAMAGE as error:
        raise ImageError(f"The image is damaged: {cause(error)}.") from error


def from_pixels(pixels: Pixels) -> Picture:
    """Return (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8, grey, RGB or RGBA, as `decode` would."""
    pixels = pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels
    return to_rgb(Image.fromarray(np.ascontiguousarray(pixels)))


def to_rgb(image: Picture) -> Picture:
    """Return the picture in RGB, 8 bits per channel, over white."""
    if image.mode in SIXTEEN_BITS:  # convert() would clip them
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode not in EIGHT_BITS:
        raise ImageError(
            f"The image has pixels of Pillow's mode {image.mode}, but grey, RGB, CMYK, YCbCr and palette images "
            "of 8 or 16 bits per channel are accepted."
        )
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    flat = Image.new("RGB", image.size, "white")
    flat.paste(layer, mask=layer)
    return flat


def decoding_bytes(image: Picture) -> int:
    """Return about how much memory `decode_opened` takes at most for what `open_image` returned."""
    is_upright = False
    with contextlib.suppress(*DAMAGE):
        is_upright = image.format != "PNG" and image.getexif().get(0x0112, 1) == 1  # a PNG tells once it is decoded
    is_strip = max(image.size) > ASPECT_LIMIT * min(image.size)
    per_pixel = 4 * sum(
        [True, image.mode != "RGB", image.has_transparency_data, not is_upright or is_strip]
    )  # pictures
    per_pixel += {"WEBP": 12, "TIFF": 2, "AVIF": 12, "HEIF": 12}.get(image.format or "", 0)
    per_pixel += 2 if image.mode in SIXTEEN_BITS else 0
    per_pixel += 2 * len(image.getbands()) if image.info.get("progressive") else 0  # coefficients
    return image.width * image.height * per_pixel


def shrink(image: Picture, preprocess: Preprocess, *, enlarge: bool = False) -> Picture:
    """Return what is stored as a prepared image: the shorter side at most `resize_to`, of a long strip the middle."""
    longest = ASPECT_LIMIT * min(image.size)
    image = centre_crop(image, min(image.width, longest), min(image.height, longest))
    shorter, wanted = min(image.size), preprocess.resize_to
    if shorter == wanted or (shorter < wanted and not enlarge):
        return image
    width, height = ((side * wanted + shorter // 2) // shorter for side in image.size)
    return resize(image, (width, height), preprocess)


def to_pixels(image: Picture, preprocess: Preprocess) -> Pixels:
    """Return the centre crop that the network sees: (image_size, image_size, 3) uint8."""
    size = preprocess.image_size
    return np.asarray(centre_crop(shrink(image, preprocess, enlarge=True), size, size))


def centre_crop(image: Picture, width: int, height: int) -> Picture:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height)) if image.size != (width, height) else image


def resize(image: Picture, size: tuple[int, int], preprocess: Preprocess, box: Box | None = None) -> Picture:
    """Return the picture, or its part within `box`, at `size` (width, height) in px."""
    resampling = Image.Resampling[preprocess.interpolation.upper()]
    return image.resize(size, resampling, box=box, reducing_gap=REDUCING_GAP)


def normalise(pixels: Pixels, preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) float32 with mean 0 and deviation 1; a view, channels last in memory."""
    mean, std = (np.asarray(values, dtype=np.float64) for values in (preprocess.mean, preprocess.std))
    scale, shift = (1 / (255 * std)).astype(np.float32), (mean / std).astype(np.float32)
    width, rows = pixels.shape[-2], pixels.reshape(*pixels.shape[:-2], -1)  # NumPy is ten times as quick at long rows
    normalised = np.multiply(rows, np.tile(scale, width), dtype=np.float32)
    normalised -= np.tile(shift, width)
    return np.moveaxis(normalised.reshape(pixels.shape), -1, -3)
