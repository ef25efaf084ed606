"""Decoding of every accepted format and mode, and the promise that stored images give the same pixels."""

import io
import random
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classifier.data.images import (
    FORMATS,
    ImageError,
    ImageTooLarge,
    Preprocess,
    decode,
    from_pixels,
    normalise,
    shrink,
    to_pixels,
)
from tests.steps.prepared_data import STEPS

MAX_PIXELS = 1_000_000
HALF = (0.5, 0.5, 0.5)
PREPROCESS = Preprocess(image_size=56, resize_to=64, mean=HALF, std=HALF)
RED, BLUE = (250, 10, 20), (10, 20, 250)


def encoded(image: Image.Image, format: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, format, **options)
    return buffer.getvalue()


def red_over_blue(width: int = 40, height: int = 60) -> Image.Image:
    """The upper half red, the lower half blue."""
    image = Image.new("RGB", (width, height), BLUE)
    image.paste(RED, (0, 0, width, height // 2))
    return image


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def assert_red_over_blue(image: Image.Image) -> None:
    assert image.mode == "RGB"
    for x, y, colour in [(2, 2, RED), (image.width - 3, 2, RED), (2, image.height - 3, BLUE)]:
        assert np.abs(np.subtract(image.getpixel((x, y)), colour)).max() <= 12, (x, y)


FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (40, 60), colour) for colour in ("lime", "black")]}


@pytest.mark.parametrize(
    ("format", "options"),
    [
        *(("JPEG", {"quality": 95, **options}) for options in ({}, {"progressive": True}, {"mode": "CMYK"})),
        ("JPEG", {"exif": b"Exif\0\0MM\0*\0\0\xff\xff"}),  # which cannot be read, and counts as upright
        *(("WEBP", options) for options in ({"quality": 95}, {"lossless": True})),
        *(("TIFF", options) for options in ({}, {"compression": "tiff_lzw"})),
        *((format, {}) for format in ("PNG", "BMP", "GIF")),
        *(("HEIF", {"quality": 95}) for format in FORMATS if format == "HEIF"),  # where pillow-heif is installed
        *((format, FRAMES) for format in ("GIF", "WEBP", "PNG", "MPO")),  # the first one counts
    ],
)
def test_every_accepted_format_is_decoded(format: str, options: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = decode(encoded(red_over_blue(), format, **options), max_pixels=MAX_PIXELS)
    assert image.size == (40, 60)
    assert_red_over_blue(image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    method = Image.Transpose  # which of them undoes an orientation
    stored = {2: method.FLIP_LEFT_RIGHT, 3: method.ROTATE_180, 4: method.FLIP_TOP_BOTTOM, 5: method.TRANSPOSE,
              6: method.ROTATE_90, 7: method.TRANSVERSE, 8: method.ROTATE_270}  # fmt: skip
    corner = red_over_blue()
    corner.paste((240, 240, 240), (30, 0, 40, 10))  # top right: tells mirrored from upright
    turned = corner.transpose(stored[orientation]) if orientation > 1 else corner
    image = decode(encoded(turned, format, exif=exif(orientation)), max_pixels=MAX_PIXELS)
    assert image.size == (40, 60)
    for place, colour in (((36, 4), (240,) * 3), ((4, 4), RED), ((36, 56), BLUE)):
        assert np.abs(np.subtract(image.getpixel(place), colour)).max() < 20


def palette() -> Image.Image:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, *RED, *BLUE])
    image.putdata([1, 2, 0, 0] * 4)
    return image


