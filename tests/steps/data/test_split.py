"""Duplicates go, every class is in every split, and a split stays where it is when images are added."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import pandas as pd
import pytest

from classifier.data.dataset import SPLIT_FOLDERS, SPLITS
from classifier.data.split import assign_splits, drop_duplicates, refuse_small_classes
from classifier.job.failures import StepError

FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}
CLASSES = ["cat", "dog", "cow", "ant", "cat2", "a", "b", "c", "d", "e"]


def images_of(sources: Sequence[str | tuple[str, int]]) -> pd.DataFrame:
    """Images `[split/]class/name`; two with the same number are the same bytes."""
    rows = []
    for named in sources:
        path, content = named if isinstance(named, tuple) else (named, named)
        *split, class_name, _ = path.split("/")
        given = SPLIT_FOLDERS[split[0]] if split else None
        rows.append((path, CLASSES.index(class_name), given, hashlib.sha256(str(content).encode()).hexdigest()))
    images = pd.DataFrame(rows, columns=["path", "label", "given", "sha256"])
    return images.assign(given=pd.Categorical(images["given"], categories=SPLITS))


def classes_of(*names: str, images: int, below: str = "", first: int = 0) -> list[str]:
    return [f"{below}{name}/{number}" for name in names for number in range(first, first + images)]


def splits_of(
    sources: Sequence[str],
    *,
    seed: int = 0,
    given: Sequence[str] = (),
    earlier: dict[str, str] | None = None,
    groups: dict[str, int] | None = None,
) -> dict[str, str]:
    """Source -> split."""
    images = images_of(sources)
    images["group"] = [number if groups is None else groups[path] for number, path in enumerate(images["path"])]
    images["earlier"] = images["path"].map(earlier or {})
    images = assign_splits(images, CLASSES, FRACTIONS, seed, given)
    order = list(zip(images["split"].cat.codes, images["label"], strict=True))
    assert order == sorted(order)
    return dict(zip(images["path"], images["split"], strict=True))


@pytest.mark.parametrize(
    ("images", "left", "duplicates", "conflicts"),
    [
        ([("cat/1", 1), ("cat/2", 1), ("cat/10", 1), ("dog/1", 2)], ["cat/1", "dog/1"],
         [("cat/1", "cat/2"), ("cat/1", "cat/10")], []),
        ([("train/cat/1", 1), ("train/cat/t", 2), ("train/dog/v", 3), ("valid/cat/t", 2), ("valid/dog/v", 3),
          ("test/cat/t", 2)], ["train/cat/1", "valid/dog/v", "test/cat/t"],
         [("test/cat/t", "valid/cat/t"), ("test/cat/t", "train/cat/t"), ("valid/dog/v", "train/dog/v")], []),
        ([("cat/1", 1), ("cat/2", 2), ("dog/1", 1), ("dog/2", 3)], ["cat/2", "dog/2"], [], [["cat/1", "dog/1"]]),
        ([("cat/1", 1), ("cat/2", 2), ("dog/1", 3)], ["cat/1", "cat/2", "dog/1"], [], []),
    ],
)  # fmt: skip
def test_of_copies_one_is_kept_and_of_conflicting_labels_none(
    images: list[tuple[str, int]], left: list[str], duplicates: list[tuple[str, str]], conflicts: list[list[str]]
) -> None:
    unique, dropped, conflicting = drop_duplicates(images_of(images))
    assert list(unique["path"]) == left
    assert [(pair["kept"], pair["dropped"]) for pair in dropped] == duplicates
    assert [conflict["paths"] for conflict in conflicting] == conflicts


def counts_of(splits: dict[str, str], name: str) -> tuple[int, ...]:
    """How many images of a class are in train, validation and test."""
    found = Counter(split for source, split in splits.items() if f"{name}/" in source)
    return tuple(found[split] for split in SPLITS)


@pytest.mark.parametrize(("images", "expected"), [(3, (1, 1, 1)), (5, (3, 1, 1)), (6, (4, 1, 1)), (60, (42, 9, 9))])
def test_each_class_has_its_exact_shares_and_the_same_seed_gives_the_same_split(
    images: int, expected: tuple[int, ...]
) -> None:
    sources = classes_of("cat", "dog", images=images)
    for seed in range(5):
        splits = splits_of(sources, seed=seed)
        assert counts_of(splits, "cat") == counts_of(splits, "dog") == expected
    assert splits_of(sources[::-1]) == splits_of(sources)
    assert images == 3 or splits != splits_of(sources)


def test_images_and_classes_that_are_added_move_no_image_of_an_earlier_split() -> None:
    before = splits_of(classes_of("cat", "dog", images=100))
    more = [*classes_of("ant", images=50), *before, *classes_of("cat", images=70, first=1000)]
    after = splits_of(more, seed=3, earlier=before)
    assert {source: after[source] for source in before} == before
    assert [counts_of(after, name) for name in ("ant", "cat", "dog")] == [(35, 7, 8), (119, 25, 26), (70, 15, 15)]
    # Without a history the ranks of a few change.
    assert sum(split != before[source] for source, split in splits_of(more).items() if source in before) < 20


def test_groups_are_dealt_whole_and_as_near_to_the_shares_as_they_can() -> None:
    sources = classes_of("cat", "dog", images=200)
    groups = {source: int(source.split("/")[1]) % 40 for source in sources}  # of five images in each of two classes
    groups |= {source: 100 + number for number, source in enumerate(sources[:50])}
    for seed in range(5):
        splits = splits_of(sources, seed=seed, groups=groups)
        members: dict[int, set[str]] = {}
        for source, group in groups.items():
            members.setdefault(group, set()).add(splits[source])
        assert max(map(len, members.values())) == 1
        assert counts_of(splits, "cat") == (140, 30, 30) and counts_of(splits, "dog")[2] in (25, 30, 35)


def test_nothing_that_was_trained_on_is_tested_and_a_group_follows_what_is_known_of_it() -> None:
    sources = classes_of("cat", "dog", images=60)
    groups = {source: number // 2 for number, source in enumerate(sources)}
    alone = splits_of(sources[::2])
    alone[sources[1]] = next(split for split in SPLITS if split != alone[sources[0]])  # the groups are newer than these
    splits = splits_of(sources, earlier=alone, groups=groups)
    assert {source: splits[source] for source in alone} == alone
    for number in range(2, len(sources), 2):
        assert splits[sources[number]] == splits[sources[number + 1]]
    with pytest.raises(
        StepError, match=r"^No image is left for 'cat' in test, 'dog' in test: its images are in too few"
    ):
        splits_of(sources, earlier=dict.fromkeys(sources, "train"))
    with pytest.raises(StepError, match=r"choose other groups \(data\.group"):
        splits_of(sources, groups={source: int(source < "d") for source in sources})


def test_given_splits_are_kept_and_a_missing_one_is_cut_from_train() -> None:
    images = classes_of("cat", "dog", images=2000, below="train/") + classes_of("cat", "dog", images=20, below="val/")
    splits = splits_of(images, given=["train", "validation"])
    assert {split for source, split in splits.items() if source.startswith("val/")} == {"validation"}
    counts = Counter(split for source, split in splits.items() if source.startswith("train/"))
    assert counts == {"train": 3400, "test": 600}
    twin = {source: number for number, source in enumerate(images)} | {"val/cat/0": 0}
    assert splits_of(images, given=["train", "validation"], groups=twin)["train/cat/0"] == "train"
    images = [source for split in SPLITS for source in classes_of("cat", "dog", images=4, below=f"{split}/")]
    assert all(source.startswith(split) for source, split in splits_of(images, given=SPLITS).items())


def test_a_class_with_too_few_images_is_refused() -> None:
    remedy = "add images, remove the class, or lower data.min_images_per_class."
    images = images_of(classes_of("cat", "dog", images=8) + classes_of("cow", images=4))
    with pytest.raises(StepError) as error:
        refuse_small_classes(images, CLASSES[:4], (), 5)
    found = "'cow' has 4, 'ant' has 0"
    assert str(error.value) == f"Each class needs at least 5 different readable images, but {found}; {remedy}"
    given = [("cat", 2, "train/"), ("dog", 1, "train/"), ("cat", 3, "test/"), ("dog", 3, "test/")]
    images = images_of(
        [source for name, count, below in given for source in classes_of(name, images=count, below=below)]
    )
    with pytest.raises(StepError, match=r"at least 2 different readable images in train, but 'dog' has 1;"):
        refuse_small_classes(images, CLASSES[:2], ("train", "test"), 1)
