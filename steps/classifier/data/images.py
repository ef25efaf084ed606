"""Images: bytes -> decoded picture -> prepared picture -> pixels -> the network's input.

The same functions serve training, evaluation and the endpoint, so a model sees one kind of pixels everywhere:
`to_pixels(shrink(image)) == to_pixels(image)`, byte for byte.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from classifier.data.resampling import FILTERS, resize
from classifier.job.failures import cause

Pixels = npt.NDArray[np.uint8]
Picture = Image.Image

PLUGINS = (
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    BmpImagePlugin.BmpImageFile,
    TiffImagePlugin.TiffImageFile,
    GifImagePlugin.GifImageFile,
)
FORMATS = [plugin.format for plugin in PLUGINS]
LOSSLESS_FORMATS = frozenset({"PNG", "BMP", "DIB", "TIFF", "GIF"})
ACCEPTED = "JPEG, PNG, WebP, BMP, TIFF or GIF"
ASPECT_LIMIT = 4  # of a longer strip the middle is used: resizing 65,000 x 1 px must not take gigabytes
SNIFFED_BYTES = 16  # Pillow recognises a format by as many
DRAFT_GAP = 2  # a JPEG's decoder may scale down as far as this many times the side that is needed
STRIP_PIXELS = 1 << 20  # converted at a time

# What Pillow's decoders raise on damaged files.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    RuntimeError,
    struct.error,
    zlib.error,
)

ORIENTATION_TAG = 0x0112  # EXIF
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

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

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= self.resize_to:
            raise ValueError(
                f"image_size must be between 1 and resize_to ({self.resize_to}), but got {self.image_size}."
            )
        if self.interpolation not in FILTERS:
            raise ValueError(f"interpolation must be {' or '.join(FILTERS)}, but got {self.interpolation!r}.")

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Preprocess":
        """The inverse of `to_dict`."""
        mean, std = (tuple(float(value) for value in stored[key]) for key in ("mean", "std"))
        return cls(**{**stored, "mean": mean, "std": std})


@dataclass(frozen=True)
class ImageInfo:
    """What is known of an image that decodes without error."""

    format: str  # Pillow's name
    shorter_side: int  # px


def is_image(head: bytes) -> bool:
    """Whether a file that begins with `head` (SNIFFED_BYTES of it) claims to be of an accepted format."""
    return any(accepts(head) for _, accepts in (Image.OPEN[name] for name in FORMATS) if accepts)


def decode(data: bytes, *, max_pixels: int, preprocess: Preprocess | None = None) -> Picture:
    """The image upright, RGB, 8 bits per channel, alpha over white; of an animation the first frame.

    With `preprocess`, a JPEG much larger than that needs is decoded at half, a quarter or an eighth of its size, which
    is several times quicker. Pixels differ a little, so all that a model sees has to be decoded so.

    Raises:
        ImageTooLarge: more than `max_pixels`; nothing has been decoded then.
        ImageError: another format, or damaged.
    """
    return decode_opened(open_image(data, max_pixels), preprocess)


def inspect(data: bytes, *, max_pixels: int) -> ImageInfo:
    """Decode only to see that it can be done; a JPEG at an eighth of its size, which is quicker. Raises as `decode`."""
    image = open_image(data, max_pixels)
    info = ImageInfo(image.format or "", min(image.size))
    _draft(image, 1 / 8)
    decode_opened(image)
    return info


def shrink(image: Picture, preprocess: Preprocess) -> Picture:
    """What is stored as a prepared image: the shorter side at most `resize_to`, never enlarged."""
    image = _within_aspect_limit(image)
    return _resize(image, preprocess) if min(image.size) > preprocess.resize_to else image


def to_pixels(image: Picture, preprocess: Preprocess) -> Pixels:
    """The centre crop that the network sees: (image_size, image_size, 3) uint8."""
    image = _resize(_within_aspect_limit(image), preprocess)
    size = preprocess.image_size
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def normalise(pixels: Pixels, preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) float32 with mean 0 and deviation 1; a view, channels last in memory."""
    mean, std = (np.asarray(values, dtype=np.float64) for values in (preprocess.mean, preprocess.std))
    scale, shift = (1 / (255 * std)).astype(np.float32), (mean / std).astype(np.float32)
    width = pixels.shape[-2]
    rows = pixels.reshape(
        *pixels.shape[:-2], 3 * width
    )  # NumPy is ten times as quick at long rows as at three channels
    normalised = np.multiply(rows, np.tile(scale, width), dtype=np.float32)
    normalised -= np.tile(shift, width)
    return np.moveaxis(normalised.reshape(pixels.shape), -1, -3)


