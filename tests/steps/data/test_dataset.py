"""Data sets as people have them: layouts, junk, and archives, which are unpacked whole or not at all."""

import io
import random
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from classifier.data.dataset import list_files, natural, open_dataset
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


@pytest.mark.parametrize(
    ("files", "classes", "found", "given"),
    [
        (classes_of("cat", "dog", images=2), ["cat", "dog"],
         ["cat/000.png", "cat/001.png", "dog/000.png", "dog/001.png"], {}),
        ({"cat/2024/may/a.png": b"", "cat/b.png": b"", "dog/c.png": b""}, ["cat", "dog"],
         ["cat/b.png", "cat/2024/may/a.png", "dog/c.png"], {}),
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
    found_classes, listed, _ = list_files(fill(tmp_path, files))
    assert (found_classes, Counter(listed["given"].dropna())) == (classes, given)
    assert found is None or list(listed["path"]) == found
    for path, label in zip(listed["path"], listed["label"], strict=True):
        assert classes[label] in Path(path).parts


def test_names_are_ordered_as_people_count() -> None:
    ordered = ["2.cat", "9", "10", "10.dog", "A", "a2", "a10", "b"]
    assert sorted(sorted(ordered), key=natural) == ordered


def test_other_files_are_listed_as_skipped_but_for_junk_and_linked_folders(tmp_path: Path) -> None:
    junk = ("cat/.DS_Store", "cat/Thumbs.db", "cat/._000.png", "__MACOSX/cat/x.png", ".git/config", "cat/.cache/a.png")
    images = classes_of("cat", "dog", below="train/") | classes_of("cat", below="test/")
    strays = ("labels.csv", "test/unlabelled.png", "extra/cat/x.png")
    fill(tmp_path, images | dict.fromkeys([*strays, *(f"train/{name}" for name in junk)], b""))
    (tmp_path / "train" / "cat" / "all").symlink_to(tmp_path)
    classes, listed, skipped = list_files(tmp_path)
    assert (classes, sorted(listed["path"])) == (["cat", "dog"], sorted(images))
    assert skipped == {
        "labels.csv": "not in a class folder",
        "test/unlabelled.png": "not in a class folder",
        "extra": "not a train, validation or test folder",
    }


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


gzipped = partial(tarred, mode="w:gz")


KINDS: dict[str, Pack] = {"pets.zip": zipped, "pets.TAR": tarred, "pets.tar.gz": gzipped, "pets.tgz": gzipped}


@pytest.mark.parametrize(
    ("name", "below"),
    [*((name, below) for name in KINDS for below in ("", "pets/", "pets/train/")), ("pets.zip", "pets\\")],
)
def test_an_archive_is_unpacked_while_it_is_needed_without_its_links(tmp_path: Path, name: str, below: str) -> None:
    files = {below + path: content for path, content in PETS.items()}
    fill(tmp_path / "data", {name: KINDS[name](files | {"__MACOSX/pets/._x": b""}), ".DS_Store": b""})
    with open_dataset(tmp_path / "data", scratch=tmp_path) as root:
        classes, listed, skipped = list_files(root)
        assert (classes, skipped) == (["cat", "dog"], {})
        contents = {path: (root / path).read_bytes() for path in listed["path"]}
        assert contents == {path.replace("\\", "/"): content for path, content in files.items()}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("member", ["../evil.png", "cat/../../evil.png", "/tmp/evil-of-a-data-set.png"])
def test_an_archive_cannot_write_outside(tmp_path: Path, pack: Pack, member: str) -> None:
    fill(tmp_path / "data", {"a.zip" if pack is zipped else "a.tar": pack({member: b"evil"})})
    refusals = r"cannot be unpacked|holds no class folders|only one class"
    with pytest.raises(StepError, match=refusals), open_dataset(tmp_path / "data", scratch=tmp_path) as root:
        list_files(root)
    assert not list(tmp_path.glob("evil*")) and not Path(member).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("cut", [20, 100, 700, 1100, 5000])
@pytest.mark.parametrize(("name", "pack"), [("pets.tar", tarred), ("pets.tgz", gzipped), ("pets.zip", zipped)])
def test_a_truncated_archive_is_refused(tmp_path: Path, name: str, pack: Pack, cut: int) -> None:
    content = pack({f"{name}/{n}.png": random.Random(0).randbytes(150) for name in ("cat", "dog") for n in range(20)})
    fill(tmp_path / "data", {name: content[: min(cut, len(content) - 100)]})
    sentence = rf"{name} cannot be unpacked \(.+\); a .zip, .tar, .tar.gz or .tgz"
    with pytest.raises(StepError, match=sentence), open_dataset(tmp_path / "data", scratch=tmp_path):
        pass


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"1.png": b"", "2.png": b""}, f"{{}} holds no class folders; {LAYOUTS}"),
        (classes_of("cat"),
         f"{{}} holds only one class, 'cat', but a classifier needs two or more; {LAYOUTS}"),
        (classes_of("cat", "dog", below="train/") | classes_of("cat", "cow", "ant", below="valid/"),
         "The validation folder holds ant, cow, which the train folder does not; every class must have images in "
         "train."),
        (classes_of("cat", "dog", below="test/") | classes_of("cat", "dog", below="val/"),
         f"{{}} holds test, val, but no train folder; {LAYOUTS}"),
        (classes_of("cat", "d\nog"),
         "The class folder 'd\\nog' must have a name in UTF-8 without control characters; rename it."),
        ({"a.zip": b"", "b.tar": b"", "c.tgz": b""}, f"{{}} holds no class folders; {LAYOUTS}"),
        ({"a.zip": zipped({"1.png": b"Tom"}).replace(b"cat/link", b".cat-lnk")},
         f"The archive holds no class folders; {LAYOUTS}"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, files: dict[str, bytes], sentence: str) -> None:
    fill(tmp_path / "data", files)
    with pytest.raises(StepError) as error, open_dataset(tmp_path / "data", scratch=tmp_path) as root:
        list_files(root)
    assert str(error.value) == sentence.format(tmp_path / "data")
