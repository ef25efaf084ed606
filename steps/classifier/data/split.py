"""Which image belongs to which split: no image twice, every class in every split, and the same answer tomorrow.

An image's place follows from the seed and its own sha256, so images that are added later move no other one. Only where
a class would have no image in a split is the nearest one moved there.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from classifier.data.catalogue import Catalogue
from classifier.data.dataset import SPLITS, some
from classifier.job.failures import StepError

KEPT_FIRST = ("test", "validation", "train", None)  # of given splits: what is tested must not have been trained on
FRACTION_TOLERANCE = 1e-6

# Where in 0..1 an image has to fall to belong to a split: from (inclusive), to (exclusive).
Windows = dict[str, tuple[float, float]]


@dataclass
class LeftOut:
    """Files that are not used because of their copies."""

    duplicates: list[dict[str, str]] = field(default_factory=list)  # kept, dropped: paths in the data set
    conflicting_labels: list[dict[str, Any]] = field(default_factory=list)  # sha256, paths


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Each share above 0, together 1."""
    shares = ", ".join(f"{name} {fractions[name]:g}" for name in SPLITS)
    if any(not 0 < fraction < 1 for fraction in fractions.values()):
        raise StepError(f"data.split: each share must lie between 0 and 1, but got {shares}.")
    if abs(sum(fractions.values()) - 1) > FRACTION_TOLERANCE:
        raise StepError(f"data.split: the shares must sum to 1, but {shares} sum to {sum(fractions.values()):g}.")


def drop_duplicates(catalogue: Catalogue) -> LeftOut:
    """Keep one of several copies: that of test, or else validation, or else the first.

    An image with two labels is dropped altogether: one label is wrong, and nobody can say which.
    """
    left_out = LeftOut()
    numbers: list[int] = []
    for sha256, same in catalogue.copies():
        if len({copy.label for copy in same}) > 1:
            left_out.conflicting_labels.append({"sha256": sha256, "paths": [copy.source for copy in same]})
            numbers += [copy.number for copy in same]
            continue
        kept, *dropped = sorted(same, key=lambda copy: KEPT_FIRST.index(copy.given_split))
        numbers += [copy.number for copy in dropped]
        left_out.duplicates += [{"kept": kept.source, "dropped": copy.source} for copy in dropped]
    catalogue.drop(numbers)
    return left_out


def refuse_small_classes(
    catalogue: Catalogue, classes: Sequence[str], *, given: frozenset[str], min_images: int
) -> None:
    """Every class needs enough images to learn from, and one for each split that is cut from them."""
    counts = catalogue.pool_sizes()
    needed = max(min_images, len(SPLITS) - len(given - {"train"}))
    small = [f"{name!r} has {counts[label]}" for label, name in enumerate(classes) if counts[label] < needed]
    if small:
        raise StepError(
            f"Each class needs at least {needed} different readable images{' in train' if given else ''}, "
            f"but {some(small)}; add images, remove the class, or lower data.min_images_per_class."
        )


def assign_splits(catalogue: Catalogue, *, fractions: Mapping[str, float], seed: int, given: frozenset[str]) -> None:
    """Given validation and test splits stay; what is missing is cut from the rest, class by class."""
    windows = cut_windows(fractions, given)

    def choose(sha256: str) -> str:
        place = position(sha256, seed)
        return next(name for name, (start, end) in windows.items() if start <= place < end)

    catalogue.assign(choose)
    sizes = catalogue.pool_splits()
    for label in sorted({label for label, _ in sizes}):
        for name in windows:
            if not sizes[label, name]:
                taken = move_nearest(catalogue, label, (name, windows[name]), seed)
                sizes[label, taken] -= 1
                sizes[label, name] += 1


def move_nearest(catalogue: Catalogue, label: int, to: tuple[str, tuple[float, float]], seed: int) -> str:
    """Of a class that has no image in a split, move the nearest one there; the split from which it was taken.

    There are at least as many images as windows, so one can be had from a split that has several.
    """
    split, window = to
    pool = list(catalogue.pool(label))  # so small that a window was empty
    splits = [taken for _, _, taken in pool]
    movable = [(number, sha256, taken) for number, sha256, taken in pool if splits.count(taken) > 1]
    number, _, taken = min(movable, key=lambda image: distance(position(image[1], seed), window))
    catalogue.move(number, split)
    return taken


def cut_windows(fractions: Mapping[str, float], given: frozenset[str]) -> Windows:
    """test first, then validation, and train for the rest; a given split has no window."""
    windows: Windows = {}
    start = 0.0
    for name in ("test", "validation"):
        if name not in given:
            windows[name] = (start, start + fractions[name])
            start += fractions[name]
    return windows | {"train": (start, 1.0)}


def position(sha256: str, seed: int) -> float:
    """An image's place in 0..1 (exclusive): random, but always the same."""
    digest = hashlib.sha256(f"{seed}:{sha256}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def distance(place: float, window: tuple[float, float]) -> float:
    """From the window's nearer end."""
    return max(window[0] - place, place - window[1], 0.0)
