"""Embeddings: what the frozen backbone makes of every view of every image, computed once and stored with the image.

Each core decodes and embeds a few images at a time, with one thread: on two cores that is 20 % (224 px) to 60 % (96 px)
faster than one network with two threads, and results do not depend on cores. On a GPU the workers take turns.
"""

import argparse
import hashlib
import importlib.metadata
import io
import json
import math
import random
import secrets
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from classifier.data.dataset import SPLITS
from classifier.data.images import Box, Picture, Pixels, Preprocess, decode, normalise, resize, shrink, to_pixels
from classifier.data.prepared_images import ImageWriter
from classifier.job.failures import StepError, cause, say
from classifier.job.system import core_count, each, progress, whole_file
from classifier.model.backbone import Backbone, Weights, frozen

TINY_PX = 64  # images whose median shorter side is below this are tiny: digits, icons
# Larger than the backbones were trained at, which made things look larger to them than they do in a whole image, and to
# the shorter side's ends: of photos, the usual 224 px of 256 were 2.3 points of accuracy worse in cross-validation.
IMAGE_SIZE_PX, TINY_IMAGE_SIZE_PX = 256, 128
LEARNED_IMAGE_SIZE_PX = 224  # a backbone that learns from the images gets used to their scale, and pays for each pixel
SAVING: dict[str, dict[str, Any]] = {
    # Run lengths alone (Z_RLE) make as small files of photos as Pillow's default, in two thirds of the time.
    ".png": {"format": "PNG", "compress_level": 1, "compress_type": 3},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}
AREA = (0.75, 1.0)  # share of the image that a view shows; less of a digit is another digit
LOG_ASPECT = math.log(1.15)  # views are that much wider or narrower than square, at most
RECIPE_VERSION = 3  # to be counted up when other code makes other embeddings of the same image
BATCH, GPU_BATCH = 16, 128  # views; the former are few enough for a core's cache
MOST_IMAGES = 64  # of a batch, most of which are embedded already
CACHED_TOGETHER = 256  # images; a run that is killed loses no more embeddings than that

Features = npt.NDArray[np.float16]
Batch = list[tuple[Any, Features | None]]  # rows of the listing, with the features (views, D) that are known
Embedded = tuple[Any, ...]  # row, whether its features are new, these, (3,) means of the plain view, the image's file


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
        decoded = decode(file.read_bytes(), max_pixels=self.max_pixels, preprocess=self.preprocess)
        image, encoded = shrink(decoded, self.preprocess), io.BytesIO()
        image.save(encoded, **SAVING[suffix])
        return image, encoded.getvalue()

    def views(self, image: Picture, sha256: str, count: int) -> Pixels:
        """Return a prepared image's views, (count, H, W, 3) uint8: the plain one, and crops that differ by sha256."""
        views, side = [to_pixels(image, self.preprocess)], self.preprocess.image_size
        for number in range(count - 1):
            draw = random.Random(f"{self.seed}:{sha256}:{number}")  # the same numbers on every machine
            view = resize(image, (side, side), self.preprocess, random_box(image.size, draw))
            if self.flip and draw.random() < 0.5:
                view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            views.append(np.asarray(view))
        return np.stack(views)


def choose_recipe(listed: pd.DataFrame, weights: Weights, options: argparse.Namespace) -> Recipe:
    """See images up to the ends of their shorter side, and do not mirror tiny ones: they tend to be digits or icons."""
    tiny = bool(listed["shorter_side"].median() < TINY_PX)
    size = TINY_IMAGE_SIZE_PX if tiny else IMAGE_SIZE_PX if options.finetune == "none" else LEARNED_IMAGE_SIZE_PX
    size = size if options.image_size == "auto" else int(options.image_size)
    preprocess, max_pixels = Preprocess(size, size, weights.mean, weights.std), int(options.max_image_megapixels * 1e6)
    flip = not tiny if options.horizontal_flip == "auto" else options.horizontal_flip == "true"
    return Recipe(preprocess, options.augmented_views, flip, options.split_seed, max_pixels, tiny)


