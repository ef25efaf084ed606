"""Where a network looks: how much less likely its answer becomes as each part of the picture is covered in turn.

Occlusion (Zeiler and Fergus, 2014) asks the network as it is deployed, in any runtime or behind an endpoint, and needs
neither gradients nor layers. GRID x GRID overlapping squares are covered with the picture's mean colour.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from classifier.data.images import Picture, Pixels

GRID = 6
PATCH = 2 / GRID  # of the side: each place is covered four times, at the edges less
FAINT = 0.1  # nats; where no place costs more than that, none matters
COLD, HOT = (200, 30, 30), (255, 235, 60)  # where it matters a little, and most
OPAQUE = 0.65
Heat = npt.NDArray[np.float32]  # (GRID, GRID): by how much the logarithm of the probability falls, in nats
Answer = Callable[[Pixels], npt.NDArray[np.float32]]  # pictures (N, H, W, 3) uint8 -> probabilities (N, C)


def occlusion_heat(pixels: Pixels, answer: Answer) -> Heat:
    """Return how much the class that is predicted for a picture (H, W, 3) depends on each of its places."""
    probabilities = np.log(np.maximum(answer(np.concatenate([pixels[None], occluded(pixels)])), 1e-12))
    falls = probabilities[0].max() - probabilities[1:, probabilities[0].argmax()]
    return np.asarray(falls.reshape(GRID, GRID), dtype=np.float32)


def occluded(pixels: Pixels) -> Pixels:
    """Return GRID * GRID copies (N, H, W, 3), row by row, each with another square covered."""
    copies = np.repeat(pixels[None], GRID * GRID, axis=0)
    colour = pixels.mean(axis=(0, 1)).astype(np.uint8)
    spans = [[cut(place, side) for place in range(GRID)] for side in pixels.shape[:2]]
    for number, (row, column) in enumerate(np.ndindex(GRID, GRID)):
        copies[number, spans[0][row], spans[1][column]] = colour
    return copies


def cut(place: int, side: int) -> slice:
    """Return the pixels that a square's side covers."""
    middle, reach = (place + 0.5) * side / GRID, PATCH * side / 2
    return slice(max(0, round(middle - reach)), min(side, round(middle + reach)))


def overlay(picture: Picture, heat: Heat) -> Picture:
    """Return the picture in grey, coloured where the answer depends on it; grey alone where no place matters."""
    grey = np.asarray(picture.convert("L").convert("RGB"), dtype=np.float32)
    strength = np.maximum(heat, 0) / max(float(heat.max()), FAINT)
    smooth = Image.fromarray(strength.astype(np.float32)).resize(picture.size, Image.Resampling.BICUBIC)
    share = np.clip(np.asarray(smooth), 0, 1)[..., None]
    colour = np.array(COLD) * (1 - share) + np.array(HOT) * share
    weight = OPAQUE * share
    return Image.fromarray((grey * (1 - weight) + colour * weight).astype(np.uint8))
