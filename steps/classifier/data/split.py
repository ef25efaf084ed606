"""Which image belongs to which split: no image twice, every class in every split, and the same answer tomorrow.

An image's place follows from the seed and its own sha256, so images that are added later move no other one. Only where
a class would have no image in a split is the nearest one moved there.

`images` are the rows of `Listing.files` that are images, with `sha256` of each file's bytes.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from classifier.data.dataset import SPLITS, printable, some
from classifier.job.failures import StepError

KEPT_FIRST = ("test", "validation", "train")  # of given splits: what is tested must not have been trained on
FRACTION_TOLERANCE = 1e-6


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Refuse shares that are not above 0 or do not sum to 1."""
    shares = ", ".join(f"{name} {fractions[name]:g}" for name in SPLITS)
    if any(not 0 < fraction < 1 for fraction in fractions.values()):
        raise StepError(f"data.split: each share must lie between 0 and 1, but got {shares}.")
    if abs(sum(fractions.values()) - 1) > FRACTION_TOLERANCE:
        raise StepError(f"data.split: the shares must sum to 1, but {shares} sum to {sum(fractions.values()):g}.")


def drop_duplicates(images: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, str]], list[dict[str, Any]]]:
    """Keep one of several copies: that of test, or else validation, or else the first.

    An image with two labels is dropped altogether: one label is wrong, and nobody can say which. Also returned are the
    duplicates (the paths kept and dropped) and the conflicting labels (sha256 and paths), as the manifest has them.
    """
    duplicates, conflicting_labels = [], []
    copies: dict[str, list[Any]] = {}
    for row in images[images.duplicated("sha256", keep=False)].itertuples():
        copies.setdefault(row.sha256, []).append(row)
    dropped: list[int] = []
    for sha256, rows in copies.items():
        if len({row.label for row in rows}) > 1:
            conflicting_labels.append({"sha256": sha256, "paths": [printable(row.path) for row in rows]})
            dropped += [row.Index for row in rows]
            continue
        kept, *others = sorted(rows, key=lambda row: KEPT_FIRST.index(row.given) if row.given in SPLITS else 0)
        duplicates += [{"kept": printable(kept.path), "dropped": printable(row.path)} for row in others]
        dropped += [row.Index for row in others]
    return images.drop(index=dropped), duplicates, conflicting_labels


def refuse_small_classes(
    images: pd.DataFrame, classes: Sequence[str], *, given: Collection[str], min_images: int
) -> None:
    """Refuse a class without enough images to learn from, and one for each split that is cut from them."""
    counts = images.loc[is_to_be_split(images), "label"].value_counts()
    needed = max(min_images, len(SPLITS) - len(set(given) - {"train"}))
    small = [f"{name!r} has {counts.get(label, 0)}" for label, name in enumerate(classes)
             if counts.get(label, 0) < needed]  # fmt: skip
    if small:
        raise StepError(
            f"Each class needs at least {needed} different readable images{' in train' if given else ''}, "
            f"but {some(small)}; add images, remove the class, or lower data.min_images_per_class."
        )


def assign_splits(
    images: pd.DataFrame, *, fractions: Mapping[str, float], seed: int, given: Collection[str]
) -> pd.DataFrame:
    """Return the images with their `split`, ordered by split and label.

    Given validation and test splits stay; those that are missing are cut from the rest, class by class.
    """
    windows = cut_windows(fractions, given)
    pool = images[is_to_be_split(images)]
    places = pool["sha256"].map(lambda sha256: position(sha256, seed))
    edges = [*(start for start, _ in windows.values()), 1.0]
    chosen = pd.cut(places, edges, right=False, labels=list(windows)).astype(object)
    for _, of_class in chosen.groupby(pool["label"]):
        of_class = of_class.copy()
        for split, (start, end) in windows.items():
            counts = of_class.value_counts()
            if split not in counts:
                movable = places[of_class.index[of_class.map(counts) > 1]]
                nearest = (movable - (start + end) / 2).abs().idxmin()  # outside the window: its centre is as good
                of_class[nearest] = chosen[nearest] = split
    split = images["given"].astype(object).where(~is_to_be_split(images), chosen)
    images = images.assign(split=pd.Categorical(split, categories=SPLITS, ordered=True))
    return images.sort_values(["split", "label"], kind="stable", ignore_index=True)


def is_to_be_split(images: pd.DataFrame) -> "pd.Series[bool]":
    return images["given"].isna() | (images["given"] == "train")


def cut_windows(fractions: Mapping[str, float], given: Collection[str]) -> dict[str, tuple[float, float]]:
    """Return where in 0..1 an image must fall to be in a split: test, validation, train; a given one has no window."""
    windows: dict[str, tuple[float, float]] = {}
    start = 0.0
    for name in ("test", "validation"):
        if name not in given:
            windows[name] = (start, start + fractions[name])
            start += fractions[name]
    return windows | {"train": (start, 1.0)}


def position(sha256: str, seed: int) -> float:
    """Return an image's place in 0..1 (exclusive): random, but always the same."""
    digest = hashlib.sha256(f"{seed}:{sha256}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
