"""What is done to every image, and which parts of the data set there are."""

import argparse
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from classifier.data.catalogue import Catalogue, Entry
from classifier.data.images import ImageError, Picture, Pixels, Preprocess, decode, shrink
from classifier.data.resampling import RESAMPLER
from classifier.data.views import views
from classifier.job.failures import StepError
from classifier.model.backbone import Weights
from classifier.preparation.embedding import Embedder

RECIPE_VERSION = 2  # to be counted up when other code makes other embeddings of the same image
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


@dataclass(frozen=True)
class Preparation:
    """What is done to every image; also what its embeddings depend on, besides the backbone."""

    preprocess: Preprocess
    augmented_views: int  # random views per training image, besides the plain one
    flip: bool
    seed: int
    max_pixels: int
    output_dir: Path
    tiny: bool = False  # digits, icons

    def encoded(self, entry: Entry) -> tuple[Picture, bytes]:
        """Decode one image; the prepared one, and its file."""
        try:
            decoded = decode(entry.path.read_bytes(), max_pixels=self.max_pixels, preprocess=self.preprocess)
        except ImageError as error:
            raise StepError(f"{entry.source} was changed while it was being prepared: {error}") from error
        image = shrink(decoded, self.preprocess)
        encoded = io.BytesIO()
        image.save(encoded, **SAVING[entry.suffix])
        return image, encoded.getvalue()

    def pixels(self, entry: Entry, image: Picture) -> Pixels:
        """The views of a prepared image: (views, H, W, 3) uint8."""
        key = f"{self.seed}:{entry.sha256}"
        return views(image, self.preprocess, count=self.views_of(entry.split) - 1, key=key, flip=self.flip)

    def views_of(self, split: str) -> int:
        """The plain view, and in training the augmented ones."""
        return 1 + (self.augmented_views if split == "train" else 0)

    def recipe(self, weights: Weights, embedder: Embedder) -> dict[str, Any]:
        """All that the embeddings of an image depend on: where one of these differs, cached ones do not count."""
        return {
            "version": RECIPE_VERSION,
            "torch": torch.__version__,
            "pillow": PIL.__version__,
            "resampler": RESAMPLER,
            "device": embedder.device,
            "backbone": weights.backbone,
            "weights": weights.sha256,
            "feature_dim": embedder.feature_dim,
            "preprocess": self.preprocess.to_dict(),
            "seed": self.seed,
            "flip": self.flip,
        }


@dataclass(frozen=True)
class Part:
    """Consecutive images of one split, one at least; an instance does a part or leaves it to another."""

    split: str
    number: int
    entries: list[Entry]


@dataclass(frozen=True)
class Span:
    """Where a part's images are: rows of a split."""

    split: str
    number: int
    start: int
    stop: int


def choose_preparation(catalogue: Catalogue, weights: Weights, options: argparse.Namespace) -> Preparation:
    """Images are seen up to the ends of their shorter side. Tiny ones are not mirrored: they tend to be digits, letters
    and icons."""
    tiny = bool(np.median(catalogue.shorter_sides()) < TINY_PX)
    photo_size = IMAGE_SIZE_PX if options.finetune == "none" else LEARNED_IMAGE_SIZE_PX
    size = options.image_size or (TINY_IMAGE_SIZE_PX if tiny else photo_size)
    return Preparation(
        preprocess=Preprocess(size, size, weights.mean, weights.std),
        augmented_views=options.augmented_views,
        flip=not tiny if options.horizontal_flip is None else options.horizontal_flip,
        seed=options.split_seed,
        max_pixels=int(options.max_image_megapixels * 1e6),
        output_dir=options.output_dir,
        tiny=tiny,
    )


def spans_of(sizes: Mapping[str, int], rows_per_part: int) -> list[Span]:
    """All images, in the manifest's order."""
    return [
        Span(split, number, start, min(start + rows_per_part, size))
        for split, size in sizes.items()
        for number, start in enumerate(range(0, size, rows_per_part))
    ]


def part_of(catalogue: Catalogue, span: Span) -> Part:
    return Part(span.split, span.number, list(catalogue.entries(span.split, span.start, span.stop)))
