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
from pipeline.service.sources import Source, files, resolve, write_digits

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of one file each, and a hidden file; its parent is the working directory, and the home."""
    folder = tmp_path / "photos"
    for name in ("cat/b.jpg", "dog/a.jpg", "dog/.DS_Store"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


def names(folder: Path) -> list[str]:
    return [file.relative for file in files(folder)]


@pytest.mark.parametrize("text", ["photos", "./photos", "photos/cat/..", "~/photos", "{folder}"])
def test_a_folder_is_named_absolutely_or_from_the_working_directory(photos: Path, text: str) -> None:
    found = resolve(text.format(folder=photos))
    assert (found.name, found.path) == (str(photos), photos)
    assert resolve("cat", relative_to=photos).path == photos / "cat"


def test_what_ships_with_the_project_goes_before_folders_of_that_name(photos: Path) -> None:
    photos.rename("sample")
    assert resolve("digits") == Source("digits")
    assert len({photo.relative.partition("/")[0] for photo in resolve("sample").files}) == 8
    assert sum(photo.size for photo in resolve("sample").files) < 2_000_000
    assert resolve("./sample").path == photos.with_name("sample")


@pytest.mark.parametrize("name", ["photos.tar", "photos.tar.gz", "photos.tgz", "PHOTOS.TAR.GZ", "photos.zip"])
def test_an_archive_is_recognised(photos: Path, name: str) -> None:
    if name.endswith(".zip"):
        with zipfile.ZipFile(name, "w") as zipped:
            zipped.write(photos / "cat/b.jpg", "cat/b.jpg")
    else:
        with tarfile.open(name, "w" if name.endswith(".tar") else "w:gz") as tar:
            tar.add(photos, "photos")
    found = resolve(name)
    assert [file.relative for file in found.files] == [name]
    with Path(name).open("ab") as file:
        file.write(b"more")
    assert resolve(name).fingerprint != found.fingerprint


@pytest.mark.parametrize("uri", ["s3://my-bucket/photos/", "s3://my.bucket", "s3://b-1/a b/ü.zip"])
def test_an_s3_address_is_kept_as_it_is(uri: str) -> None:
    assert resolve(uri) == Source(uri, uri=uri)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *((uri, "is not an S3 address") for uri in ("s3://", "s3://Bucket/x", "s3:/bucket/x", "s3://b/x", "s3:///x")),
        ("https://example.org/photos.zip", "download it and give sample, digits, a folder"),
        ("fotos", "does not exist. Did you mean 'photos'?"),
        ("photo/cat", "does not exist. Did you mean 'photos'?"),
        ("smaple", "does not exist. Did you mean 'sample'?"),
        ("zzz", "does not exist. Give sample, digits, a folder"),
        ("x" * 300, "cannot be read: File name too long."),
        ("~nobody-at-all/x", "cannot be read: "),
        ("photos/cat/b.jpg", "is a file but not a known archive"),
        *(
            (f"bad{suffix}", f"not the {suffix} archive its name says")
            for suffix in (".zip", ".tar", ".tar.gz", ".tgz")
        ),
        ("hollow", "is an empty folder"),
    ],
)
def test_what_is_refused_is_one_sentence(photos: Path, text: str, words: str) -> None:
    for name in ("bad.zip", "bad.tar", "bad.tar.gz", "bad.tgz"):
        Path(name).write_bytes(b"not an archive")
    (photos.parent / "hollow/.git").mkdir(parents=True)
    Path("hollow/.git/HEAD").touch()
    Path("hollow/link.jpg").symlink_to("nowhere")
    with pytest.raises(DataSourceError) as error:
        resolve(text)
    assert str(error.value).startswith(f"Data source '{text}' ") and words in str(error.value)


def test_files_are_listed_in_order_without_hidden_ones_and_links_are_followed_once(photos: Path) -> None:
    (photos / "cat" / "a.jpg").write_bytes(b"longer image")
    assert [(file.relative, file.size) for file in files(photos)] == [
        ("cat/a.jpg", 12), ("cat/b.jpg", 5), ("dog/a.jpg", 5),
    ]  # fmt: skip
    assert all(Path(file.path).stat().st_mtime_ns == file.mtime_ns for file in files(photos))
    elsewhere = photos.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "c.jpg").touch()
    (photos / "bird").symlink_to(elsewhere)
    (photos / "cat" / "all").symlink_to(photos)
    assert names(photos) == ["bird/c.jpg", "cat/a.jpg", "cat/b.jpg", "dog/a.jpg"]


def test_files_that_cannot_be_read_are_named_with_the_reason(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "cat" / "dangling.jpg").symlink_to("nowhere.jpg")
    (photos / "cat" / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(photos / "cat" / "pipe.jpg")
    (photos / "dog" / "secret.jpg").touch(0)
    access = os.access  # which lets root read everything
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and "secret" not in str(path))
    found = resolve("photos")
    assert found.unreadable == {
        "cat/dangling.jpg": "is a link that leads nowhere: No such file or directory",
        "cat/loop.jpg": "is a link that leads nowhere: Too many levels of symbolic links",
        "cat/pipe.jpg": "is not a regular file",
        "dog/secret.jpg": "cannot be read: Permission denied",
    }
    (photos / "cat" / "dangling.jpg").unlink()
    assert resolve("photos").fingerprint != found.fingerprint


def test_a_fingerprint_depends_on_names_sizes_and_times_alone(photos: Path) -> None:
    subprocess.run(["cp", "-a", photos, "copy"], check=True)
    file = photos / "cat" / "b.jpg"
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    seen = [resolve("photos").fingerprint]
    assert resolve("copy").fingerprint == seen[0]
    (photos / ".cache").touch()
    assert resolve("photos").fingerprint == seen[0]
    file.write_bytes(b"image!")
    os.utime(file, ns=times)
    seen.append(resolve("photos").fingerprint)
    os.utime(file, ns=(times[0], times[1] + 1))
    seen.append(resolve("photos").fingerprint)
    file.rename(photos / "cat" / "c.jpg")
    seen.append(resolve("photos").fingerprint)
    Path(os.fsdecode(os.fsencode(photos / "cat") + b"/\xff.jpg")).touch()
    seen.append(resolve("photos").fingerprint)
    assert len(set(seen)) == 5


def test_the_digits_are_those_of_scikit_learn_and_the_same_each_time(tmp_path: Path) -> None:
    write_digits(tmp_path / "one")
    write_digits(tmp_path / "two")
    digits, written = load_digits(), list(files(tmp_path / "one"))
    assert resolve(str(tmp_path / "one")).fingerprint == resolve(str(tmp_path / "two")).fingerprint
    assert Counter(file.relative.partition("/")[0] for file in written) == Counter(map(str, digits.target))
    assert (len(written), written[0].relative) == (1797, "0/digit-0001.png")
    with Image.open(tmp_path / "one" / str(digits.target[1796]) / "digit-1797.png") as image:
        assert (image.mode, image.size) == ("L", (8, 8))
        assert np.array_equal(np.asarray(image), np.round(digits.images[1796] * 255 / 16))


def test_importing_sources_loads_nothing_heavy() -> None:
    code = "import sys, pipeline.service.sources; print({'sklearn', 'numpy', 'PIL', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert result.stdout == "set()\n"