LEVELS = np.array([[0, 257, 128 * 257, 65535, 300, 65000]], dtype=np.uint16)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(Image.new("L", (4, 4), 77)), [(77,) * 3]),
        (encoded(Image.new("1", (4, 4), 0)), [(0,) * 3]),
        (encoded(Image.fromarray(LEVELS)), [(level,) * 3 for level in (0, 1, 128, 255, 1, 253)]),
        (encoded(Image.fromarray(LEVELS), "TIFF"), [(level,) * 3 for level in (0, 1, 128, 255, 1, 253)]),
        (encoded(Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 257, 65535)), "TIFF"), [(1,) * 3, (255,) * 3]),
        (encoded(Image.new("RGBA", (4, 4), (10, 20, 30, 0))), [(255,) * 3]),
        (encoded(Image.new("LA", (4, 4), (10, 0))), [(255,) * 3]),
        (encoded(Image.new("LA", (4, 4), (100, 128))), [(177,) * 3]),
        (encoded(Image.new("RGBA", (4, 4), (10, 20, 30, 0)), "WEBP", lossless=True), [(255,) * 3]),
        (encoded(Image.new("RGB", (4, 4), (10, 20, 30)), "PNG", transparency=(10, 20, 30)), [(255,) * 3]),
        (encoded(Image.new("L", (4, 4), 10), "PNG", transparency=10), [(255,) * 3]),
        (encoded(palette(), "PNG", transparency=0), [RED, BLUE, (255,) * 3]),
        (encoded(palette(), "GIF", transparency=0), [RED, BLUE, (255,) * 3]),
    ],
)
def test_every_mode_becomes_rgb_over_white(data: bytes, expected: list[tuple[int, int, int]]) -> None:
    image = decode(data, max_pixels=MAX_PIXELS)
    assert (image.mode, [image.getpixel((x, 0)) for x in range(len(expected))]) == ("RGB", expected)


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces many pixels and holds none."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b""), b"IEND"]
    packed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


NO_IMAGE = "The file is not a JPEG, PNG, WebP, BMP, TIFF or GIF image."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "The file is empty."),
        (b"not a picture\n", NO_IMAGE),
        (b"%PDF-1.7\n", NO_IMAGE),
        (encoded(Image.new("RGB", (4, 4)), "PPM"), NO_IMAGE),
        (encoded(Image.new("RGB", (4, 4)))[:20], "The image is damaged: its header cannot be read."),
        (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
         "The image has pixels of Pillow's mode F, but grey, RGB, CMYK, YCbCr and palette images of 8 or 16 bits per "
         "channel are accepted."),
        (encoded(Image.new("L", (1001, 1000))),
         "The image has 1.0 megapixels (1001 x 1000), but at most 1 are accepted."),
        (png_header(60_000, 60_000),
         "The image has 3,600.0 megapixels (60000 x 60000), but at most 1 are accepted."),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ImageError) as error:
        decode(data, max_pixels=MAX_PIXELS)
    assert str(error.value) == message
    assert isinstance(error.value, ImageTooLarge) == ("megapixels" in message)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("preprocess", [None, PREPROCESS])
