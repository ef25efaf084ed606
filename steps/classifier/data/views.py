"""Views: slightly different crops of one training image, each always the same for the same seed, image and number."""

import math
import random

import numpy as np
from PIL import Image

from classifier.data.images import Picture, Pixels, Preprocess, to_pixels
from classifier.data.resampling import Box, resize

AREA = (0.75, 1.0)  # share of the image that a view shows; less of a digit is another digit
LOG_ASPECT = math.log(1.15)  # views are that much wider or narrower than square, at most


def views(image: Picture, preprocess: Preprocess, *, count: int, key: str, flip: bool) -> Pixels:
    """The plain centre crop and `count` random ones: (1 + count, H, W, 3) uint8."""
    plain = to_pixels(image, preprocess)
    # A text seeds Random through SHA-512: the same numbers on every machine.
    return np.stack(
        [plain, *(random_view(image, preprocess, random.Random(f"{key}:{n}"), flip=flip) for n in range(count))]
    )


def random_view(image: Picture, preprocess: Preprocess, draw: random.Random, *, flip: bool) -> Pixels:
    """A random part of the image, resized to the network's input; mirrored every other time if `flip`."""
    side = preprocess.image_size
    view = resize(image, (side, side), preprocess.interpolation, random_box(image.size, draw))
    if flip and draw.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(view)


def random_box(size: tuple[int, int], draw: random.Random) -> Box:
    """left, top, right, bottom in px, not rounded."""
    area = size[0] * size[1] * draw.uniform(*AREA)
    aspect = math.exp(draw.uniform(-LOG_ASPECT, LOG_ASPECT))
    width, height = min(math.sqrt(area * aspect), size[0]), min(math.sqrt(area / aspect), size[1])
    left, top = draw.uniform(0, size[0] - width), draw.uniform(0, size[1] - height)
    return left, top, min(left + width, size[0]), min(top + height, size[1])
