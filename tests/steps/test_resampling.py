"""Resizing: what Pillow would give but for rounding, whichever library does it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from classifier.data import resampling
from classifier.data.resampling import FILTERS, resize

FRAMES = [None, (0.0, 0.0, 90.0, 70.0), (3.25, 10.5, 90.0, 69.5)]


def photo(size: tuple[int, int] = (90, 70)) -> Image.Image:
    """Smooth, as photos are."""
    grid = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("box", FRAMES)
@pytest.mark.parametrize("size", [(32, 32), (1, 1), (89, 13), (200, 150)])
@pytest.mark.parametrize("interpolation", FILTERS)
def test_pictures_look_as_pillow_makes_them(
    interpolation: str, size: tuple[int, int], box: tuple[float, float, float, float] | None
) -> None:
    resized = resize(photo(), size, interpolation, box)
    expected = photo().resize(size, Image.Resampling[interpolation.upper()], box=box)
    assert (resized.size, resized.mode) == (size, "RGB")
    difference = np.abs(np.asarray(resized).astype(int) - np.asarray(expected))
    assert difference.max() <= 3
    assert difference.mean() < 0.5


@pytest.mark.parametrize("interpolation", FILTERS)
def test_pillow_resizes_where_the_resizer_is_not_installed(interpolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "RESAMPLER", "Pillow")
    resized = resize(photo(), (40, 30), interpolation, FRAMES[2])
    assert resized == photo().resize((40, 30), Image.Resampling[interpolation.upper()], box=FRAMES[2])


def test_boxes_may_end_at_the_edge_however_their_numbers_are_rounded() -> None:
    image, draw = photo((97, 61)), np.random.default_rng(0)
    for left, top in draw.uniform(0, 50, (2000, 2)):
        assert resize(image, (2, 2), "bicubic", (left, top, 97.0, 61.0)).size == (2, 2)


def test_threads_do_not_disturb_each_other() -> None:
    images = [photo((60 + number, 50)) for number in range(16)]
    expected = [resize(image, (32, 32), "bicubic") for image in images]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda image: resize(image, (32, 32), "bicubic"), images * 20)) == expected * 20


def test_a_picture_over_borrowed_memory_is_resized_and_left_as_it_was() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image = Image.frombuffer("RGB", (50, 40), pixels.tobytes(), "raw", "RGB", 0, 1)
    assert np.abs(np.asarray(resize(image, (50, 40), "bicubic")).astype(int) - pixels).max() <= 1
    np.testing.assert_array_equal(np.asarray(image), pixels)
