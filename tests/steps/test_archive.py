"""Archives are unpacked for as long as they are needed, never outside of their place, and whole or not at all."""

import io
import random
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from classifier.data.dataset import list_images, open_dataset
from classifier.job.failures import StepError

Pack = Callable[[Mapping[str, bytes]], bytes]

PETS = {"cat/1.png": b"Tom" * 500, "cat/2.png": b"Felix", "dog/1.png": b"Lassie"}


def fill(root: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their paths below `root`."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def sources(root: Path) -> list[str]:
    return sorted(file.source for file in list_images(root).files())


def message_of(error: pytest.ExceptionInfo[StepError]) -> str:
    return str(error.value)


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def gzipped(files: Mapping[str, bytes]) -> bytes:
    return tarred(files, "w:gz")


def opened(root: Path) -> AbstractContextManager[Path]:
    scratch = root / "scratch"
    scratch.mkdir(exist_ok=True)
    return open_dataset(root / "data", scratch=scratch)


@pytest.mark.parametrize(
    ("name", "pack"), [("pets.zip", zipped), ("pets.TAR", tarred), ("pets.tar.gz", gzipped), ("pets.tgz", gzipped)]
)
@pytest.mark.parametrize("below", ["", "pets/", "pets/train/"])
def test_an_archive_is_unpacked_while_it_is_needed(tmp_path: Path, name: str, pack: Pack, below: str) -> None:
    files = {below + path: content for path, content in PETS.items()}
    fill(tmp_path / "data", {name: pack(files | {"__MACOSX/pets/._x": b""}), ".DS_Store": b""})
    with opened(tmp_path) as root:
        listing = list_images(root)
        assert listing.classes == ["cat", "dog"]
        assert {file.source: file.path.read_bytes() for file in listing.files()} == files
    assert list((tmp_path / "scratch").iterdir()) == []


def test_windows_separators_in_a_zip_are_understood(tmp_path: Path) -> None:
    fill(tmp_path / "data", {"a.zip": zipped({"cat\\1.png": b"Tom", "dog\\1.png": b"Lassie"})})
    with opened(tmp_path) as root:
        assert sources(root) == ["cat/1.png", "dog/1.png"]


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("member", ["../evil.png", "cat/../../evil.png", "/tmp/evil.png", "..\\evil.png"])
def test_an_archive_cannot_write_outside(tmp_path: Path, pack: Pack, member: str) -> None:
    name = "a.zip" if pack is zipped else "a.tar"
    fill(tmp_path / "data", {name: pack({member: b"evil"})})
    with pytest.raises(StepError) as error, opened(tmp_path):
        pass
    assert message_of(error) == (
        f"{tmp_path}/data/{name} holds a member named {member!r}, which leads out of the archive; only relative paths "
        "within it are accepted."
    )
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not list(tmp_path.glob("evil*"))


def test_links_in_archives_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data" / "a.tar", "w") as archive:
        for name, content in PETS.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"cat/link{kind.decode()}.png")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    with opened(tmp_path) as root:
        assert sources(root) == list(PETS)


def test_links_in_a_zip_are_left_out(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("cat/link.png")
    link.external_attr = 0o120777 << 16
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(tmp_path / "data" / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        for name, content in PETS.items():
            archive.writestr(name, content)
    with opened(tmp_path) as root:
        assert sources(root) == list(PETS)


def test_a_broken_archive_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "data", {"pets.zip": b"PK\x03\x04 and then nothing"})
    with pytest.raises(StepError) as error, opened(tmp_path):
        pass
    assert message_of(error) == (
        f"{tmp_path}/data/pets.zip cannot be unpacked (File is not a zip file); a .zip, .tar, .tar.gz or .tgz without "
        "a password is accepted."
    )


@pytest.mark.parametrize("cut", [100, 700, 1100, 5000])
@pytest.mark.parametrize(("name", "pack"), [("pets.tar", tarred), ("pets.tgz", gzipped), ("pets.zip", zipped)])
def test_a_truncated_archive_is_refused(tmp_path: Path, name: str, pack: Pack, cut: int) -> None:
    content = pack({f"{name}/{n}.png": random.Random(0).randbytes(150) for name in ("cat", "dog") for n in range(20)})
    fill(tmp_path / "data", {name: content[: min(cut, len(content) - 100)]})
    with (
        pytest.raises(StepError, match=rf"{name} cannot be unpacked \(.+\); a .zip, .tar, .tar.gz or .tgz"),
        opened(tmp_path),
    ):
        pass


def test_several_archives_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "data", {"a.zip": b"", "b.tar": b"", "c.tgz": b""})
    with pytest.raises(StepError) as error, opened(tmp_path):
        pass
    assert message_of(error) == (
        f"{tmp_path}/data holds 3 archives (a.zip, b.tar, c.tgz), but exactly one is accepted."
    )


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError) as error, opened(tmp_path):
        pass
    assert message_of(error) == (
        f"There is no folder {tmp_path}/data; a folder per class with its images, or train, validation and test "
        "folders with such folders, or one .zip or .tar(.gz) archive of either, is accepted."
    )


def test_an_archive_without_classes_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "data", {"a.zip": zipped({"1.png": b"Tom"})})
    with opened(tmp_path) as root, pytest.raises(StepError) as error:
        list_images(root)
    assert message_of(error) == (
        "The archive holds no class folders; a folder per class with its images, or train, validation and test "
        "folders with such folders, or one .zip or .tar(.gz) archive of either, is accepted."
    )
