"""Batches of images that worker processes make piece by piece, in memory that they share with who needs them.

On a CPU that trains, workers have to do their part at the same time: while one core makes images, all others wait for
its part of the network. And what they make must not cost much to hand over: DataLoader sends each tensor of a worker
through a connection of its own, which takes about as long as decoding one more image.
"""

import mmap
import os
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

PIECES_AHEAD = 4  # of each worker
PIECE_ROWS = 2  # images of the smallest piece that is worth a worker
NICENESS = 10  # a tenth of another process's share, and all of what is left


class Views(Protocol):
    """Where images come from."""

    side: int  # px

    def __getitem__(self, key: Any) -> Tensor:
        """(3, side, side) uint8."""


def shared_batches(views: Views, batches: Iterable[list[Any]], workers: int) -> Iterator[Tensor]:
    """(B, 3, side, side) uint8 for each batch of keys, channels last; overwritten after the next one was asked for.

    Args:
        batches: Can be gone through more than once.
    """
    ring = Ring(views, batches, workers)
    loader: DataLoader[None] = DataLoader(
        ring,
        batch_sampler=ring.pieces(),
        collate_fn=nothing,
        num_workers=workers,
        prefetch_factor=PIECES_AHEAD,
        worker_init_fn=step_back,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # for the workers' seeds: the training's random numbers go on as they are
    )
    made = iter(loader)
    for start, batch in ring.places():
        for _ in cut(len(batch), workers):
            next(made)
        yield ring.pixels[start : start + len(batch)].permute(0, 3, 1, 2)


class Ring(Dataset[None]):
    """Room for all images that are being made or used; (place, key) puts the key's image there."""

    def __init__(self, views: Views, batches: Iterable[list[Any]], workers: int) -> None:
        self.views, self.batches, self.workers = views, batches, workers
        longest = max(map(len, batches), default=0)
        piece = max((stop - start for start, stop in cut(longest, workers)), default=0)
        # Ahead of the batch in use are PIECES_AHEAD * workers pieces; the last of their batches may have begun only,
        # and at the ring's end less than a batch is left out.
        self.size = PIECES_AHEAD * workers * max(piece, 2 * PIECE_ROWS - 1) + 3 * longest
        shape = (self.size, views.side, views.side, 3)
        memory = mmap.mmap(-1, self.size * views.side * views.side * 3)  # not of /dev/shm, which may be small
        self.pixels = torch.frombuffer(memory, dtype=torch.uint8).reshape(shape)

    def __getitem__(self, placed: tuple[int, Any]) -> None:
        place, key = placed
        self.pixels[place].copy_(self.views[key].permute(1, 2, 0))

    def places(self) -> Iterator[tuple[int, list[Any]]]:
        """Where each batch begins."""
        start = 0
        for batch in self.batches:
            if start + len(batch) > self.size:
                start = 0
            yield start, batch
            start += len(batch)

    def pieces(self) -> Iterator[list[tuple[int, Any]]]:
        """The batches' pieces, one after the other."""
        for start, batch in self.places():
            for first, end in cut(len(batch), self.workers):
                yield [(start + row, batch[row]) for row in range(first, end)]


def cut(length: int, most: int) -> list[tuple[int, int]]:
    """Up to so many pieces of a batch, which differ by one image at most; few images stay together."""
    count = max(1, min(most, length // PIECE_ROWS))
    return list(pairwise(length * number // count for number in range(count + 1)))


def step_back(worker: int) -> None:
    """Work where the training does not; when it waits for images, everything is theirs."""
    os.nice(NICENESS)


def nothing(done: list[None]) -> None:
    """What a worker sends back: the images are where they are needed."""
