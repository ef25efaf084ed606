"""Which image belongs to which split: no image twice, every class in every split, and the same answer tomorrow.

An image's place follows from the seed and its own sha256, so images that are added later move no other one. Only where
a class would have no image in a split is the nearest one moved there. `images` are what `dataset.inspect` returns.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import pandas as pd

from classifier.data.dataset import SPLITS, printable, some
from classifier.job.failures import StepError


def drop_duplicates(images: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, str]], list[dict[str, Any]]]:
    """Keep one of several copies: that of test, or else validation, or else the first.

    An image with two labels is dropped altogether: one label is wrong, and nobody can say which. Also returned are the
    duplicates (the paths kept and dropped) and the conflicting labels (sha256 and paths), as the manifest has them.
    """
    copies = images[images.duplicated("sha256", keep=False)]
    copies = copies.assign(path=copies["path"].map(printable), order=copies.groupby("sha256", sort=False).ngroup())
    labels = copies.groupby("sha256")["label"].transform("nunique")
    conflicting = copies[labels > 1].groupby("sha256", sort=False)["path"]
    same = copies[labels == 1].sort_values(["order", "given"], ascending=[True, False], kind="stable")
    kept = same.groupby("sha256")["path"].transform("first")
    duplicates = same.assign(kept=kept, dropped=same["path"])[same.duplicated("sha256")]
    return (
        images.drop(index=[*copies.index[labels > 1], *duplicates.index]),
        duplicates[["kept", "dropped"]].to_dict("records"),
        [{"sha256": sha256, "paths": list(paths)} for sha256, paths in conflicting],
    )


def refuse_small_classes(images: pd.DataFrame, classes: Sequence[str], given: Collection[str], min_images: int) -> None:
    """Refuse a class without enough images to learn from, and one for each split that is cut from them."""
    counts = images.loc[is_to_be_split(images), "label"].value_counts()
    needed = max(min_images, len(SPLITS) - len(set(given) - {"train"}))
    found = {name: counts.get(label, 0) for label, name in enumerate(classes)}
    if small := [f"{name!r} has {count}" for name, count in found.items() if count < needed]:
        raise StepError(
            f"Each class needs at least {needed} different readable images{' in train' if given else ''}, "
            f"but {some(small)}; add images, remove the class, or lower data.min_images_per_class."
        )


def assign_splits(
    images: pd.DataFrame, fractions: Mapping[str, float], seed: int, given: Collection[str]
) -> pd.DataFrame:
    """Return the images, ordered by `split` and label; splits that are not given are cut from the rest, by class."""
    cut = [name for name in ("test", "validation") if name not in given]
    edges = [*accumulate((fractions[name] for name in cut), initial=0.0), 1.0]  # test, validation, and train
    pool = images[is_to_be_split(images)]
    places = pool["sha256"].map(lambda sha256: position(sha256, seed))
    chosen = pd.cut(places, edges, right=False, labels=[*cut, "train"]).astype(object)
    for _, rows in pool.groupby("label").groups.items():
        for split, (start, end) in zip([*cut, "train"], pairwise(edges), strict=True):
            counts = chosen[rows].value_counts()
            if split not in counts:
                movable = places[rows[chosen[rows].map(counts) > 1]]
                nearest = (movable - (start + end) / 2).abs().idxmin()  # outside the window: its centre is as good
                chosen[nearest] = split
    split = images["given"].astype(object).where(~is_to_be_split(images), chosen)
    images = images.assign(split=pd.Categorical(split, categories=SPLITS, ordered=True))
    return images.sort_values(["split", "label"], kind="stable", ignore_index=True)


def is_to_be_split(images: pd.DataFrame) -> "pd.Series[bool]":
    return images["given"].isna() | (images["given"] == "train")


def position(sha256: str, seed: int) -> float:
    """Return an image's place in 0..1 (exclusive): random, but always the same."""
    digest = hashlib.sha256(f"{seed}:{sha256}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
