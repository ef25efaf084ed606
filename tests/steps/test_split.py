"""Duplicates go, every class is in every split, and a split stays where it is when images are added."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from classifier.data.catalogue import Catalogue, Found
from classifier.data.dataset import SPLIT_FOLDERS, ImageFile
from classifier.data.split import assign_splits, check_fractions, drop_duplicates, position, refuse_small_classes
from classifier.job.failures import StepError

FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}
CLASSES = ["cat", "dog", "cow", "ant", "cat2", "a", "b", "c", "d", "e"]

Image = tuple[ImageFile, str]  # and the sha256
Catalogued = Callable[[list[Image]], Catalogue]
Splits = Callable[..., dict[str, str]]


@pytest.fixture
def catalogued(tmp_path: Path) -> Iterator[Catalogued]:
    """Makes catalogues of images."""
    opened: list[Catalogue] = []

    def make(images: list[Image]) -> Catalogue:
        catalogue = Catalogue(tmp_path / f"{len(opened)}.db")
        opened.append(catalogue)
        hashes = {file.source: sha256 for file, sha256 in images}
        catalogue.add_files(file for file, _ in images)
        numbers = [(number, file.source) for number, file in catalogue.files()]
        catalogue.describe(Found(number, hashes[source], "PNG", 8) for number, source in numbers)
        return catalogue

    yield make
    for catalogue in opened:
        catalogue.__exit__(None, None, None)


def image(source: str, content: int | None = None) -> Image:
    """An image file `[split/]class/name`; two with the same `content` are the same bytes."""
    *split, class_name, _ = source.split("/")
    given = SPLIT_FOLDERS[split[0]] if split else None
    sha256 = hashlib.sha256(source.encode() if content is None else bytes([content])).hexdigest()
    return ImageFile(Path(source), source, CLASSES.index(class_name), given), sha256


def classes_of(*names: str, images: int, below: str = "", first: int = 0) -> list[Image]:
    """`images` different images per class."""
    return [image(f"{below}{name}/{n}.png") for name in names for n in range(first, first + images)]


def left(catalogue: Catalogue) -> list[str]:
    """Sources of the images that were not dropped, by class."""
    catalogue.assign(lambda sha256: "train")
    catalogue.arrange()
    return sorted(entry.source for entry in catalogue.entries())


def message_of(error: pytest.ExceptionInfo[StepError]) -> str:
    return str(error.value)


def test_of_exact_duplicates_the_first_is_kept(catalogued: Catalogued) -> None:
    catalogue = catalogued([image("cat/10", 1), image("cat/2", 1), image("cat/1", 1), image("dog/1", 2)])
    unique = drop_duplicates(catalogue)
    assert left(catalogue) == ["cat/1", "dog/1"]
    assert unique.duplicates == [{"kept": "cat/1", "dropped": "cat/2"}, {"kept": "cat/1", "dropped": "cat/10"}]
    assert unique.conflicting_labels == []


def test_a_duplicate_of_a_test_image_leaves_training(catalogued: Catalogued) -> None:
    catalogue = catalogued(
        [
            *(image("train/cat/1", 1), image("train/cat/t", 2), image("train/dog/v", 3)),
            *(image("valid/cat/t", 2), image("valid/dog/v", 3), image("test/cat/t", 2)),
        ]
    )
    unique = drop_duplicates(catalogue)
    assert left(catalogue) == ["test/cat/t", "train/cat/1", "valid/dog/v"]
    assert unique.duplicates == [
        {"kept": "test/cat/t", "dropped": "valid/cat/t"},
        {"kept": "test/cat/t", "dropped": "train/cat/t"},
        {"kept": "valid/dog/v", "dropped": "train/dog/v"},
    ]


def test_an_image_with_two_labels_is_dropped_and_reported(catalogued: Catalogued) -> None:
    catalogue = catalogued([image("cat/1", 1), image("cat/2", 2), image("dog/1", 1), image("dog/2", 3)])
    unique = drop_duplicates(catalogue)
    assert left(catalogue) == ["cat/2", "dog/2"]
    assert unique.conflicting_labels == [{"sha256": hashlib.sha256(b"\1").hexdigest(), "paths": ["cat/1", "dog/1"]}]
    assert unique.duplicates == []


@pytest.fixture
def splits_of(catalogued: Catalogued) -> Splits:
    """Source -> split."""

    def splits(images: list[Image], *, seed: int = 0, given: Collection[str] = ()) -> dict[str, str]:
        catalogue = catalogued(images)
        assign_splits(catalogue, fractions=FRACTIONS, seed=seed, given=frozenset(given))
        catalogue.arrange()
        return {entry.source: entry.split for entry in catalogue.entries()}

    return splits


def test_each_class_is_split_by_the_fractions(splits_of: Splits) -> None:
    splits = splits_of(classes_of("cat", "dog", images=4000))
    for name in ("cat", "dog"):
        counts = Counter(split for source, split in splits.items() if source.startswith(name))
        assert counts["train"] == pytest.approx(2800, abs=100)
        assert counts["validation"] == pytest.approx(600, abs=80)
        assert counts["test"] == pytest.approx(600, abs=80)


def test_the_same_seed_gives_the_same_split_and_another_seed_another(splits_of: Splits) -> None:
    images = classes_of("cat", "dog", images=50)
    assert splits_of(images) == splits_of(images[::-1])
    assert splits_of(images) != splits_of(images, seed=1)


def test_images_and_classes_that_are_added_move_no_other_image(splits_of: Splits) -> None:
    images = classes_of("cat", "dog", images=100)
    before = splits_of(images)
    after = splits_of(classes_of("ant", "cat2", images=50) + images + classes_of("cat", images=70, first=1000))
    assert len(after) == len(before) + 170
    assert {source: after[source] for source in before} == before


@pytest.mark.parametrize("seed", range(20))
def test_even_the_smallest_class_has_an_image_in_every_split(splits_of: Splits, seed: int) -> None:
    splits = splits_of(classes_of("a", "b", "c", images=3), seed=seed)
    for name in "abc":
        found = [split for source, split in splits.items() if source.startswith(name)]
        assert sorted(found) == ["test", "train", "validation"]


def test_only_as_many_images_are_moved_as_splits_would_be_empty(splits_of: Splits) -> None:
    images = classes_of("a", "b", "c", "d", "e", images=6)
    for seed in range(20):
        splits = splits_of(images, seed=seed)
        for name in "abcde":
            of_class = [(file, sha256) for file, sha256 in images if CLASSES[file.label] == name]
            drawn = {file.source: drawn_split(sha256, seed) for file, sha256 in of_class}
            moved = [source for source in drawn if splits[source] != drawn[source]]
            assert len(moved) == 3 - len(set(drawn.values()))


def drawn_split(sha256: str, seed: int) -> str:
    """Where an image falls before any is moved."""
    place = position(sha256, seed)
    return "test" if place < 0.15 else "validation" if place < 0.3 else "train"


def test_a_given_split_is_kept_and_the_missing_one_is_cut_from_train(splits_of: Splits) -> None:
    images = classes_of("cat", "dog", images=2000, below="train/") + classes_of("cat", "dog", images=20, below="val/")
    splits = splits_of(images, given={"train", "validation"})
    assert {split for source, split in splits.items() if source.startswith("val/")} == {"validation"}
    counts = Counter(split for source, split in splits.items() if source.startswith("train/"))
    assert set(counts) == {"train", "test"}
    assert counts["test"] == pytest.approx(600, abs=80)


def test_validation_given_later_leaves_the_test_split_as_it_was(splits_of: Splits) -> None:
    images = classes_of("cat", "dog", images=60, below="train/")
    alone, with_validation = splits_of(images, given={"train"}), splits_of(images, given={"train", "validation"})
    assert {s for s in alone if alone[s] == "test"} == {s for s in alone if with_validation[s] == "test"}


def test_all_splits_given_are_all_kept(splits_of: Splits) -> None:
    given = ("train", "validation", "test")
    images = [i for split in given for i in classes_of("cat", "dog", images=4, below=f"{split}/")]
    splits = splits_of(images, given=set(given))
    assert all(source.startswith(split) for source, split in splits.items())


def test_fractions_that_do_not_sum_to_one_are_refused() -> None:
    check_fractions({"train": 0.8, "validation": 0.1, "test": 0.1})
    with pytest.raises(StepError) as error:
        check_fractions({"train": 0.8, "validation": 0.1, "test": 0.2})
    assert message_of(error) == (
        "data.split: the shares must sum to 1, but train 0.8, validation 0.1, test 0.2 sum to 1.1."
    )


def test_a_fraction_of_nothing_is_refused() -> None:
    with pytest.raises(StepError) as error:
        check_fractions({"train": 0.8, "validation": 0.2, "test": 0.0})
    assert message_of(error) == (
        "data.split: each share must lie between 0 and 1, but got train 0.8, validation 0.2, test 0."
    )


def test_a_class_with_too_few_images_is_refused(catalogued: Catalogued) -> None:
    images = classes_of("cat", "dog", images=8) + classes_of("cow", images=4)
    with pytest.raises(StepError) as error:
        refuse_small_classes(catalogued(images), CLASSES[:4], given=frozenset(), min_images=5)
    assert message_of(error) == (
        "Each class needs at least 5 different readable images, but 'cow' has 4, 'ant' has 0; add images, remove the "
        "class, or lower data.min_images_per_class."
    )


def test_a_class_needs_an_image_for_each_split_that_is_cut(catalogued: Catalogued) -> None:
    images = classes_of("cat", images=2, below="train/") + classes_of("dog", images=1, below="train/")
    images += classes_of("cat", "dog", images=3, below="test/")
    with pytest.raises(StepError) as error:
        refuse_small_classes(catalogued(images), CLASSES[:2], given=frozenset({"train", "test"}), min_images=1)
    assert message_of(error) == (
        "Each class needs at least 2 different readable images in train, but 'dog' has 1; add images, remove the "
        "class, or lower data.min_images_per_class."
    )