def random_box(size: tuple[int, int], draw: random.Random) -> Box:
    """Return a random part of an image of that size, in px."""
    area = size[0] * size[1] * draw.uniform(*AREA)
    aspect = math.exp(draw.uniform(-LOG_ASPECT, LOG_ASPECT))
    width, height = min(math.sqrt(area * aspect), size[0]), min(math.sqrt(area / aspect), size[1])
    left, top = draw.uniform(0, size[0] - width), draw.uniform(0, size[1] - height)
    return left, top, min(left + width, size[0]), min(top + height, size[1])


class Embedder:
    """A frozen backbone and the recipe for its images; any number of threads may use it."""

    def __init__(self, backbone: Backbone, recipe: Recipe) -> None:
        self.recipe, self.feature_dim = recipe, backbone.feature_dim
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.batch = GPU_BATCH if self.device == "cuda" else BATCH
        size = recipe.preprocess.image_size
        example = torch.zeros(self.batch, 3, size, size).to(self.device, memory_format=torch.channels_last)
        try:
            self.network = frozen(backbone.to(self.device), example[:1])
        except (RuntimeError, AssertionError) as error:
            raise StepError(
                f"The backbone does not accept images of {size} x {size} px ({cause(error)}); "
                "set data.image_size_px or another model.backbone."
            ) from error
        for _ in range(2):  # TorchScript specialises itself in its first runs
            self.run(example)

    def features(self, pixels: Pixels) -> Features:
        """(N, H, W, 3) uint8 -> (N, D) float16."""
        features = np.empty((len(pixels), self.feature_dim), np.float16)
        full = np.zeros((self.batch, *pixels.shape[1:]), np.uint8)  # another shape would be compiled anew
        for start in range(0, len(pixels), self.batch):
            rows = slice(start, min(start + self.batch, len(pixels)))
            full[: rows.stop - start] = pixels[rows]
            images = torch.from_numpy(normalise(full, self.recipe.preprocess)).to(self.device)
            features[rows] = self.run(images)[: rows.stop - start].cpu().half().numpy()
        if not np.isfinite(features).all():
            raise StepError("The backbone yields features that float16 cannot hold; choose another model.backbone.")
        return features

    @torch.inference_mode()
    def run(self, images: Tensor) -> Tensor:
        """Run the network; on a GPU in bfloat16, whose rounding is small beside the difference between two views."""
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.device == "cuda"):
            features: Tensor = self.network(images)
        return features


class EmbeddingCache:
    """Features of images by their content, (views, D): those of earlier runs are found, this one's are added.

    It reads `earlier/RECIPE/*.npy` and writes `output/RECIPE/*.npy`, where RECIPE stands for all that they depend on.
    """

    def __init__(self, earlier: Path | None, output: Path, embedder: Embedder, weights: Weights) -> None:
        recipe = {
            "version": RECIPE_VERSION,
            "libraries": {name: importlib.metadata.version(name) for name in ("numpy", "pillow", "timm", "torch")},
            "device": embedder.device,
            "weights": [weights.backbone, weights.sha256],
            "preprocess": asdict(embedder.recipe.preprocess),
            "views": [embedder.recipe.seed, embedder.recipe.flip],
        }
        name = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
        self.folder, self.waiting, self.places = output / name, list[Any](), dict[bytes, tuple[Path, int]]()
        for file in sorted(earlier.glob(f"{name}/*.npy")) if earlier else []:
            with suppress(ValueError, EOFError):  # half an upload
                known = np.load(file, mmap_mode="r")["sha256"].tolist()
                self.places |= {sha256: (file, row) for row, sha256 in enumerate(known)}

    def find(self, sha256: str, views: int) -> Features | None:
        """Return an image's features, or None if that many views are not known."""
        file, row = self.places.get(sha256.encode(), (None, 0))
        found = np.load(file, mmap_mode="r")["features"][row, :views] if file else ()
        return np.array(found) if len(found) == views else None

    def add(self, sha256: str, features: Features) -> None:
        """Keep an image's features, which are written when there are enough of them, and by `write`."""
        if self.waiting and (self.waiting[0][1].shape != features.shape or len(self.waiting) == CACHED_TOGETHER):
            self.write()
        self.waiting.append((sha256, features))

    def write(self) -> None:
        """Write what waits."""
        if self.waiting:
            rows = np.array(self.waiting, [("sha256", "S64"), ("features", "<f2", self.waiting[0][1].shape)])
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(self.folder / f"{secrets.token_hex(8)}.npy", "wb") as file:
                np.save(file, rows)
            self.waiting.clear()


