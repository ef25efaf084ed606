"""Occlusion maps: they show where a network looks, and nothing where it looks nowhere."""

import numpy as np
from PIL import Image

from classifier.data.images import Pixels
from classifier.evaluation.occlusion import GRID, occlusion_heat, overlay


def brightness_at(row: slice, column: slice):
    """A network of two classes that looks at one corner only: the brighter it is, the likelier the first class."""

    def answer(pixels: Pixels) -> np.ndarray:
        share = pixels[:, row, column].mean(axis=(1, 2, 3)) / 255 * 0.98 + 0.01
        return np.stack([share, 1 - share], axis=1).astype(np.float32)

    return answer


def test_the_map_points_at_what_the_network_looks_at() -> None:
    pixels = np.zeros((70, 105, 3), dtype=np.uint8)
    pixels[10:20, 75:90] = 255
    heat = occlusion_heat(pixels, brightness_at(slice(10, 20), slice(75, 90)))
    assert heat.shape == (GRID, GRID)
    assert np.unravel_index(heat.argmax(), heat.shape) == (1, 4)
    assert (heat[3:] == 0).all()
    drawn = np.asarray(overlay(Image.fromarray(pixels), heat)).astype(int)
    assert drawn.shape == pixels.shape
    coloured = drawn.max(axis=2) - drawn.min(axis=2) > 30
    assert coloured[15, 82]
    assert not coloured[50:].any()


def test_a_network_that_looks_nowhere_leaves_the_picture_grey() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    heat = occlusion_heat(pixels, lambda copies: np.full((len(copies), 3), 1 / 3, dtype=np.float32))
    drawn = np.asarray(overlay(Image.fromarray(pixels), heat)).astype(int)
    assert (drawn.max(axis=2) == drawn.min(axis=2)).all()


def test_a_certain_network_gives_no_infinite_heat() -> None:
    pixels = np.full((7, 7, 3), 9, dtype=np.uint8)
    heat = occlusion_heat(pixels, lambda copies: np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (len(copies), 1)))
    assert np.isfinite(heat).all()
