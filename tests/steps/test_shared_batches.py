"""Batches that worker processes make in shared memory."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from classifier.finetuning.image_batches import Loading, loaded
from classifier.finetuning.shared_batches import GROUP_ROWS, cut, groups, shared_batches
from classifier.job.failures import StepError

SIDE = 4


class Numbered:
    """Key -> an image that says its key."""

    side = SIDE

    def __getitem__(self, key: int) -> Tensor:
        pixels = torch.full((3, SIDE, SIDE), key % 256, dtype=torch.uint8)
        pixels[1] = key // 256
        return pixels


class Telling(Numbered):
    """Writes down which process makes what."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, key: int) -> Tensor:
        (self.folder / str(key)).write_text(str(os.getpid()))
        return super().__getitem__(key)


def keys_of(pixels: Tensor) -> list[int]:
    """What a batch says."""
    assert pixels.dtype == torch.uint8 and pixels.shape[1:] == (3, SIDE, SIDE)
    return [int(image[0, 1, 2]) + 256 * int(image[1, 3, 0]) for image in pixels]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than there are cores
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize(
    "sizes",
    [[], [1], [16] * 40 + [5], [1, 16, 2] * 30, [7, 1, 1, 1] * 20],
    ids=["none", "one image", "alike", "small and large", "small ones"],
)
def test_every_batch_arrives_as_it_was_asked_for(sizes: list[int], workers: int) -> None:
    keys = iter(random.Random(1).sample(range(60_000), sum(sizes)))
    batches = [[next(keys) for _ in range(size)] for size in sizes]
    assert [keys_of(pixels) for pixels in shared_batches(Numbered(), batches, workers)] == batches


def test_a_batch_stays_until_the_next_is_asked_for() -> None:
    batches = [list(range(start, start + 8)) for start in range(0, 800, 8)]
    for batch, pixels in zip(batches, shared_batches(Numbered(), batches, 2), strict=True):
        if batch[0] == 400:
            time.sleep(0.1)  # the workers go on
        assert keys_of(pixels) == batch


def test_images_are_channels_last() -> None:
    [pixels] = shared_batches(Numbered(), [[1, 2, 3, 4]], 2)
    assert pixels.is_contiguous(memory_format=torch.channels_last)


def test_workers_share_a_batch(tmp_path: Path) -> None:
    list(shared_batches(Telling(tmp_path), [list(range(8))], 2))
    made = [(tmp_path / str(key)).read_text() for key in range(8)]
    assert len(set(made)) == 2
    assert set(made[:4]).isdisjoint(made[4:])


def test_workers_stand_still_while_a_batch_is_used(tmp_path: Path) -> None:
    batches = [list(range(start, start + 16)) for start in range(0, 640, 16)]
    made = []
    for _ in shared_batches(Telling(tmp_path), batches, 2):
        made.append(len(list(tmp_path.iterdir())))
        time.sleep(0.02)
        assert len(list(tmp_path.iterdir())) == made[-1]
    assert set(made) <= set(range(0, 641, GROUP_ROWS))  # whole groups
    assert made[0] <= 2 * GROUP_ROWS  # the one in use, and the next


def test_no_more_is_made_than_may_be_in_memory(tmp_path: Path) -> None:
    batches = [list(range(start, start + 4)) for start in range(0, 400, 4)]
    images = shared_batches(Telling(tmp_path), batches, 2)
    next(images)
    images.close()  # type: ignore[attr-defined]  # ends the workers
    assert not multiprocessing.active_children()
    assert len(list(tmp_path.iterdir())) <= 2 * GROUP_ROWS


class Failing(Telling):
    """Cannot read one image."""

    def __getitem__(self, key: int) -> Tensor:
        if key == 100:
            raise StepError("Image 100 cannot be used.")
        return super().__getitem__(key)


def test_an_image_that_cannot_be_made_holds_nothing_up(tmp_path: Path) -> None:
    batches = [list(range(start, start + 16)) for start in range(0, 640, 16)]
    seen, began = [], time.monotonic()
    with pytest.raises(StepError, match="Image 100 cannot be used"):
        for pixels in shared_batches(Failing(tmp_path), batches, 2):
            seen.append(keys_of(pixels))
    assert seen == batches[: GROUP_ROWS // 16]  # those of the group before
    assert time.monotonic() - began < 5


def test_a_lost_worker_is_told(tmp_path: Path) -> None:
    images = shared_batches(Telling(tmp_path), [list(range(start, start + 16)) for start in range(0, 640, 16)], 2)
    next(images)
    os.kill(int((tmp_path / "0").read_text()), signal.SIGKILL)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(images)


@pytest.mark.parametrize(
    "sizes, grouped",
    [
        ([], []),
        ([100], [[100]]),
        ([16, 16, 16, 16, 16, 5], [[16, 16, 16, 16], [16, 5]]),
        ([48, 48, 1], [[48], [48, 1]]),
    ],
)
def test_groups(sizes: list[int], grouped: list[list[int]]) -> None:
    assert [[len(batch) for batch in group] for group in groups([[0] * size for size in sizes])] == grouped


class Labelled(Numbered):
    """With labels, as fine-tuning has them."""

    def labels_of(self, batch: list[int]) -> Tensor:
        return torch.tensor(batch) % 10


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set")  # there is no GPU here
@pytest.mark.parametrize("on_gpu", [False, True])
def test_batches_for_a_cpu_and_for_a_gpu_hold_the_same(on_gpu: bool) -> None:
    batches = [list(range(start, min(start + 8, 100))) for start in range(0, 100, 8)]
    found = loaded(Labelled(), batches, loading=Loading(2, on_gpu))  # type: ignore[arg-type]
    assert [(keys_of(pixels), labels.tolist()) for pixels, labels in found] == [
        (batch, [key % 10 for key in batch]) for batch in batches
    ]


@pytest.mark.parametrize(
    "length, most, pieces",
    [
        (16, 1, [(0, 16)]),
        (16, 2, [(0, 8), (8, 16)]),
        (16, 64, [(start, start + 2) for start in range(0, 16, 2)]),
        (7, 2, [(0, 3), (3, 7)]),
        (3, 2, [(0, 3)]),
        (1, 2, [(0, 1)]),
    ],
)
def test_pieces(length: int, most: int, pieces: list[tuple[int, int]]) -> None:
    assert cut(length, most) == pieces
