"""Which image belongs to which split: exact shares of each class, no group in two splits, the same answer tomorrow.

Groups are dealt whole, in an order that follows from the seed and their images' sha256. Images that an earlier version
was given keep their split, so that none is tested on that was ever trained on; the others make up what each class
lacks. `images` are what `dataset.inspect` returns.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from classifier.data.dataset import SPLITS, printable, some
from classifier.job.failures import StepError

ATTEMPTS = 20  # orders in which groups are dealt, of which the one that comes nearest to the shares is taken


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
    images: pd.DataFrame, classes: Sequence[str], fractions: Mapping[str, float], seed: int, given: Collection[str]
) -> pd.DataFrame:
    """Return the images, ordered by `split` and label; splits that are not given are cut from the rest, by class.

    Columns needed: `group`, a number, and `earlier`, the split that an image had before (or None).
    """
    splits = [*(name for name in ("test", "validation") if name not in given), "train"]
    pool = images[is_to_be_split(images)]
    shares = {split: fractions[split] for split in splits[:-1]}
    shares["train"] = 1 - sum(shares.values())
    totals = pool["label"].value_counts()
    targets = {(split, label): n for label, total in totals.items() for split, n in exact_shares(total, shares).items()}
    uses = known_splits(images, pool, splits)
    # Known members of a group that are in different splits stay there: they are dealt apart.
    pool = pool.assign(unit=pd.factorize(pool["group"].astype(str) + " " + uses.fillna("new"))[0])
    sizes: dict[int, dict[int, int]] = {}
    for (unit, label), size in pool.groupby(["unit", "label"]).size().items():
        sizes.setdefault(unit, {})[label] = size
    known = dict(zip(pool["unit"][uses.notna()], uses[uses.notna()], strict=True))
    firsts = pool[uses.isna()].groupby("unit")["sha256"].min()
    best = None
    for attempt in range(ATTEMPTS if len(sizes) < len(pool) else 1):
        order = firsts.map(lambda sha256, turn=f".{attempt}" if attempt else "": position(sha256, f"{seed}{turn}"))
        deal = Deal(sizes, targets, known)
        deal.run(order.sort_values().index, splits)
        best = min(best or deal, deal, key=lambda tried: (len(tried.empty), tried.deviation))
        if not best.empty and not best.deviation:
            break
    assert best is not None
    if best.empty:
        named = [f"{classes[label]!r} in {split}" for split, label in best.empty]
        raise StepError(
            f"No image is left for {some(named)}: its images are in too few groups, or were trained on by earlier "
            "versions; add images, choose other groups (data.group, data.near_duplicates), or set data.keep_splits to "
            "false, which deals all images anew."
        )
    split = images["given"].astype(object).where(~is_to_be_split(images), pool["unit"].map(best.chosen))
    images = images.assign(split=pd.Categorical(split, categories=SPLITS, ordered=True))
    return images.sort_values(["split", "label"], kind="stable", ignore_index=True)


def known_splits(images: pd.DataFrame, pool: pd.DataFrame, splits: Sequence[str]) -> "pd.Series[Any]":
    """Return the split of each image that has one (or None): its own, or else the one that its group was used for most.

    Trained on is more than validated on, and that more than tested, as in the order of SPLITS. What lies in train and
    has members in the folder of a given split stays in train, so that it is not cut off into a third one.
    """
    none = len(SPLITS)
    own = pd.Series(pd.Categorical(pool["earlier"], categories=SPLITS).codes, pool.index).replace(-1, none)
    uses = own.where(own < none, own.groupby(pool["group"]).transform("min"))
    beside = pool["group"].isin(images.loc[~is_to_be_split(images), "group"])
    found = uses.where(~beside | (own < none), 0).map(dict(enumerate(SPLITS)))
    return found.where(found.isna() | found.isin(splits), "train")


def exact_shares(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Return how many of a class's images each split gets, at least one: rounded by largest remainders."""
    exact = {split: round(total * share, 9) for split, share in shares.items()}
    counts = {split: int(count) for split, count in exact.items()}
    by_remainder = sorted(shares, key=lambda split: counts[split] - exact[split])
    for split in by_remainder[: total - sum(counts.values())]:
        counts[split] += 1
    for split in [split for split in counts if counts[split] == 0]:
        counts[max(counts, key=lambda name: counts[name])] -= 1
        counts[split] = 1
    return counts


@dataclass
class Deal:
    """Groups on their way into splits."""

    sizes: Mapping[int, Mapping[int, int]]  # of each group: label -> images
    targets: Mapping[tuple[str, int], int]  # (split, label) -> images
    known: Mapping[int, str]  # the splits of groups that have one
    chosen: dict[int, str] = field(default_factory=dict)
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)

    def run(self, order: Iterable[int], splits: Sequence[str]) -> None:
        """Deal new groups in their order: those that fit, then those that bring shares nearer; train has the rest."""
        for group, split in self.known.items():
            self.put(group, split)
        waiting = list(order)
        for split in splits[:-1]:
            for is_taken in (self.fits, self.brings_nearer):
                for group in waiting:
                    if is_taken(group, split):
                        self.put(group, split)
                waiting = [group for group in waiting if group not in self.chosen]
        for group in waiting:
            self.put(group, "train")
        for split, label in self.empty:
            movable = [group for group, sizes in self.sizes.items() if label in sizes and self.is_movable(group, split)]
            if movable:
                self.put(min(movable, key=lambda group: (group in self.known, self.sizes[group][label])), split)

    def put(self, group: int, split: str) -> None:
        """Put a group into a split, out of the one where it is."""
        for label, size in self.sizes[group].items():
            self.counts[split, label] += size
            if group in self.chosen:
                self.counts[self.chosen[group], label] -= size
        self.chosen[group] = split

    def fits(self, group: int, split: str) -> bool:
        """Return whether a split lacks all of a group's images."""
        return all(size <= self.lacking(split, label) for label, size in self.sizes[group].items())

    def brings_nearer(self, group: int, split: str) -> bool:
        """Return whether a split with the group is nearer to its shares than without."""
        lacking = [(self.lacking(split, label), size) for label, size in self.sizes[group].items()]
        return sum(abs(count) - abs(count - size) for count, size in lacking) > 0

    def is_movable(self, group: int, split: str) -> bool:
        """Return whether a group may leave its split: its classes stay there, and nothing known comes to be tested."""
        own = self.chosen[group]
        stays = all(self.counts[own, label] > size for label, size in self.sizes[group].items())
        return stays and not (group in self.known and split == "test")

    def lacking(self, split: str, label: int) -> int:
        """Return how many images of a class a split lacks; below 0, it has too many."""
        return self.targets[split, label] - self.counts[split, label]

    @property
    def empty(self) -> list[tuple[str, int]]:
        """Return the splits and classes without an image."""
        return [place for place in self.targets if not self.counts[place]]

    @property
    def deviation(self) -> int:
        """Return by how many images the splits differ from exact shares."""
        return sum(abs(self.lacking(*place)) for place in self.targets)


def is_to_be_split(images: pd.DataFrame) -> "pd.Series[bool]":
    return images["given"].isna() | (images["given"] == "train")


def position(sha256: str, seed: str) -> float:
    """Return an image's place in 0..1 (exclusive): random, but always the same."""
    digest = hashlib.sha256(f"{seed}:{sha256}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
