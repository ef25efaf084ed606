"""Data sets as people have them: layouts, archives, junk, duplicates, and a split that stays where it is."""

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image

from classifier.data.catalogue import Catalogue
from classifier.data.dataset import ImageFile, Listing, list_images, natural
from classifier.data.inspection import inspect, refuse_unreadable
from classifier.data.split import assign_splits
from classifier.job.failures import StepError

FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}
LAYOUTS = (
    "a folder per class with its images, or train, validation and test folders with such folders, or one .zip or "
    ".tar(.gz) archive of either, is accepted."
)


def png(number: int) -> bytes:
    """An image that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def fill(root: Path, files: Mapping[str, bytes]) -> Path:
    """Write files by their paths below `root`."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def classes_of(*names: str, images: int = 6, below: str = "", first: int = 0) -> dict[str, bytes]:
    """`images` different images per class."""
    return {
        f"{below}{name}/{n:03}.png": png(first + 1000 * i + n) for i, name in enumerate(names) for n in range(images)
    }


@pytest.fixture
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    with Catalogue(tmp_path_factory.mktemp("scratch") / "catalogue.db") as opened:
        yield opened


def files_of(listing: Listing) -> list[ImageFile]:
    """In the catalogue's order."""
    with TemporaryDirectory() as scratch, Catalogue(Path(scratch) / "catalogue.db") as catalogue:
        catalogue.add_files(listing.files())
        assert [number for number, _ in catalogue.files()] == list(range(1, catalogue.count_files() + 1))
        return [file for _, file in catalogue.files()]


def sources(listing: Listing) -> list[str]:
    return [file.source for file in files_of(listing)]


def given_splits(listing: Listing) -> set[str]:
    return {file.given_split for file in listing.files() if file.given_split}


def message_of(error: pytest.ExceptionInfo[StepError]) -> str:
    return str(error.value)


def test_class_folders_are_the_classes(tmp_path: Path) -> None:
    fill(tmp_path, classes_of("cat", "dog", images=2))
    listing = list_images(tmp_path)
    assert listing.classes == ["cat", "dog"]
    assert sources(listing) == ["cat/000.png", "cat/001.png", "dog/000.png", "dog/001.png"]
    assert given_splits(listing) == set()


def test_images_may_lie_deeper_within_their_class(tmp_path: Path) -> None:
    fill(tmp_path, {"cat/2024/may/a.png": png(1), "cat/b.png": png(2), "dog/c.png": png(3)})
    listing = list_images(tmp_path)
    assert [(file.source, listing.classes[file.label]) for file in files_of(listing)] == [
        ("cat/2024/may/a.png", "cat"),
        ("cat/b.png", "cat"),
        ("dog/c.png", "dog"),
    ]


def test_numbered_classes_keep_their_order(tmp_path: Path) -> None:
    names = ["005.Alaskan_malamute", "001.Affenpinscher", "010.Beagle"]
    fill(tmp_path, classes_of(*names, images=1))
    assert list_images(tmp_path).classes == sorted(names)


def test_names_are_ordered_as_people_count() -> None:
    assert sorted(["10", "9", "2.cat", "b", "A", "10.dog", "a2", "a10"], key=natural) == [
        *("2.cat", "9", "10", "10.dog", "A", "a2", "a10", "b")
    ]


@pytest.mark.parametrize("validation", ["valid", "validation", "val", "Validation"])
def test_given_splits_are_recognised(tmp_path: Path, validation: str) -> None:
    for number, split in enumerate(("train", validation, "test")):
        fill(tmp_path, classes_of("cat", "dog", images=1, below=f"{split}/", first=number * 10))
    listing = list_images(tmp_path)
    assert listing.classes == ["cat", "dog"]
    assert given_splits(listing) == {"train", "validation", "test"}
    assert Counter(file.given_split for file in listing.files()) == {"train": 2, "validation": 2, "test": 2}


