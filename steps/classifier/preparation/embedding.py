"""Embeddings: what the frozen backbone makes of every view of every image, computed once and stored with the image.

Each core works for itself, one thread per worker: decode a few images and run the network on their views. On two cores
that is 20 % (224 px) to 60 % (96 px) faster than one network with two threads, and results do not depend on the number
of cores. Where there is a GPU the workers decode, and take turns on it.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from classifier.data.images import Pixels, Preprocess, normalise
from classifier.data.prepared_images import ImageWriter
from classifier.job.failures import StepError, cause, say
from classifier.job.system import Progress, each
from classifier.model.backbone import Backbone, feature_dim, frozen
from classifier.preparation.embedding_cache import EmbeddingCache
from classifier.preparation.recipe import Recipe

BATCH = 16  # views; small enough for a core's cache
GPU_BATCH = 128
WARM_UP_RUNS = 2  # TorchScript specialises itself in its first runs
ROWS_AT_A_TIME = 1024  # among so many rows, those whose embeddings are not known share batches

Features = npt.NDArray[np.float16]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Embedder:
    """A frozen backbone and its preprocessing; any number of threads may use it."""

    def __init__(self, backbone: Backbone, preprocess: Preprocess, *, workers: int) -> None:
        self.preprocess, self.workers = preprocess, workers
        self.feature_dim = feature_dim(backbone)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.batch = GPU_BATCH if self.device == "cuda" else BATCH
        size = preprocess.image_size
        example = torch.zeros(self.batch, 3, size, size, device=self.device)
        example = example.contiguous(memory_format=torch.channels_last)
        try:
            self.network = frozen(backbone.to(self.device), example[:1])
        except (RuntimeError, AssertionError) as error:
            raise StepError(
                f"The backbone does not accept images of {size} x {size} px ({cause(error)}); "
                "set data.image_size_px or another model.backbone."
            ) from error
        for _ in range(WARM_UP_RUNS):
            self.run(example)

    def each(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result]:
        """Yield `work(item)` of every item in order, done by workers with one thread of torch's each."""
        return each(work, items, workers=self.workers, initializer=partial(torch.set_num_threads, 1))

    def features(self, pixels: Pixels) -> Features:
        """(N, H, W, 3) uint8 -> (N, D) float16."""
        batches = [self._batch(pixels[start : start + self.batch]) for start in range(0, len(pixels), self.batch)]
        with np.errstate(over="ignore"):
            features = np.concatenate(batches).astype(np.float16)
        if not np.isfinite(features).all():
            raise StepError("The backbone yields features that float16 cannot hold; choose another model.backbone.")
        return features

    def _batch(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Run a batch; a smaller one is filled up: another shape would be compiled anew, and might round otherwise."""
        full = np.zeros((self.batch, *pixels.shape[1:]), np.uint8)
        full[: len(pixels)] = pixels
        output = self.run(torch.from_numpy(normalise(full, self.preprocess)).to(self.device))
        features: npt.NDArray[np.float32] = output.float().cpu().numpy()
        return features[: len(pixels)]

    @torch.inference_mode()
    def run(self, images: Tensor) -> Tensor:
        """Run the network; on a GPU in bfloat16, whose rounding is small beside the difference between two views."""
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.device == "cuda"):
            features: Tensor = self.network(images)
        return features


class Row(NamedTuple):
    """A row of an instance's part of a split."""

    number: int
    image: Any  # the row of the listing
    known: bool  # whether the features are an earlier run's
    features: Any = None  # (views, D) float16
    file: bytes = b""  # the prepared image
    means: Any = None  # (3,) float32, of the plain view as the network sees it


class SplitWriter:
    """Writes a split's prepared images, embeddings and input means, or an instance's part of them, row by row."""

    def __init__(self, output_dir: Path, split: str, instance: int, shape: tuple[int, int, int]) -> None:
        self.written, self.means = 0, np.zeros((shape[0], 3), np.float32)
        self.images = ImageWriter(output_dir / split, split, instance=instance)
        self.stem = output_dir / "embeddings" / f"{split}-{instance:06d}"
        self.embeddings = Path(f"{self.stem}.npy").open("wb")  # noqa: SIM115 - until it is closed
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.embeddings, header)  # type: ignore[no-untyped-call]

    def add(self, row: Row) -> None:
        """Append the next row."""
        self.images.add(row.image.name, row.image.label, row.file)
        self.embeddings.write(row.features.tobytes())
        self.means[self.written] = row.means
        self.written += 1

    def close(self) -> None:
        """Finish the files."""
        self.images.close()
        self.embeddings.close()
        np.save(f"{self.stem}_means.npy", self.means)


