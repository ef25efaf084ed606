"""What is done to every image: how large it is kept, and which views of it are embedded.

A view is a slightly different crop of a training image, always the same for the same seed, image and number.
"""

import argparse
import importlib.metadata
import io
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from classifier.data import images
from classifier.data.images import Box, ImageError, Picture, Pixels, Preprocess
from classifier.job.failures import StepError
from classifier.model.backbone import Weights

RECIPE_VERSION = 3  # to be counted up when other code makes other embeddings of the same image
LIBRARIES = ("numpy", "pillow", "timm", "torch")  # other versions of them may make other embeddings, too
TINY_PX = 64  # images whose median shorter side is below this are tiny: digits, icons
# Larger than the backbones were trained at, which made things look larger to them than they do in a whole image, and to
# the shorter side's ends: of photos, the usual 224 px of 256 were 2.3 points of accuracy worse in cross-validation.
IMAGE_SIZE_PX, TINY_IMAGE_SIZE_PX = 256, 128
LEARNED_IMAGE_SIZE_PX = 224  # a backbone that learns from the images gets used to their scale, and pays for each pixel
RUN_LENGTHS = 3  # zlib's Z_RLE: of photos it makes as small files as Pillow's default, in two thirds of the time
SAVING: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG", "compress_level": 1, "compress_type": RUN_LENGTHS},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}
AREA = (0.75, 1.0)  # share of the image that a view shows; less of a digit is another digit
LOG_ASPECT = math.log(1.15)  # views are that much wider or narrower than square, at most


@dataclass(frozen=True)
class Recipe:
    """What is done to every image."""

    preprocess: Preprocess
    augmented_views: int  # random views per training image, besides the plain one
    flip: bool
    seed: int
    max_pixels: int
    tiny: bool = False  # digits, icons

    def views_of(self, split: str) -> int:
        """Return the number of views: the plain one, and in training the augmented ones."""
        return 1 + (self.augmented_views if split == "train" else 0)

    def prepare(self, file: Path, suffix: str) -> tuple[Picture, bytes]:
        """Decode one image; return the prepared one, and its file (.png or .jpg)."""
        try:
            decoded = images.decode(file.read_bytes(), max_pixels=self.max_pixels, preprocess=self.preprocess)
        except ImageError as error:
            raise StepError(f"{file} was changed while it was being prepared: {error}") from error
        image, encoded = images.shrink(decoded, self.preprocess), io.BytesIO()
        image.save(encoded, **SAVING[suffix])
        return image, encoded.getvalue()

    def views(self, image: Picture, sha256: str, count: int) -> Pixels:
        """Return views of a prepared image, (count, H, W, 3) uint8: the plain one, and others by sha256."""
        views = [images.to_pixels(image, self.preprocess)]
        side = self.preprocess.image_size
        for number in range(count - 1):
            draw = random.Random(f"{self.seed}:{sha256}:{number}")  # the same numbers on every machine
            view = images.resize(image, (side, side), self.preprocess, random_box(image.size, draw))
            if self.flip and draw.random() < 0.5:
                view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            views.append(np.asarray(view))
        return np.stack(views)

    def document(self, weights: Weights, device: str) -> dict[str, Any]:
        """Return all that an image's embeddings depend on; where one of these differs, cached ones do not count."""
        return {
            "version": RECIPE_VERSION,
            "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
            "device": device,
            "weights": [weights.backbone, weights.sha256],
            "preprocess": self.preprocess.to_dict(),
            "views": [self.seed, self.flip],
        }


def choose_recipe(listed: pd.DataFrame, weights: Weights, options: argparse.Namespace) -> Recipe:
    """See images up to the ends of their shorter side, and do not mirror tiny ones: they tend to be digits or icons."""
    tiny = bool(listed["shorter_side"].median() < TINY_PX)
    photo_size = IMAGE_SIZE_PX if options.finetune == "none" else LEARNED_IMAGE_SIZE_PX
    size = options.image_size or (TINY_IMAGE_SIZE_PX if tiny else photo_size)
    return Recipe(
        preprocess=Preprocess(size, size, weights.mean, weights.std),
        augmented_views=options.augmented_views,
        flip=not tiny if options.horizontal_flip == "auto" else options.horizontal_flip == "true",
        seed=options.split_seed,
        max_pixels=int(options.max_image_megapixels * 1e6),
        tiny=tiny,
    )


def random_box(size: tuple[int, int], draw: random.Random) -> Box:
    """Return a random part of an image of that size, in px."""
    area = size[0] * size[1] * draw.uniform(*AREA)
    aspect = math.exp(draw.uniform(-LOG_ASPECT, LOG_ASPECT))
    width, height = min(math.sqrt(area * aspect), size[0]), min(math.sqrt(area / aspect), size[1])
    left, top = draw.uniform(0, size[0] - width), draw.uniform(0, size[1] - height)
    return left, top, min(left + width, size[0]), min(top + height, size[1])
