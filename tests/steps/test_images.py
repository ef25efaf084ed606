"""Decoding of every accepted format and mode, and the promise that stored images give the same pixels."""

import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classifier.data.images import (
    ImageError,
    ImageTooLarge,
    Preprocess,
    decode,
    inspect,
    is_image,
    normalise,
    shrink,
    to_pixels,
)

MAX_PIXELS = 1_000_000
HALF = (0.5, 0.5, 0.5)
PREPROCESS = Preprocess(image_size=56, resize_to=64, mean=HALF, std=HALF)
RED, BLUE = (250, 10, 20), (10, 20, 250)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
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


def assert_red_over_blue(image: Image.Image, *, tolerance: int = 12) -> None:
    assert image.mode == "RGB"
    corners = [(2, 2, RED), (image.width - 3, 2, RED), (2, image.height - 3, BLUE)]
    for x, y, colour in corners:
        found = image.getpixel((x, y))
        assert np.abs(np.subtract(found, colour)).max() <= tolerance, f"({x}, {y}) is {found}, not {colour}"


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 95}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("GIF", {}),
    ],
)
def test_every_accepted_format_is_decoded(format: str, options: dict[str, Any]) -> None:
    data = encoded(red_over_blue(), format, **options)
    assert is_image(data[:16])
    image = decode(data, max_pixels=MAX_PIXELS)
    assert image.size == (40, 60)
    assert_red_over_blue(image)


def test_a_jpeg_with_several_pictures_gives_the_first() -> None:
    data = encoded(red_over_blue(), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 60), "white")])
    assert_red_over_blue(decode(data, max_pixels=MAX_PIXELS))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_used(format: str) -> None:
    frames = [Image.new("RGB", (40, 60), colour) for colour in ("lime", "black")]
    data = encoded(red_over_blue(), format, save_all=True, append_images=frames)
    assert_red_over_blue(decode(data, max_pixels=MAX_PIXELS))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    stored = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.ROTATE_90, Image.Transpose.FLIP_TOP_BOTTOM],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.ROTATE_270, Image.Transpose.FLIP_TOP_BOTTOM],
        8: [Image.Transpose.ROTATE_270],
    }
    corner = red_over_blue()
    corner.paste((240, 240, 240), (30, 0, 40, 10))  # top right: tells mirrored from upright
    turned = corner
    for method in stored.get(orientation, []):
        turned = turned.transpose(method)
    image = decode(encoded(turned, format, exif=exif(orientation)), max_pixels=MAX_PIXELS)
    assert image.size == (40, 60)
    assert np.abs(np.subtract(image.getpixel((36, 4)), 240)).max() < 20
    assert np.abs(np.subtract(image.getpixel((4, 4)), RED)).max() < 20
    assert np.abs(np.subtract(image.getpixel((36, 56)), BLUE)).max() < 20


def test_an_unreadable_exif_block_counts_as_upright() -> None:
    data = encoded(red_over_blue(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_red_over_blue(decode(data, max_pixels=MAX_PIXELS))


def test_cmyk_is_converted() -> None:
    data = encoded(red_over_blue().convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert_red_over_blue(decode(data, max_pixels=MAX_PIXELS))


def test_grey_and_bilevel_images_become_rgb() -> None:
    grey = decode(encoded(Image.new("L", (8, 8), 77), "PNG"), max_pixels=MAX_PIXELS)
    assert (grey.mode, grey.getpixel((3, 3))) == ("RGB", (77, 77, 77))
    black = decode(encoded(Image.new("1", (8, 8), 0), "PNG"), max_pixels=MAX_PIXELS)
    assert (black.mode, black.getpixel((3, 3))) == ("RGB", (0, 0, 0))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(format: str) -> None:
    levels = np.array([[0, 257, 128 * 257, 65535, 300, 65000]], dtype=np.uint16)
    data = encoded(Image.fromarray(levels), format)
    image = decode(data, max_pixels=MAX_PIXELS)
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255, 1, 253]


def test_big_endian_sixteen_bit_tiff_is_read_correctly() -> None:
    tiff = encoded(Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 257, 65535)), "TIFF")
    image = decode(tiff, max_pixels=MAX_PIXELS)
    assert np.asarray(image)[0, :, 1].tolist() == [1, 255]