def test_a_train_folder_alone_is_a_split_not_a_class(tmp_path: Path) -> None:
    fill(tmp_path, classes_of("cat", "dog", images=1, below="train/"))
    listing = list_images(tmp_path)
    assert (listing.classes, given_splits(listing)) == (["cat", "dog"], {"train"})


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    fill(tmp_path, classes_of("train", "bus", "tram", images=1))
    listing = list_images(tmp_path)
    assert (listing.classes, given_splits(listing)) == (["bus", "train", "tram"], set())


def test_one_enclosing_folder_is_looked_through(tmp_path: Path) -> None:
    fill(tmp_path, {**classes_of("cat", "dog", images=1, below="pets/"), "__MACOSX/x": b"", "README.md": b""})
    assert sources(list_images(tmp_path)) == ["pets/cat/000.png", "pets/dog/000.png"]


def test_files_outside_of_class_folders_are_listed_as_skipped(tmp_path: Path) -> None:
    fill(tmp_path, classes_of("cat", "dog", images=1, below="train/"))
    fill(tmp_path, classes_of("cat", images=1, below="test/", first=50))
    fill(tmp_path, {"labels.csv": b"", "test/unlabelled.png": png(9), "extra/cat/x.png": png(8)})
    listing = list_images(tmp_path)
    assert {file.path: file.reason for file in listing.skipped} == {
        "labels.csv": "not in a class folder",
        "test/unlabelled.png": "not in a class folder",
        "extra": "not a train, validation or test folder",
    }
    assert len(sources(listing)) == 3


def test_a_test_folder_without_classes_is_not_a_given_split(tmp_path: Path) -> None:
    fill(tmp_path, {**classes_of("cat", "dog", images=1, below="train/"), "test/1.png": png(77)})
    assert given_splits(list_images(tmp_path)) == {"train"}


def test_what_systems_leave_behind_does_not_exist(tmp_path: Path) -> None:
    junk = ("cat/.DS_Store", "cat/Thumbs.db", "cat/._000.png", "__MACOSX/cat/x.png", ".git/config", "cat/.cache/a.png")
    fill(tmp_path, classes_of("cat", "dog", images=1) | dict.fromkeys(junk, b"junk"))
    listing = list_images(tmp_path)
    assert (listing.classes, len(sources(listing)), listing.skipped) == (["cat", "dog"], 2, [])


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, {"1.png": png(1), "2.png": png(2)})
    with pytest.raises(StepError) as error:
        list_images(tmp_path)
    assert message_of(error) == f"{tmp_path} holds no class folders; {LAYOUTS}"


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, classes_of("cat"))
    with pytest.raises(StepError) as error:
        list_images(tmp_path)
    assert message_of(error) == f"{tmp_path} holds only one class, 'cat', but a classifier needs two or more."


def test_a_class_that_train_lacks_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, classes_of("cat", "dog", images=1, below="train/"))
    fill(tmp_path, classes_of("cat", "cow", "ant", images=1, below="valid/"))
    with pytest.raises(StepError) as error:
        list_images(tmp_path)
    assert message_of(error) == (
        "The validation folder holds ant, cow, which the train folder does not; every class must have images in train."
    )


def test_splits_without_train_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, classes_of("cat", "dog", below="test/") | classes_of("cat", "dog", below="val/", first=50))
    with pytest.raises(StepError) as error:
        list_images(tmp_path)
    assert message_of(error) == f"{tmp_path} holds test, val, but no train folder; {LAYOUTS}"


def test_a_class_name_that_cannot_be_printed_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, classes_of("cat", "d\nog"))
    with pytest.raises(StepError) as error:
        list_images(tmp_path)
    assert message_of(error) == (
        "The class folder 'd\\nog' must have a name in UTF-8 without control characters; rename it."
    )