def test_a_truncated_image_is_refused(format: str, preprocess: Preprocess | None) -> None:
    data = encoded(noise(300, 200), format)
    with pytest.raises(ImageError, match=r"^The image is damaged: .+\.$"):
        decode(data[: len(data) * 2 // 3], max_pixels=MAX_PIXELS, preprocess=preprocess)


@pytest.mark.parametrize(
    ("size", "decoded"), [((2000, 1500), (250, 188)), ((300, 250), (150, 125)), ((250, 200), (250, 200))]
)
def test_a_large_jpeg_is_decoded_no_larger_than_needed(size: tuple[int, int], decoded: tuple[int, int]) -> None:
    preprocess = Preprocess(image_size=56, resize_to=60, mean=HALF, std=HALF)
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(size)
    data = encoded(smooth, "JPEG", quality=95)
    image = decode(data, max_pixels=3_000_000, preprocess=preprocess)
    assert image.size == decoded
    whole = to_pixels(decode(data, max_pixels=3_000_000), preprocess)
    assert np.abs(to_pixels(image, preprocess).astype(int) - whole).max() <= 6
    assert decode(encoded(smooth), max_pixels=3_000_000, preprocess=preprocess).size == size


def test_a_jpeg_decoded_smaller_is_upright() -> None:
    data = encoded(red_over_blue(400, 600).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif(6), quality=95)
    image = decode(data, max_pixels=MAX_PIXELS, preprocess=PREPROCESS)
    assert image.size == (200, 300)
    assert_red_over_blue(image)


def test_damaged_images_raise_nothing_but_image_errors() -> None:
    image = noise(24, 32)
    samples = [encoded(image, name, exif=exif(6)) for name in ("JPEG", "PNG", "WEBP")]
    samples += [encoded(image, "BMP"), encoded(image.quantize(16), "GIF"), encoded(image, "TIFF")]
    draw = random.Random(0)
    outcomes = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(1500):
            damaged = bytearray(draw.choice(samples))
            for _ in range(draw.choice((1, 3, 20))):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
            try:
                decode(bytes(damaged), max_pixels=MAX_PIXELS)
                outcomes.add("decoded")
            except ImageError as error:
                outcomes.add(type(error).__name__)
    assert outcomes == {"decoded", "ImageError", "ImageTooLarge"}


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 3), (3, 4, 4)])
def test_pixels_become_the_picture_that_their_file_would(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    file = encoded(Image.fromarray(pixels.squeeze(-1) if shape[-1] == 1 else pixels))
    np.testing.assert_array_equal(np.asarray(from_pixels(pixels)), np.asarray(decode(file, max_pixels=100)))


DECODE_IN_NEW_PROCESSES = r"""
import os, re, sys
from pathlib import Path
from classifier.data.images import decode_opened, decoding_bytes, open_image
def peak(): return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
for file in sys.argv[1:]:
    if os.fork() == 0:
        image = open_image(Path(file).read_bytes(), 10**8)
        before, announced = peak(), decoding_bytes(image)
        decode_opened(image)
        print(file, peak() - before, announced, flush=True)
        os._exit(0)
    os.wait()
"""


def test_decoding_takes_no_more_memory_than_announced(tmp_path: Path) -> None:
    cases = [("RGB", "JPEG", {}), ("RGB", "JPEG", {"progressive": True}), ("CMYK", "JPEG", {}), ("L", "PNG", {}),
             ("RGBA", "PNG", {}), ("P", "PNG", {"transparency": 0}), ("I;16", "PNG", {}), ("RGB", "WEBP", {}),
             ("RGBA", "WEBP", {}), ("RGB", "TIFF", {}), ("RGB", "GIF", {})]  # fmt: skip
    files = [tmp_path / f"{number}-{mode}-{format}" for number, (mode, format, _) in enumerate(cases)]
    for file, (mode, format, options) in zip(files, cases, strict=True):
        file.write_bytes(encoded(Image.new(mode, (3000, 2000)), format, **options))
    command = [sys.executable, "-c", DECODE_IN_NEW_PROCESSES, *map(str, files)]
    process = subprocess.run(command, cwd=STEPS, capture_output=True, text=True, check=True)
    results = [line.split() for line in process.stdout.splitlines()]
    assert len(results) == len(files)
    assert not [result for result in results if not 6e6 < int(result[1]) <= int(result[2]) + 4e6]


@pytest.mark.parametrize(
    "size",
    [(8, 8), (64, 64), (63, 200), (65, 64), (300, 201), (201, 300), (1000, 137), (64, 5000), (5000, 70), (3000, 1),
     (1, 1)],
)  # fmt: skip
def test_a_stored_png_gives_the_same_pixels_as_the_original(size: tuple[int, int]) -> None:
    image = noise(*size)
    shrunk = shrink(image, PREPROCESS)
    assert min(shrunk.size) == min(*size, 64)
    assert max(shrunk.size) <= 4 * min(shrunk.size)
    restored = decode(encoded(shrunk), max_pixels=MAX_PIXELS)
    np.testing.assert_array_equal(to_pixels(restored, PREPROCESS), to_pixels(image, PREPROCESS))


def test_pixels_are_the_centre_and_normalised_channels_first_with_the_given_mean_and_deviation() -> None:
    preprocess = Preprocess(2, 2, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    pixels = np.zeros((5, 2, 2, 3), np.uint8)
    pixels[0, 0, 1] = 255
    normalised = normalise(pixels, preprocess)
    assert (normalised.shape, normalised.dtype) == ((5, 3, 2, 2), np.float32)
    np.testing.assert_allclose(normalised[0, :, 0, 1], [1, 3, 1], rtol=1e-6)
    np.testing.assert_allclose(normalised[4, :, 0, 0], [-1, -1, 0], rtol=1e-6)
    assert normalise(pixels[0], preprocess).shape == (3, 2, 2)
    image = Image.new("RGB", (300, 100), "black")
    image.paste("white", (100, 0, 200, 100))
    assert (to_pixels(image, PREPROCESS) == np.full((56, 56, 3), 255, np.uint8)).all()