def embed(
    images: pd.DataFrame, root: Path, output_dir: Path, instance: int, embedder: Embedder, cache: EmbeddingCache
) -> None:
    """Prepare, embed and store images, an instance's share, in the order of their splits."""
    known, work = 0, partial(embed_batch, root, embedder)
    done = each(work, batches(images, embedder, cache), workers=core_count())
    rows = progress(chain.from_iterable(done), "embedded", len(images))
    try:
        for split in SPLITS:
            shape = (int((images["split"] == split).sum()), embedder.recipe.views_of(split), embedder.feature_dim)
            stem, all_means = output_dir / "embeddings" / f"{split}-{instance:06d}", np.zeros((shape[0], 3), np.float32)
            writer = ImageWriter(output_dir / split, split, instance=instance)
            with closing(writer), Path(f"{stem}.npy").open("wb") as file:
                header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
                for number, (image, is_new, features, means, content) in enumerate(islice(rows, shape[0])):
                    writer.add(image.name, image.label, content)
                    file.write(features.tobytes())
                    all_means[number] = means
                    if is_new:
                        cache.add(image.sha256, features)
                    known += not is_new
            np.save(f"{stem}_means.npy", all_means)
    finally:
        cache.write()
    if known:
        say(f"{known} of {len(images)} images were embedded before")


def batches(images: pd.DataFrame, embedder: Embedder, cache: EmbeddingCache) -> Iterator[Batch]:
    """Yield consecutive images, each with its features if they are known; the others fill a batch of the network's."""
    batch, new_views = list[Any](), 0
    for image in images.itertuples():
        views = embedder.recipe.views_of(image.split)
        known = cache.find(image.sha256, views)
        new_views += views if known is None else 0
        if new_views > embedder.batch or len(batch) == MOST_IMAGES:
            yield batch
            batch, new_views = [], views if known is None else 0
        batch.append((image, known))
    yield batch


def embed_batch(root: Path, embedder: Embedder, batch: Batch) -> list[Embedded]:
    """Decode the images of a batch, and embed those whose features are not known."""
    torch.set_num_threads(1)  # of this worker
    recipe, done, new = embedder.recipe, list[Any](), list[Pixels]()
    for image, known in batch:
        picture, content = recipe.prepare(root / image.path, Path(image.name).suffix)
        pixels = recipe.views(picture, image.sha256, recipe.views_of(image.split) if known is None else 1)
        done.append((image, known, channel_means(pixels[0], recipe.preprocess), content))
        new += [pixels] if known is None else []
    features = embedder.features(np.concatenate(new)) if new else np.empty(0)
    found: Iterator[Any] = iter(np.split(features, np.cumsum([len(pixels) for pixels in new])))
    return [(image, known is None, next(found) if known is None else known, *rest) for image, known, *rest in done]


def channel_means(pixels: Pixels, preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """(H, W, 3) uint8 -> (3,) float32: what `normalise` gives, on average over the image."""
    sums = pixels.reshape(len(pixels), -1).sum(axis=0, dtype=np.uint32)  # quick, as in `normalise`
    shares = sums.reshape(-1, 3).sum(axis=0) / (255 * pixels[..., 0].size)  # 0..1
    return np.asarray((shares - preprocess.mean) / preprocess.std, np.float32)
