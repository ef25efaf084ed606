"""Batches of images that worker processes make piece by piece, in memory that they share with who needs them.

On a CPU that trains, whatever workers compute the network waits for, and for longer where one core makes images while
all others hold for its part of a layer. So workers make images while the training stands still, all of them at once,
and stand still while it computes; and they make a few batches at a time, since after a step the caches hold nothing of
what makes images.

What they make must not cost much to hand over: DataLoader sends each tensor of a worker through a connection of its
own, which takes about as long as decoding one more image.
"""

import mmap
import multiprocessing
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

GROUP_ROWS = 64  # images that are made at a time
PIECE_ROWS = 2  # images of the smallest piece that is worth a worker
PATIENCE_SECONDS = 10  # for a piece, before the training goes on; a worker may be lost, which DataLoader tells


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
        prefetch_factor=1,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # for the workers' seeds: the training's random numbers go on as they are
    )
    made = iter(loader)
    for start, group in ring.places():
        for _ in cut(sum(map(len, group)), workers):
            next(made)  # has a piece of the next group begun
        ring.settle()
        for batch in group:
            yield ring.pixels[start : start + len(batch)].permute(0, 3, 1, 2)
            start += len(batch)


class Ring(Dataset[None]):
    """Room for all images that are being made or used; a piece's images are put where it says.

    Args:
        views, batches, workers: As of `shared_batches`.
    """

    def __init__(self, views: Views, batches: Iterable[list[Any]], workers: int) -> None:
        self.views, self.batches, self.workers = views, batches, workers
        longest = max((sum(map(len, group)) for group in groups(batches)), default=0)
        piece = max((stop - start for start, stop in cut(longest, workers)), default=0)
        # Ahead of the group in use is a piece of each worker; the last of their groups may have begun only, and at the
        # ring's end less than a group is left out.
        self.size = workers * max(piece, 2 * PIECE_ROWS - 1) + 3 * longest
        shape = (self.size, views.side, views.side, 3)
        memory = mmap.mmap(-1, self.size * views.side * views.side * 3)  # not of /dev/shm, which may be small
        self.pixels = torch.frombuffer(memory, dtype=torch.uint8).reshape(shape)
        self.under_way = 0  # pieces
        self.ends = multiprocessing.get_context("fork").Semaphore(0)

    def __getitems__(self, piece: list[tuple[int, Any]]) -> None:
        """Make (place, key) for (place, key); DataLoader asks for a whole piece where there is this method."""
        try:
            for place, key in piece:
                self.pixels[place].copy_(self.views[key].permute(1, 2, 0))
        finally:
            self.ends.release()

    def settle(self) -> None:
        """Wait until all workers stand still."""
        while self.under_way and self.ends.acquire(timeout=PATIENCE_SECONDS):
            self.under_way -= 1

    def places(self) -> Iterator[tuple[int, list[list[Any]]]]:
        """Where each group of batches begins."""
        start = 0
        for group in groups(self.batches):
            length = sum(map(len, group))
            if start + length > self.size:
                start = 0
            yield start, group
            start += length

    def pieces(self) -> Iterator[list[tuple[int, Any]]]:
        """The groups' pieces, one after the other; each is begun as soon as it was taken."""
        for start, group in self.places():
            keys = list(chain.from_iterable(group))
            for first, end in cut(len(keys), self.workers):
                self.under_way += 1
                yield [(start + row, keys[row]) for row in range(first, end)]


def groups(batches: Iterable[list[Any]]) -> Iterator[list[list[Any]]]:
    """Consecutive batches of GROUP_ROWS images together, or of a few less; a larger batch is a group of its own."""
    group: list[list[Any]] = []
    for batch in batches:
        if group and sum(map(len, group)) + len(batch) > GROUP_ROWS:
            yield group
            group = []
        group.append(batch)
    if group:
        yield group


def cut(length: int, most: int) -> list[tuple[int, int]]:
    """Up to so many pieces of a batch, which differ by one image at most; few images stay together."""
    count = max(1, min(most, length // PIECE_ROWS))
    return list(pairwise(length * number // count for number in range(count + 1)))


def nothing(done: Any) -> None:
    """What a worker sends back: the images are where they are needed."""