def test_files_that_are_no_images_are_skipped_with_their_reason(tmp_path: Path, catalogue: Catalogue) -> None:
    fill(tmp_path, classes_of("cat", "dog", images=2))
    fill(
        tmp_path,
        {
            "cat/cut.png": png(5)[:-40],
            "cat/empty.jpg": b"",
            "cat/text.jpg": b"no picture at all",
            "dog/notes.txt": b"remember the milk",
            "dog/no_suffix": png(6),
        },
    )
    catalogue.add_files(list_images(tmp_path).files())
    skipped = inspect(catalogue, max_megapixels=1, workers=2)
    assert catalogue.count_images() == 5
    assign_splits(catalogue, fractions=FRACTIONS, seed=0, given=frozenset({"train", "validation", "test"}))
    catalogue.arrange()
    assert [entry.source for entry in catalogue.entries()] == [
        *("cat/000.png", "cat/001.png", "dog/000.png", "dog/001.png", "dog/no_suffix")
    ]
    assert {file.path: file.reason for file in skipped} == {
        "cat/cut.png": "The image is damaged: image file is truncated.",
        "cat/empty.jpg": "The file is empty.",
        "cat/text.jpg": "The file is not a JPEG, PNG, WebP, BMP, TIFF or GIF image.",
        "dog/notes.txt": "The file is not a JPEG, PNG, WebP, BMP, TIFF or GIF image.",
    }


def test_a_dead_link_is_skipped(tmp_path: Path, catalogue: Catalogue) -> None:
    fill(tmp_path, classes_of("cat", "dog", images=1))
    (tmp_path / "cat" / "link.png").symlink_to(tmp_path / "nowhere.png")
    catalogue.add_files(list_images(tmp_path).files())
    skipped = inspect(catalogue, max_megapixels=1, workers=1)
    assert [(file.path, file.reason) for file in skipped] == [("cat/link.png", "not a regular file")]


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    fill(tmp_path, classes_of("cat", "dog", images=1))
    (tmp_path / "cat" / "all").symlink_to(tmp_path)
    assert sources(list_images(tmp_path)) == ["cat/000.png", "dog/000.png"]


def test_a_file_name_that_is_not_utf_8_can_be_printed(tmp_path: Path) -> None:
    fill(tmp_path, {**classes_of("cat", "dog", images=1), "dog/\udcff.png": png(5)})
    assert sources(list_images(tmp_path))[-1] == "dog/\\udcff.png"


def test_an_image_above_the_pixel_limit_is_refused(tmp_path: Path, catalogue: Catalogue) -> None:
    large = io.BytesIO()
    Image.new("L", (2000, 1000)).save(large, "PNG")
    fill(tmp_path, classes_of("cat", "dog", images=1) | {"dog/large.png": large.getvalue()})
    catalogue.add_files(list_images(tmp_path).files())
    with pytest.raises(StepError) as error:
        inspect(catalogue, max_megapixels=1.5, workers=2)
    assert message_of(error) == (
        "dog/large.png: The image has 2.0 megapixels (2000 x 1000), but at most 1.5 are accepted; remove or resize it, "
        "or raise data.max_image_megapixels."
    )


def test_too_many_unreadable_files_are_refused(tmp_path: Path, catalogue: Catalogue) -> None:
    fill(tmp_path, classes_of("cat", "dog", images=8) | {f"cat/bad{n}.jpg": b"" for n in range(4)})
    catalogue.add_files(list_images(tmp_path).files())
    skipped = inspect(catalogue, max_megapixels=1, workers=2)
    refuse_unreadable(skipped, catalogue.count_files(), max_fraction=0.2)
    with pytest.raises(StepError) as error:
        refuse_unreadable(skipped, catalogue.count_files(), max_fraction=0.15)
    assert message_of(error) == (
        "4 of 20 files in class folders (20.0%) cannot be used as images, but at most 15.0% is accepted "
        "(cat/bad0.jpg: The file is empty; cat/bad1.jpg: The file is empty; cat/bad2.jpg: The file is empty; and 1 "
        "more); remove them or raise data.max_unreadable_fraction."
    )
