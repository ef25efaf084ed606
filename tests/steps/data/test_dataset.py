"""Data sets as people have them: layouts, junk, and archives, which are unpacked whole or not at all."""

import io
import random
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from classifier.data.dataset import Listing, list_images, natural, open_dataset
from classifier.job.failures import StepError

Pack = Callable[[Mapping[str, bytes]], bytes]
LAYOUTS = (
    "a folder per class with its images, or train, validation and test folders with such folders, or one .zip or "
    ".tar(.gz) archive of either, is accepted."
)
PETS = {"cat/1.png": b"Tom" * 500, "cat/2.png": b"Felix", "dog/1.png": b"Lassie"}


def fill(root: Path, files: Mapping[str, bytes]) -> Path:
    """Write files by their paths below `root`."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def classes_of(*names: str, images: int = 1, below: str = "") -> dict[str, bytes]:
    return {f"{below}{name}/{number:03}.png": b"image" for name in names for number in range(images)}


def sources(listing: Listing) -> list[str]:
    return list(listing.files["path"])


def given_splits(listing: Listing) -> dict[str, int]:
    """Split -> number of files that the data set has in it."""
    counts = listing.files["given"].value_counts()
    return {split: count for split, count in counts.items() if count}


@pytest.mark.parametrize(
    ("files", "classes", "found", "given"),
    [
        (classes_of("cat", "dog", images=2), ["cat", "dog"],
         ["cat/000.png", "cat/001.png", "dog/000.png", "dog/001.png"], {}),
        ({"cat/2024/may/a.png": b"", "cat/b.png": b"", "dog/c.png": b""}, ["cat", "dog"],
         ["cat/2024/may/a.png", "cat/b.png", "dog/c.png"], {}),
        ({"cat/10.png": b"", "cat/9.png": b"", "dog/1.png": b""}, ["cat", "dog"],
         ["cat/9.png", "cat/10.png", "dog/1.png"], {}),
        (classes_of("005.Alaskan_malamute", "001.Affenpinscher", "010.Beagle"),
         ["001.Affenpinscher", "005.Alaskan_malamute", "010.Beagle"], None, {}),
        (classes_of("cat", "dog", below="train/") | classes_of("cat", below="Validation/"), ["cat", "dog"], None,
         {"train": 2, "validation": 1}),
        (classes_of("a", "b", below="train/") | classes_of("a", below="val/") | classes_of("b", below="test/"),
         ["a", "b"], None, {"train": 2, "validation": 1, "test": 1}),
        (classes_of("cat", "dog", below="train/"), ["cat", "dog"], None, {"train": 2}),
        (classes_of("cat", "dog", below="train/") | {"test/1.png": b""}, ["cat", "dog"], None, {"train": 2}),
        (classes_of("train", "bus", "tram"), ["bus", "train", "tram"], None, {}),
        (classes_of("cat", "dog", below="pets/") | {"__MACOSX/x": b"", "README.md": b""}, ["cat", "dog"],
         ["pets/cat/000.png", "pets/dog/000.png"], {}),
        (classes_of("cat", "dog") | {"dog/\udcff.png": b""}, ["cat", "dog"],
         ["cat/000.png", "dog/000.png", "dog/\udcff.png"], {}),
    ],
)  # fmt: skip
def test_layouts(
    tmp_path: Path, files: dict[str, bytes], classes: list[str], found: list[str] | None, given: dict[str, int]
) -> None:
    listing = list_images(fill(tmp_path, files))
    assert (listing.classes, given_splits(listing)) == (classes, given)
    assert found is None or sources(listing) == found
    for path, label in zip(listing.files["path"], listing.files["label"], strict=True):
        assert listing.classes[label] in Path(path).parts


def test_names_are_ordered_as_people_count() -> None:
    assert sorted(["10", "9", "2.cat", "b", "A", "10.dog", "a2", "a10"], key=natural) == [
        *("2.cat", "9", "10", "10.dog", "A", "a2", "a10", "b")
    ]


def test_files_outside_of_class_folders_are_listed_as_skipped(tmp_path: Path) -> None:
    fill(tmp_path, classes_of("cat", "dog", below="train/") | classes_of("cat", below="test/"))
    listing = list_images(fill(tmp_path, {"labels.csv": b"", "test/unlabelled.png": b"", "extra/cat/x.png": b""}))
    assert {file.path: file.reason for file in listing.skipped} == {
        "labels.csv": "not in a class folder",
        "test/unlabelled.png": "not in a class folder",
        "extra": "not a train, validation or test folder",
    }
    assert len(listing.files) == 3


def test_what_systems_leave_behind_does_not_exist(tmp_path: Path) -> None:
    junk = ("cat/.DS_Store", "cat/Thumbs.db", "cat/._000.png", "__MACOSX/cat/x.png", ".git/config", "cat/.cache/a.png")
    listing = list_images(fill(tmp_path, classes_of("cat", "dog") | dict.fromkeys(junk, b"junk")))
    assert (listing.classes, len(listing.files), listing.skipped) == (["cat", "dog"], 2, [])


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    fill(tmp_path, classes_of("cat", "dog"))
    (tmp_path / "cat" / "all").symlink_to(tmp_path)
    assert sources(list_images(tmp_path)) == ["cat/000.png", "dog/000.png"]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"1.png": b"", "2.png": b""}, f"{{}} holds no class folders; {LAYOUTS}"),
        (classes_of("cat"), "{} holds only one class, 'cat', but a classifier needs two or more."),
        (classes_of("cat", "dog", below="train/") | classes_of("cat", "cow", "ant", below="valid/"),
         "The validation folder holds ant, cow, which the train folder does not; every class must have images in "
         "train."),
        (classes_of("cat", "dog", below="test/") | classes_of("cat", "dog", below="val/"),
         f"{{}} holds test, val, but no train folder; {LAYOUTS}"),
        (classes_of("cat", "d\nog"),
         "The class folder 'd\\nog' must have a name in UTF-8 without control characters; rename it."),
    ],
)  # fmt: skip
def test_layouts_that_are_refused(tmp_path: Path, files: dict[str, bytes], sentence: str) -> None:
    with pytest.raises(StepError) as error:
        list_images(fill(tmp_path, files))
    assert str(error.value) == sentence.format(tmp_path)


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        link = zipfile.ZipInfo("cat/link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return buffer.getvalue()


def tarred(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            link = tarfile.TarInfo(f"cat/link{kind.decode()}.png")
            link.type, link.linkname = kind, "/etc/passwd"
            archive.addfile(link)
    return buffer.getvalue()


def gzipped(files: Mapping[str, bytes]) -> bytes:
    return tarred(files, "w:gz")


def opened(root: Path) -> AbstractContextManager[Path]:
    (root / "scratch").mkdir(exist_ok=True)
    return open_dataset(root / "data", scratch=root / "scratch")


@pytest.mark.parametrize(
    ("name", "pack"), [("pets.zip", zipped), ("pets.TAR", tarred), ("pets.tar.gz", gzipped), ("pets.tgz", gzipped)]
)
@pytest.mark.parametrize("below", ["", "pets/", "pets/train/"])
def test_an_archive_is_unpacked_while_it_is_needed_without_its_links(
    tmp_path: Path, name: str, pack: Pack, below: str
) -> None:
    files = {below + path: content for path, content in PETS.items()}
    fill(tmp_path / "data", {name: pack(files | {"__MACOSX/pets/._x": b""}), ".DS_Store": b""})
    with opened(tmp_path) as root:
        listing = list_images(root)
        assert listing.classes == ["cat", "dog"]
        assert not list(root.rglob("link*"))
        assert {path: (root / path).read_bytes() for path in sources(listing)} == files
    assert list((tmp_path / "scratch").iterdir()) == []


def test_windows_separators_in_a_zip_are_understood(tmp_path: Path) -> None:
    fill(tmp_path / "data", {"a.zip": zipped({"cat\\1.png": b"Tom", "dog\\1.png": b"Lassie"})})
    with opened(tmp_path) as root:
        assert sources(list_images(root)) == ["cat/1.png", "dog/1.png"]


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("member", ["../evil.png", "cat/../../evil.png", "/tmp/evil.png", "..\\evil.png"])
def test_an_archive_cannot_write_outside(tmp_path: Path, pack: Pack, member: str) -> None:
    name = "a.zip" if pack is zipped else "a.tar"
    fill(tmp_path / "data", {name: pack({member: b"evil"})})
    with pytest.raises(StepError) as error, opened(tmp_path):
        pass
    path = member.replace("\\", "/") if pack is zipped else member
    assert f"{tmp_path}/data/{name} cannot be unpacked ({path!r} is outside the destination);" in str(error.value)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not list(tmp_path.glob("evil*"))


@pytest.mark.parametrize("cut", [20, 100, 700, 1100, 5000])
@pytest.mark.parametrize(("name", "pack"), [("pets.tar", tarred), ("pets.tgz", gzipped), ("pets.zip", zipped)])
def test_a_truncated_archive_is_refused(tmp_path: Path, name: str, pack: Pack, cut: int) -> None:
    content = pack({f"{name}/{n}.png": random.Random(0).randbytes(150) for name in ("cat", "dog") for n in range(20)})
    fill(tmp_path / "data", {name: content[: min(cut, len(content) - 100)]})
    with (
        pytest.raises(StepError, match=rf"{name} cannot be unpacked \(.+\); a .zip, .tar, .tar.gz or .tgz"),
        opened(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (None, f"There is no folder {{}}; {LAYOUTS}"),
        ({"a.zip": b"", "b.tar": b"", "c.tgz": b""},
         "{} holds 3 archives (a.zip, b.tar, c.tgz), but exactly one is accepted."),
        ({"a.zip": zipped({"1.png": b"Tom"}).replace(b"cat/link", b".cat-lnk")},
         f"The archive holds no class folders; {LAYOUTS}"),
    ],
)  # fmt: skip
def test_archives_that_are_refused(tmp_path: Path, files: dict[str, bytes] | None, sentence: str) -> None:
    if files:
        fill(tmp_path / "data", files)
    with pytest.raises(StepError) as error, opened(tmp_path) as root:
        list_images(root)
    assert str(error.value) == sentence.format(tmp_path / "data")
