"""Which image belongs to which split: no image twice, every class in every split, and the same answer tomorrow.

An image's place follows from the seed and its own sha256, so images that are added later move no other one. Only where
a class would have no image in a split is the nearest one moved there.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dataset import SPLITS, some
from failures import StepError
from inspection import LabelledImage

KEPT_FIRST = ("test", "validation", "train", None)  # of given splits: what is tested must not have been trained on
FRACTION_TOLERANCE = 1e-6

# Where in 0..1 an image has to fall to belong to a split: from (inclusive), to (exclusive).
Windows = dict[str, tuple[float, float]]


@dataclass
class UniqueImages:
    """What is left once duplicates are gone, and what went."""

    images: list[LabelledImage] = field(default_factory=list)
    duplicates: list[dict[str, str]] = field(default_factory=list)  # kept, dropped: paths in the data set
    conflicting_labels: list[dict[str, Any]] = field(default_factory=list)  # sha256, paths


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Each share above 0, together 1."""
    shares = ", ".join(f"{name} {fractions[name]:g}" for name in SPLITS)
    if any(not 0 < fraction < 1 for fraction in fractions.values()):
        raise StepError(f"data.split: each share must lie between 0 and 1, but got {shares}.")
    if abs(sum(fractions.values()) - 1) > FRACTION_TOLERANCE:
        raise StepError(f"data.split: the shares must sum to 1, but {shares} sum to {sum(fractions.values()):g}.")


def without_duplicates(images: Sequence[LabelledImage]) -> UniqueImages:
    """Keep one of several copies: that of test, or else validation, or else the first.

    An image with two labels is dropped altogether: one label is wrong, and nobody can say which.
    """
    copies: dict[str, list[LabelledImage]] = defaultdict(list)
    for image in images:
        copies[image.sha256].append(image)
    unique = UniqueImages()
    for sha256, same in copies.items():
        if len({image.file.class_name for image in same}) > 1:
            unique.conflicting_labels.append({"sha256": sha256, "paths": [image.file.source for image in same]})
            continue
        kept, *dropped = sorted(same, key=lambda image: KEPT_FIRST.index(image.file.given_split))
        unique.images.append(kept)
        unique.duplicates += [{"kept": kept.file.source, "dropped": image.file.source} for image in dropped]
    return unique


def refuse_small_classes(
    images: Iterable[LabelledImage], classes: Sequence[str], *, given: frozenset[str], min_images: int
) -> None:
    """Every class needs enough images to learn from, and one for each split that is cut from them."""
    counts = Counter(image.file.class_name for image in images if image.file.given_split in (None, "train"))
    needed = max(min_images, len(SPLITS) - len(given - {"train"}))
    small = [f"{name!r} has {counts[name]}" for name in classes if counts[name] < needed]
    if small:
        raise StepError(
            f"Each class needs at least {needed} different readable images{' in train' if given else ''}, "
            f"but {some(small)}; add images, remove the class, or lower data.min_images_per_class."
        )


def assign_splits(
    images: Iterable[LabelledImage], *, fractions: Mapping[str, float], seed: int, given: frozenset[str]
) -> dict[str, str]:
    """sha256 -> split. Given validation and test splits stay; what is missing is cut from the rest, class by class."""
    windows = cut_windows(fractions, given)
    splits: dict[str, str] = {}
    pools: dict[str, list[str]] = defaultdict(list)
    for image in images:
        if image.file.given_split in (None, "train"):
            pools[image.file.class_name].append(image.sha256)
        else:
            splits[image.sha256] = image.file.given_split
    for pool in pools.values():
        splits |= cut(pool, windows, seed)
    return splits


def cut_windows(fractions: Mapping[str, float], given: frozenset[str]) -> Windows:
    """test first, then validation, and train for the rest; a given split has no window."""
    windows: Windows = {}
    start = 0.0
    for name in ("test", "validation"):
        if name not in given:
            windows[name] = (start, start + fractions[name])
            start += fractions[name]
    return windows | {"train": (start, 1.0)}


def cut(pool: Sequence[str], windows: Windows, seed: int) -> dict[str, str]:
    """sha256 -> split for the images of one class, of which there are at least as many as windows."""
    positions = {sha256: position(sha256, seed) for sha256 in pool}
    splits = {
        sha256: next(name for name, (start, end) in windows.items() if start <= place < end)
        for sha256, place in positions.items()
    }
    for name, window in windows.items():
        if name not in splits.values():
            sizes = Counter(splits.values())
            movable = (sha256 for sha256 in pool if sizes[splits[sha256]] > 1)
            splits[min(movable, key=lambda sha256: distance(positions[sha256], window))] = name
    return splits


def position(sha256: str, seed: int) -> float:
    """An image's place in 0..1 (exclusive): random, but always the same."""
    digest = hashlib.sha256(f"{seed}:{sha256}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def distance(place: float, window: tuple[float, float]) -> float:
    """From the window's nearer end."""
    return max(window[0] - place, place - window[1], 0.0)
