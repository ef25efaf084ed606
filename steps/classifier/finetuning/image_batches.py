"""Batches of images for fine-tuning, decoded and augmented by worker processes ahead of the step that needs them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from classifier.data.images import ImageError, Picture, Preprocess, decode, to_pixels
from classifier.data.prepared_images import PreparedImages
from classifier.finetuning.augmentation import Augmentation
from classifier.finetuning.mixing import PAIR
from classifier.finetuning.shared_batches import shared_batches
from classifier.job.failures import StepError, cause
from classifier.job.processors import core_count
from classifier.training.processes import Processes

RUN_ROWS = 256  # consecutive images that are drawn together, so that a stream is read nearly in order
WINDOW_RUNS = 64  # runs between which images are shuffled
BATCHES_AHEAD = 4  # of each worker
MAX_PREPARED_PIXELS = 1 << 31  # PrepareData has made them small

Key = tuple[int, int]  # epoch and row


@dataclass(frozen=True)
class Loading:
    """Who loads images."""

    workers: int  # processes
    on_gpu: bool  # which computes while they work


@dataclass(frozen=True)
class EpochBatches:
    """An epoch's keys, batch by batch; the last batch may be smaller."""

    epoch: int
    order: npt.NDArray[np.int64]  # (N,) rows
    batch_size: int

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self.order), self.batch_size):
            yield [(self.epoch, int(row)) for row in self.order[start : start + self.batch_size]]

    @property
    def sizes(self) -> Iterator[int]:
        """Images of each batch."""
        return (min(self.batch_size, len(self.order) - start) for start in range(0, len(self.order), self.batch_size))


@dataclass(frozen=True)
class Shares:
    """What of each batch is for this process; pairs stay together."""

    batches: EpochBatches
    processes: Processes

    def __iter__(self) -> Iterator[list[Key]]:
        return (self.processes.spread(batch, PAIR)[0] for batch in self.batches)


class TrainingViews(Dataset[Tensor]):
    """(epoch, row) -> a view of the row's image, (3, side, side) uint8."""

    def __init__(self, images: PreparedImages, augmentation: Augmentation, seed: int) -> None:
        self.images, self.augmentation, self.seed = images, augmentation, seed
        self.side = augmentation.side

    def __getitem__(self, key: Key) -> Tensor:
        epoch, row = key
        return self.augmentation(picture(self.images, row), (self.seed, epoch, row))

    def labels_of(self, batch: list[Key]) -> Tensor:
        """(B,) int64."""
        return torch.from_numpy(self.images.labels[[row for _, row in batch]])


class PlainViews(Dataset[Tensor]):
    """row -> the image as the deployed network sees it, (3, side, side) uint8."""

    def __init__(self, images: PreparedImages, preprocess: Preprocess) -> None:
        self.images, self.preprocess = images, preprocess
        self.side = preprocess.image_size

    def __getitem__(self, row: int) -> Tensor:
        return torch.from_numpy(to_pixels(picture(self.images, row), self.preprocess).copy()).permute(2, 0, 1)

    def labels_of(self, batch: list[int]) -> Tensor:
        """(B,) int64."""
        return torch.from_numpy(self.images.labels[batch])


def picture(images: PreparedImages, row: int) -> Picture:
    """A prepared image, decoded."""
    try:
        return decode(images.read(row), max_pixels=MAX_PREPARED_PIXELS)
    except ImageError as error:
        raise StepError(f"{images.place(row)} cannot be used: {error} Run PrepareData again.") from error


def loaded(
    views: TrainingViews | PlainViews, batches: Iterable[list[Any]], *, loading: Loading
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches in their order: (B, 3, H, W) uint8, which stay what they are until the next batch, and (B,) int64.

    Workers are forked: they share the indexes, and start at once.

    Args:
        batches: Can be gone through more than once.
    """
    made = (whole_batches if loading.on_gpu else shared_batches)(views, batches, loading.workers)
    try:
        for batch, pixels in zip(batches, made, strict=True):
            yield pixels, views.labels_of(batch)
    except StepError as error:  # of a worker: DataLoader puts the traceback into the text
        raise StepError(sentence_of(error)) from None
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            raise StepError(
                f"A process that loads images was lost ({cause(error)}). Is there too little memory?"
            ) from error
        raise


def whole_batches(views: TrainingViews | PlainViews, batches: Iterable[list[Any]], workers: int) -> Iterator[Tensor]:
    """Each batch made by one worker, and brought into memory from which a GPU copies by itself."""
    loader: DataLoader[Tensor] = DataLoader(
        views,
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=BATCHES_AHEAD,
        multiprocessing_context="fork",
        pin_memory=True,
        generator=torch.Generator(),  # for the workers' seeds: the training's random numbers go on as they are
    )
    yield from loader


def sentence_of(error: StepError) -> str:
    """What a worker's error said, without its traceback."""
    return str(error).rstrip().rsplit("StepError: ", 1)[-1]


def shuffled(rows: int, draw: np.random.Generator) -> npt.NDArray[np.int64]:
    """An order of the rows; up to RUN_ROWS * WINDOW_RUNS of them any order is as likely as any other.

    Of more, runs of consecutive rows are shuffled, and then the rows within a window of runs: an image is never far
    from those that are read at the same time.
    """
    if rows <= RUN_ROWS * WINDOW_RUNS:
        return draw.permutation(rows)
    starts = draw.permutation(np.arange(0, rows, RUN_ROWS))
    windows = []
    for first in range(0, len(starts), WINDOW_RUNS):
        runs = [np.arange(start, min(start + RUN_ROWS, rows)) for start in starts[first : first + WINDOW_RUNS]]
        windows.append(draw.permutation(np.concatenate(runs)))
    return np.concatenate(windows)


def loading_for(processes_on_host: int, *, on_gpu: bool) -> Loading:
    """For each of the processes that train on a host."""
    return Loading(max(1, core_count() // processes_on_host), on_gpu)