def test_alpha_is_laid_over_white() -> None:
    for transparent in (
        encoded(Image.new("RGBA", (4, 4), (10, 20, 30, 0)), "PNG"),
        encoded(Image.new("LA", (4, 4), (10, 0)), "PNG"),
        encoded(Image.new("RGBA", (4, 4), (10, 20, 30, 0)), "WEBP", lossless=True),
        encoded(Image.new("RGB", (4, 4), (10, 20, 30)), "PNG", transparency=(10, 20, 30)),
        encoded(Image.new("L", (4, 4), 10), "PNG", transparency=10),
    ):
        image = decode(transparent, max_pixels=MAX_PIXELS)
        assert (image.mode, image.getpixel((1, 1))) == ("RGB", (255, 255, 255))
    half = decode(encoded(Image.new("LA", (4, 4), (100, 128)), "PNG"), max_pixels=MAX_PIXELS)
    assert half.getpixel((1, 1)) == (177, 177, 177)


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_palette_with_transparency_is_laid_over_white(format: str) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, *RED, *BLUE])
    image.putpixel((0, 0), 1)
    image.putpixel((1, 0), 2)
    decoded = decode(encoded(image, format, transparency=0), max_pixels=MAX_PIXELS)
    assert [decoded.getpixel((x, 0)) for x in range(3)] == [RED, BLUE, (255, 255, 255)]