def embed(
    share: Mapping[str, pd.DataFrame],
    root: Path,
    output_dir: Path,
    *,
    instance: int,
    recipe: Recipe,
    embedder: Embedder,
    cache: EmbeddingCache,
) -> None:
    """Prepare, embed and store an instance's share of each split's images."""
    progress, known = Progress("embedded", sum(map(len, share.values()))), 0
    with ExitStack() as stack:
        writers: dict[str, SplitWriter] = {}
        for split, images in share.items():
            shape = (len(images), recipe.views_of(split), embedder.feature_dim)
            writers[split] = stack.enter_context(closing(SplitWriter(output_dir, split, instance, shape)))
        stack.callback(cache.write)  # however this ends
        work = chain.from_iterable(
            batches(images, cache, embedder.batch, recipe.views_of(split)) for split, images in share.items()
        )
        results = stack.enter_context(closing(embedder.each(partial(embed_batch, root, recipe, embedder), work)))
        waiting: dict[tuple[str, int], Row] = {}  # for those before them
        for row in chain.from_iterable(results):
            waiting[row.image.split, row.number] = row
            writer = writers[row.image.split]
            while following := waiting.pop((row.image.split, writer.written), None):
                writer.add(following)
            if not row.known:
                cache.add(row.image.sha256, row.features)
            known += row.known
            progress.advance(1)
    if known:
        say(f"{known} of {progress.total} images were embedded before")


def batches(images: pd.DataFrame, cache: EmbeddingCache, batch: int, views: int) -> Iterator[list[Row]]:
    """Yield rows by as many as the network takes at once, either known or not, in about the images' order."""
    size = max(1, batch // views)
    for start in range(0, len(images), ROWS_AT_A_TIME):
        groups: dict[bool, list[Row]] = {True: [], False: []}
        for number, image in enumerate(images[start : start + ROWS_AT_A_TIME].itertuples(), start):
            found = cache.find(image.sha256, views)
            groups[found is not None].append(Row(number, image, found is not None, found))
        pieces = [rows[first : first + size] for rows in groups.values() for first in range(0, len(rows), size)]
        yield from sorted(pieces, key=lambda rows: rows[0].number)


def embed_batch(root: Path, recipe: Recipe, embedder: Embedder, rows: list[Row]) -> list[Row]:
    """Decode the images of a batch, and embed them unless their features are known."""
    done, views = [], []
    for row in rows:
        picture, file = recipe.prepare(root / row.image.path, Path(row.image.name).suffix)
        views.append(recipe.views(picture, row.image.sha256, 1 if row.known else recipe.views_of(row.image.split)))
        done.append(row._replace(file=file, means=channel_means(views[-1][0], recipe.preprocess)))
    if rows[0].known:
        return done
    features = embedder.features(np.concatenate(views)).reshape(len(rows), -1, embedder.feature_dim)
    return [row._replace(features=found) for row, found in zip(done, features, strict=True)]


def channel_means(pixels: Pixels, preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """(H, W, 3) uint8 -> (3,) float32: what `normalise` gives, on average over the image."""
    height, width, _ = pixels.shape
    sums = pixels.reshape(height, 3 * width).sum(axis=0, dtype=np.uint32)  # quick, as in `normalise`
    shares = sums.reshape(width, 3).sum(axis=0) / (255 * height * width)  # 0..1
    means: npt.NDArray[np.float32] = ((shares - preprocess.mean) / preprocess.std).astype(np.float32)
    return means
