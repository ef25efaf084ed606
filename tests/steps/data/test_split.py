"""Duplicates go, every class is in every split, and a split stays where it is when images are added."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import pandas as pd
import pytest

from classifier.data.dataset import SPLIT_FOLDERS, SPLITS
from classifier.data.split import assign_splits, drop_duplicates, position, refuse_small_classes
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


def splits_of(sources: Sequence[str], *, seed: int = 0, given: Sequence[str] = ()) -> dict[str, str]:
    """Source -> split."""
    images = assign_splits(images_of(sources), FRACTIONS, seed, given)
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


def test_each_class_is_split_by_the_fractions_and_the_same_seed_gives_the_same_split() -> None:
    images = classes_of("cat", "dog", images=4000)
    splits = splits_of(images)
    for name in ("cat", "dog"):
        counts = Counter(split for source, split in splits.items() if source.startswith(name))
        assert counts == {split: pytest.approx(4000 * share, abs=100) for split, share in FRACTIONS.items()}
    assert splits_of(images[::-1]) == splits != splits_of(images, seed=1)


def test_images_and_classes_that_are_added_move_no_other_image() -> None:
    images = classes_of("cat", "dog", images=100)
    before = splits_of(images)
    after = splits_of(classes_of("ant", "cat2", images=50) + images + classes_of("cat", images=70, first=1000))
    assert len(after) == len(before) + 170
    assert {source: after[source] for source in before} == before


@pytest.mark.parametrize("images", [3, 6])
def test_as_many_images_are_moved_as_splits_would_be_empty(images: int) -> None:
    sources = classes_of("a", "b", "c", "d", "e", images=images)
    for seed in range(20):
        splits = splits_of(sources, seed=seed)
        for name in "abcde":
            found = {source: split for source, split in splits.items() if source.startswith(name)}
            places = {source: position(hashlib.sha256(source.encode()).hexdigest(), seed) for source in found}
            drawn = {s: "test" if p < 0.15 else "validation" if p < 0.3 else "train" for s, p in places.items()}
            assert set(found.values()) == set(SPLITS)
            assert sum(found[source] != drawn[source] for source in found) == 3 - len(set(drawn.values()))


def test_given_splits_are_kept_and_a_missing_one_is_cut_from_train() -> None:
    images = classes_of("cat", "dog", images=2000, below="train/") + classes_of("cat", "dog", images=20, below="val/")
    splits = splits_of(images, given=["train", "validation"])
    assert {split for source, split in splits.items() if source.startswith("val/")} == {"validation"}
    counts = Counter(split for source, split in splits.items() if source.startswith("train/"))
    assert counts == {"train": 4000 - counts["test"], "test": pytest.approx(600, abs=80)}
    alone = splits_of(images[:4000], given=["train"])
    assert {s for s in alone if alone[s] == "test"} == {s for s in alone if splits[s] == "test"}
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