def test_floating_point_pixels_are_refused() -> None:
    data = encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(ImageError) as error:
        decode(data, max_pixels=MAX_PIXELS)
    assert str(error.value) == (
        "The image has pixels of Pillow's mode F, but grey, RGB, CMYK, YCbCr and palette images of 8 or 16 bits per "
        "channel are accepted."
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "The file is empty."),
        (b"not a picture\n", "The file is not a JPEG, PNG, WebP, BMP, TIFF or GIF image."),
        (b"%PDF-1.7\n", "The file is not a JPEG, PNG, WebP, BMP, TIFF or GIF image."),
        (encoded(Image.new("RGB", (4, 4)), "PPM"), "The file is not a JPEG, PNG, WebP, BMP, TIFF or GIF image."),
        (encoded(Image.new("RGB", (4, 4)), "PNG")[:20], "The image is damaged: its header cannot be read."),
        (b"BM and more text", "The image is damaged: its header cannot be read."),
    ],
)
def test_what_is_no_image_is_refused(data: bytes, message: str) -> None:
    for function in (decode, inspect):
        with pytest.raises(ImageError) as error:
            function(data, max_pixels=MAX_PIXELS)
        assert str(error.value) == message


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_truncated_image_is_refused(format: str) -> None:
    data = encoded(noise(300, 200), format)
    for function in (decode, inspect):
        with pytest.raises(ImageError, match=r"^The image is damaged: .+\.$"):
            function(data[: len(data) * 2 // 3], max_pixels=MAX_PIXELS)


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces many pixels and holds none."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b""), b"IEND"]
    packed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_too_many_pixels_are_refused_before_any_is_decoded() -> None:
    for function in (decode, inspect):
        with pytest.raises(ImageTooLarge) as error:
            function(png_header(60_000, 60_000), max_pixels=100_000_000)
        assert str(error.value) == ("The image has 3,600.0 megapixels (60000 x 60000), but at most 100 are accepted.")


def test_the_pixel_limit_itself_is_accepted() -> None:
    data = encoded(Image.new("RGB", (100, 50)), "PNG")
    assert decode(data, max_pixels=5000).size == (100, 50)
    with pytest.raises(ImageTooLarge):
        decode(data, max_pixels=4999)


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
    assert np.abs(to_pixels(image, preprocess).astype(int) - whole).max() <= 4


def test_other_formats_are_decoded_whole() -> None:
    data = encoded(noise(600, 400), "PNG")
    assert decode(data, max_pixels=MAX_PIXELS, preprocess=PREPROCESS).size == (600, 400)


def test_a_jpeg_decoded_smaller_is_upright_and_refused_when_damaged() -> None:
    data = encoded(red_over_blue(400, 600).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif(6), quality=95)
    image = decode(data, max_pixels=MAX_PIXELS, preprocess=PREPROCESS)
    assert image.size == (200, 300)
    assert_red_over_blue(image)
    with pytest.raises(ImageError, match=r"^The image is damaged: .+\.$"):
        decode(data[: len(data) // 2], max_pixels=MAX_PIXELS, preprocess=PREPROCESS)


def test_inspecting_tells_the_format_and_the_shorter_side() -> None:
    info = inspect(encoded(noise(300, 200), "JPEG"), max_pixels=MAX_PIXELS)
    assert (info.format, info.shorter_side) == ("JPEG", 200)
    info = inspect(encoded(noise(30, 200), "PNG"), max_pixels=MAX_PIXELS)
    assert (info.format, info.shorter_side) == ("PNG", 30)
    info = inspect(encoded(noise(5, 3), "JPEG"), max_pixels=MAX_PIXELS)
    assert (info.format, info.shorter_side) == ("JPEG", 3)


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
            outcomes.add(outcome(decode, damaged))
            assert outcome(decode, damaged) == outcome(inspect, damaged)
    assert outcomes == {"decoded", "ImageError", "ImageTooLarge"}


def outcome(function: Callable[..., object], data: bytearray) -> str:
    try:
        function(bytes(data), max_pixels=MAX_PIXELS)
    except ImageError as error:
        return type(error).__name__
    return "decoded"


SIZES = [
    (8, 8),
    (64, 64),
    (63, 200),
    (65, 64),
    (300, 201),
    (201, 300),
    (1000, 137),
    (64, 5000),
    (5000, 70),
    (3000, 1),
    (1, 1),
]


@pytest.mark.parametrize("size", SIZES)
def test_a_shrunk_image_gives_the_same_pixels_as_the_original(size: tuple[int, int]) -> None:
    image = noise(*size)
    shrunk = shrink(image, PREPROCESS)
    assert min(shrunk.size) == min(*size, 64)
    assert max(shrunk.size) <= 4 * min(shrunk.size)
    np.testing.assert_array_equal(to_pixels(shrunk, PREPROCESS), to_pixels(image, PREPROCESS))


def test_a_stored_png_gives_the_same_pixels_as_the_original() -> None:
    image = noise(300, 201)
    stored = encoded(shrink(image, PREPROCESS), "PNG")
    restored = decode(stored, max_pixels=MAX_PIXELS)
    np.testing.assert_array_equal(to_pixels(restored, PREPROCESS), to_pixels(image, PREPROCESS))


def test_pixels_are_the_centre_of_the_resized_image() -> None:
    image = Image.new("RGB", (300, 100), "black")
    image.paste("white", (100, 0, 200, 100))
    pixels = to_pixels(image, PREPROCESS)
    assert (pixels.shape, pixels.dtype) == ((56, 56, 3), np.uint8)
    assert pixels.min() == 255


def test_small_images_are_enlarged_for_the_network_but_not_for_storage() -> None:
    image = red_over_blue(8, 8)
    assert shrink(image, PREPROCESS).size == (8, 8)
    assert to_pixels(image, PREPROCESS).shape == (56, 56, 3)


def test_normalised_pixels_are_channels_first_with_the_given_mean_and_deviation() -> None:
    preprocess = Preprocess(2, 2, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    pixels = np.zeros((5, 2, 2, 3), np.uint8)
    pixels[0, 0, 1] = 255
    normalised = normalise(pixels, preprocess)
    assert (normalised.shape, normalised.dtype) == ((5, 3, 2, 2), np.float32)
    np.testing.assert_allclose(normalised[0, :, 0, 1], [1, 3, 1], rtol=1e-6)
    np.testing.assert_allclose(normalised[4, :, 0, 0], [-1, -1, 0], rtol=1e-6)
    assert normalise(pixels[0], preprocess).shape == (3, 2, 2)


def test_preprocess_survives_json() -> None:
    stored = PREPROCESS.to_dict()
    assert stored == {
        "image_size": 56,
        "resize_to": 64,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
    }
    assert Preprocess.from_dict(stored) == PREPROCESS


def test_impossible_preprocessing_is_refused() -> None:
    with pytest.raises(ValueError) as error:
        Preprocess(64, 56, HALF, HALF)
    assert str(error.value) == "image_size must be between 1 and resize_to (56), but got 64."
    with pytest.raises(ValueError) as error:
        Preprocess(56, 64, HALF, HALF, "nearest")
    assert str(error.value) == "interpolation must be bilinear or bicubic or lanczos, but got 'nearest'."
