"""pipeline/service/sources.py: naming, checking, listing and fingerprinting data sources on real files."""

import os
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.errors import DataSourceError
from pipeline.service.sources import Source, files, fingerprint, resolve, write_digits

REPOSITORY = Path(__file__).parents[2]
ACCEPTED = "sample, digits, a folder, a .zip, .tar, .tar.gz or .tgz archive, or s3://bucket/prefix"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of one file each, and a hidden file."""
    folder = tmp_path / "photos"
    for name in ("cat/b.jpg", "dog/a.jpg", "dog/.DS_Store"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image")
    return folder


def refusal(source: str | Path) -> str:
    with pytest.raises(DataSourceError) as error:
        resolve(str(source))
    return str(error.value)


def test_the_sample_is_photos_of_eight_classes_and_digits_have_no_place() -> None:
    sample = resolve("sample")
    assert sample.path is not None
    assert len({photo.relative.split("/")[0] for photo in files(sample.path)}) == 8
    assert sum(photo.size for photo in files(sample.path)) < 2_000_000
    assert resolve("digits") == Source("digits")


def test_folder_is_resolved_to_its_absolute_path(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)

    assert resolve("photos") == Source("folder", path=photos)
    assert resolve(str(photos)) == Source("folder", path=photos)
    assert resolve("photos/cat/..") == Source("folder", path=photos)


def test_relative_path_may_start_elsewhere(photos: Path) -> None:
    assert resolve("photos", relative_to=photos.parent) == Source("folder", path=photos)


def test_folder_called_sample_is_reached_with_a_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "a.png").touch()
    monkeypatch.chdir(tmp_path)

    assert resolve("./sample") == Source("folder", path=tmp_path / "sample")


def test_home_is_expanded(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(photos.parent))

    assert resolve("~/photos") == Source("folder", path=photos)


@pytest.mark.parametrize("name", ["photos.tar", "photos.tar.gz", "photos.tgz", "PHOTOS.TAR.GZ"])
def test_tar_archive_is_recognised(photos: Path, name: str) -> None:
    archive = photos.parent / name
    with tarfile.open(archive, "w" if name.endswith(".tar") else "w:gz") as tar:
        tar.add(photos, "photos")

    assert resolve(str(archive)) == Source("archive", path=archive)


def test_zip_archive_is_recognised(photos: Path) -> None:
    archive = photos.parent / "photos.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.write(photos / "cat/b.jpg", "cat/b.jpg")

    assert resolve(str(archive)) == Source("archive", path=archive)


@pytest.mark.parametrize("uri", ["s3://my-bucket/photos/", "s3://my.bucket", "s3://b-1/a b/ü.zip"])
def test_s3_address_is_kept_as_it_is(uri: str) -> None:
    assert resolve(uri) == Source("s3", uri=uri)


@pytest.mark.parametrize("uri", ["s3://", "s3://Bucket/x", "s3:/bucket/x", "s3://b/x", "s3://-bucket/x", "s3:///x"])
def test_malformed_s3_address_is_refused(uri: str) -> None:
    assert refusal(uri) == (
        f"Data source '{uri}' is not an S3 address: write s3://bucket/prefix, "
        "the bucket of 3 to 63 lower-case letters, digits, dots and dashes."
    )


def test_other_address_is_refused() -> None:
    assert refusal("https://example.org/photos.zip") == (
        f"Data source 'https://example.org/photos.zip' is not accepted: download it and give {ACCEPTED}."
    )


def test_missing_folder_names_its_nearest_sibling(photos: Path) -> None:
    source = photos.parent / "fotos"

    assert refusal(source) == f"Data source '{source}' does not exist. Did you mean 'photos'?"


def test_missing_part_in_the_middle_is_the_one_that_is_hinted_at(photos: Path) -> None:
    source = photos.parent / "photo" / "cat"

    assert refusal(source) == f"Data source '{source}' does not exist. Did you mean 'photos'?"


def test_missing_folder_like_nothing_says_what_is_accepted(photos: Path) -> None:
    source = photos.parent / "zzz"

    assert refusal(source) == f"Data source '{source}' does not exist. Give {ACCEPTED}."


def test_misspelt_sample_is_hinted_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert refusal("smaple") == "Data source 'smaple' does not exist. Did you mean 'sample'?"


def test_overlong_name_is_one_sentence(tmp_path: Path) -> None:
    source = tmp_path / ("x" * 300)

    assert refusal(source) == f"Data source '{source}' cannot be read: File name too long."


def test_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "photo.jpg"
    source.write_bytes(b"image")

    assert refusal(source) == f"Data source '{source}' is a file but not a known archive: give {ACCEPTED}."


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz"])
def test_archive_that_is_none_inside_is_refused(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"photos{suffix}"
    source.write_bytes(b"not an archive")

    assert refusal(source) == (f"Data source '{source}' is damaged, or not the {suffix} archive its name says it is.")


def test_folder_without_a_visible_file_is_empty(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / ".hidden").touch()
    (tmp_path / "photos" / ".git").mkdir()
    (tmp_path / "photos" / ".git" / "HEAD").touch()
    source = tmp_path / "photos"

    assert refusal(source) == (
        f"Data source '{source}' is an empty folder: put one folder of images per class into it."
    )


def test_files_are_listed_in_order_without_hidden_ones(photos: Path) -> None:
    (photos / "cat" / "a.jpg").write_bytes(b"longer image")

    listed = [(file.relative, file.size) for file in files(photos)]

    assert listed == [("cat/a.jpg", 12), ("cat/b.jpg", 5), ("dog/a.jpg", 5)]
    assert all(Path(file.path).stat().st_mtime_ns == file.mtime_ns for file in files(photos))


def test_linked_folders_are_followed_but_loops_are_not(photos: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "c.jpg").touch()
    (photos / "bird").symlink_to(elsewhere)
    (photos / "cat" / "all").symlink_to(photos)

    assert [file.relative for file in files(photos)] == ["bird/c.jpg", "cat/b.jpg", "dog/a.jpg"]


def test_broken_link_is_one_sentence(photos: Path) -> None:
    link = photos / "cat" / "z.jpg"
    link.symlink_to("nowhere.jpg")

    with pytest.raises(DataSourceError) as error:
        fingerprint(photos)
    assert str(error.value) == (
        f"'{link}' cannot be read: No such file or directory; remove it, or restore what it links to."
    )


def test_fingerprint_is_the_same_for_an_equal_copy_elsewhere(photos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", photos, copy], check=True)

    assert fingerprint(copy) == fingerprint(photos)


def test_fingerprint_changes_with_name_size_and_time_but_not_with_hidden_files(photos: Path) -> None:
    file = photos / "cat" / "b.jpg"
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    seen = [fingerprint(photos)]

    (photos / ".cache").touch()
    assert fingerprint(photos) == seen[0]

    file.write_bytes(b"image!")
    os.utime(file, ns=times)
    seen.append(fingerprint(photos))
    os.utime(file, ns=(times[0], times[1] + 1))
    seen.append(fingerprint(photos))
    file.rename(photos / "cat" / "c.jpg")
    seen.append(fingerprint(photos))
    assert len(set(seen)) == 4


def test_fingerprint_of_an_archive_changes_with_its_size(tmp_path: Path) -> None:
    archive = tmp_path / "photos.zip"
    archive.write_bytes(b"1")
    before = fingerprint(archive)
    archive.write_bytes(b"12")

    assert fingerprint(archive) != before


def test_names_that_are_not_unicode_are_fingerprinted(photos: Path) -> None:
    Path(os.fsdecode(os.fsencode(photos / "cat") + b"/\xff.jpg")).touch()

    assert len(fingerprint(photos)) == 64


def test_digits_are_those_of_scikit_learn(tmp_path: Path) -> None:
    write_digits(tmp_path / "sample")

    digits = load_digits()
    written = list(files(tmp_path / "sample"))
    assert len(written) == 1797
    assert Counter(file.relative.partition("/")[0] for file in written) == Counter(map(str, digits.target))
    assert written[0].relative == "0/digit-0001.png"
    with Image.open(tmp_path / "sample" / str(digits.target[1796]) / "digit-1797.png") as image:
        assert (image.mode, image.size) == ("L", (8, 8))
        assert np.array_equal(np.asarray(image), np.round(digits.images[1796] * 255 / 16))


def test_digits_have_the_same_fingerprint_each_time(tmp_path: Path) -> None:
    write_digits(tmp_path / "one")
    write_digits(tmp_path / "two")

    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")


def test_digits_leave_a_folder_that_exists_as_it_is(photos: Path) -> None:
    write_digits(photos)

    assert [file.relative for file in files(photos)] == ["cat/b.jpg", "dog/a.jpg"]


def test_interrupted_digits_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        write_digits(tmp_path / "sample")

    assert list(tmp_path.iterdir()) == []


def test_two_processes_may_write_the_digits_at_once(tmp_path: Path) -> None:
    code = "import sys, pathlib, pipeline.service.sources as s; s.write_digits(pathlib.Path(sys.argv[1], 's'))"
    writers = [subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=REPOSITORY) for _ in range(2)]

    assert [writer.wait() for writer in writers] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert sum(1 for _ in files(tmp_path / "s")) == 1797


def test_importing_sources_loads_nothing_heavy() -> None:
    code = "import sys, pipeline.service.sources; print({'sklearn', 'numpy', 'PIL', 'torch'} & set(sys.modules))"

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)

    assert result.stdout == "set()\n"