def channel_means(pixels: Pixels, preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """(..., H, W, 3) uint8 -> (..., 3) float32: what `normalise` gives, on average over the image."""
    mean, std = (np.asarray(values, dtype=np.float64) for values in (preprocess.mean, preprocess.std))
    height, width = pixels.shape[-3:-1]
    rows = pixels.reshape(*pixels.shape[:-2], 3 * width).sum(axis=-2, dtype=np.uint32)  # (..., 3 W), quick as above
    sums = rows.reshape(*rows.shape[:-1], width, 3).sum(axis=-2, dtype=np.uint64)
    shares = sums / (255 * height * width)  # 0..1
    means: npt.NDArray[np.float32] = ((shares - mean) / std).astype(np.float32)
    return means


def open_image(data: bytes, max_pixels: int) -> Picture:
    """The first half of `decode`: only the header is read. Raises as `decode`."""
    if not is_image(data[:SNIFFED_BYTES]):
        raise ImageError("The file is empty." if not data else f"The file is not a {ACCEPTED} image.")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except DAMAGE as error:
        raise ImageError("The image is damaged: its header cannot be read.") from error
    if image.width * image.height > max_pixels:
        raise ImageTooLarge(
            f"The image has {image.width * image.height / 1e6:,.1f} megapixels ({image.width} x {image.height}), "
            f"but at most {max_pixels / 1e6:,g} are accepted."
        )
    return image


def _draft(image: Picture, scale: float) -> None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 of its size, but no smaller than `scale` of it."""
    if scale < 1:
        image.draft(image.mode, (max(1, int(image.width * scale)), max(1, int(image.height * scale))))


def decode_opened(image: Picture, preprocess: Preprocess | None = None) -> Picture:
    """The second half of `decode`: what `open_image` returned, upright and RGB. Raises ImageError."""
    if preprocess:
        _draft(image, DRAFT_GAP * preprocess.resize_to / min(image.size))
    try:
        image.load()
        return _upright(_to_rgb(image), _orientation(image))
    except ImageError:
        raise
    except DAMAGE as error:
        raise ImageError(f"The image is damaged: {cause(error)}.") from error


def from_pixels(pixels: Pixels) -> Picture:
    """(H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8, grey, RGB or RGBA, as `decode` would return it."""
    grey = pixels.ndim == 3 and pixels.shape[2] == 1
    return _to_rgb(Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if grey else pixels)))


def decoding_bytes(image: Picture) -> int:
    """The memory that `decode_opened` takes at most, about, for what `open_image` returned: measured with Pillow 13."""
    per_pixel = BYTES_PER_PIXEL.get(image.mode, 4)
    if image.mode != "RGB" or image.has_transparency_data:
        per_pixel += RGB_BYTES + (1 + 2 if image.mode in SIXTEEN_BITS else 0)
    turned = image.format == "PNG" or _orientation(image) in UPRIGHT  # a PNG does not tell before it is decoded
    if turned or max(image.size) > ASPECT_LIMIT * min(image.size):
        per_pixel += RGB_BYTES  # a second picture
    if image.info.get("progressive"):
        per_pixel += 2 * len(image.getbands())  # coefficients
    return image.width * image.height * (per_pixel + DECODER_BYTES.get(image.format or "", 0))


def _orientation(image: Picture) -> int:
    """EXIF orientation, 1 (upright) when there is none or it cannot be read."""
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except DAMAGE:
        return 1


def _upright(image: Picture, orientation: int) -> Picture:
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _to_rgb(image: Picture) -> Picture:
    if image.mode not in CONVERSIONS:
        raise ImageError(
            f"The image has pixels of Pillow's mode {image.mode}, but grey, RGB, CMYK, YCbCr and palette images "
            "of 8 or 16 bits per channel are accepted."
        )
    if image.mode in SIXTEEN_BITS or not image.has_transparency_data:
        return CONVERSIONS[image.mode](image)
    return _over_white(image)


def _over_white(image: Picture) -> Picture:
    """Strip by strip, since whole layers of a large image would take three times its memory."""
    result = Image.new("RGB", image.size)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        layer = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        result.paste(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"), (0, top))
    return result


def _from_16_bits(image: Picture) -> Picture:
    values = np.asarray(image)
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        grey[top : top + rows] = (values[top : top + rows].astype(np.uint32) + 128) // 257
    return Image.fromarray(grey).convert("RGB")


def _from_8_bits(image: Picture) -> Picture:
    return image if image.mode == "RGB" else image.convert("RGB")


RGB_BYTES = 4  # Pillow keeps a fourth, unused one
BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}  # of others 4
DECODER_BYTES = {"WEBP": 12, "TIFF": 2}  # per pixel, of the library's own
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
CONVERSIONS: dict[str, Callable[[Picture], Picture]] = {
    **dict.fromkeys(SIXTEEN_BITS, _from_16_bits),
    **dict.fromkeys(EIGHT_BITS, _from_8_bits),
}


def _within_aspect_limit(image: Picture) -> Picture:
    """The middle of a strip longer than ASPECT_LIMIT times its width; any other image as it is."""
    longest = ASPECT_LIMIT * min(image.size)
    if max(image.size) <= longest:
        return image
    width, height = (min(side, longest) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _resize(image: Picture, preprocess: Preprocess) -> Picture:
    """The shorter side at exactly `resize_to`."""
    shorter = min(image.size)
    if shorter == preprocess.resize_to:
        return image
    width, height = ((side * preprocess.resize_to + shorter // 2) // shorter for side in image.size)
    return resize(image, (width, height), preprocess.interpolation)
