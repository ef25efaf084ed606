"""prepare.py as a job runs it: what it writes and says, on one instance and on several, and what it refuses."""

import hashlib
import json
import shutil
import signal
import time
import zipfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from classifier.data.dataset import UNREADABLE
from classifier.data.images import FORMATS, NEEDS_HEIF, NO_HEADER, Preprocess, decode, normalise, shrink, to_pixels
from classifier.data.prepared_images import PreparedImages, sample_files
from classifier.data.training_data import load
from classifier.model.backbone import load_backbone
from tests.steps.prepare_job import BACKBONE, CLASSES, Prepare, Result, encoded, start, write_classes

FEATURES = 96 + 48 + 192  # the last three stages
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="session")
def messy(tmp_path_factory: pytest.TempPathFactory, weights_dir: Path) -> Result:
    """A data set with all formats, duplicates, a conflict and files that are no images; prepared by a real job."""
    root = tmp_path_factory.mktemp("messy")
    data = write_classes(root / "data", 24)
    sky, grass, rust = (data / name for name in CLASSES)
    (sky / "copy.png").write_bytes((sky / "1.png").read_bytes())
    (grass / "sky.png").write_bytes((sky / "7.png").read_bytes())
    (rust / "cut.jpg").write_bytes((rust / "0.jpg").read_bytes()[:-100])
    (rust / "notes.txt").write_text("no picture")
    (rust / ".DS_Store").write_bytes(b"junk")
    (rust / "large.png").write_bytes(encoded(Image.new("1", (11_000, 11_000))))
    (rust / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (data / UNREADABLE).write_text(json.dumps({"003.rust & co/secret.jpg": "cannot be read: Permission denied"}))
    (rust / "link.png").symlink_to(root / "nowhere.png")
    (data / "README.md").write_text("about")
    process = start(data, root / "output", weights_dir, {"max-unreadable-fraction": 0.1})
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (0, "")
    return Result(data, root / "output", 0, stdout, stderr)


def test_the_manifest_lists_every_image_once_and_what_was_left_out(messy: Result, weights_dir: Path) -> None:
    manifest, listed = messy.manifest, messy.listed
    assert len({entry["sha256"] for entry in listed}) == len(listed) == 3 * 24 - 1
    for entry in listed:
        assert hashlib.sha256((messy.data / entry["source"]).read_bytes()).hexdigest() == entry["sha256"]
        assert entry["name"].split(".")[0] == entry["sha256"][:16]
        assert entry["source"].startswith(CLASSES[entry["label"]])
    reasons = {
        "README.md": "not in a class folder",
        "003.rust & co/secret.jpg": "cannot be read: Permission denied",
        "003.rust & co/cut.jpg": "The image is damaged: image file is truncated",
        "003.rust & co/large.png": "The image has 121.0 megapixels (11000 x 11000), but at most 100 are accepted.",
        "003.rust & co/link.png": "cannot be read: No such file or directory",
        "003.rust & co/notes.txt": "The file is not a JPEG, PNG, WebP, BMP, TIFF or GIF image.",
        "003.rust & co/phone.heic": NO_HEADER if "HEIF" in FORMATS else NEEDS_HEIF,
    }
    assert [file["path"] for file in manifest["skipped"]] == list(reasons)
    assert all(file["reason"].startswith(reasons[file["path"]]) for file in manifest["skipped"])
    assert manifest["duplicates"] == [{"kept": "001.sky/1.png", "dropped": "001.sky/copy.png"}]
    assert [file["paths"] for file in manifest["conflicting_labels"]] == [["001.sky/7.png", "002.grass/sky.png"]]
    for split in SPLITS:
        found = Counter(CLASSES[entry["label"]] for entry in messy.entries(split))
        assert manifest["counts"][split] == {name: found[name] for name in CLASSES} and min(found.values()) > 0
    assert {name: manifest[name] for name in ("schema_version", "classes", "augmented_views", "split", "backbone")} == {
        "schema_version": 2,
        "classes": CLASSES,
        "augmented_views": 2,
        "split": {"seed": 0, "fractions": {"train": 0.6, "validation": 0.2, "test": 0.2}, "given": False},
        "backbone": {
            "name": BACKBONE,
            "feature_dim": FEATURES,
            "weights_sha256": hashlib.sha256((weights_dir / "weights.pth").read_bytes()).hexdigest(),
        },
    }
    lines = messy.stdout.splitlines()
    lines = [line for line in lines if "pillow-heif" not in line]
    assert lines[:2] == ["found 74 images in 3 classes", "skipped README.md: not in a class folder"]
    assert "left out: 7 skipped files, 1 exact duplicates, 1 images with conflicting labels" in lines
    assert lines[-1] == f"prepared {', '.join(f'{len(messy.entries(split))} {split}' for split in SPLITS)} images"


@pytest.mark.parametrize("split", SPLITS)
def test_embeddings_and_images_follow_the_manifest(messy: Result, weights_dir: Path, split: str) -> None:
    preprocess, backbone = Preprocess.from_dict(messy.manifest["preprocess"]), load_backbone(BACKBONE, weights_dir)
    entries, images = messy.entries(split), PreparedImages(messy.output / split, split)
    embeddings, means = messy.array(f"{split}-000000"), messy.array(f"{split}-000000_means")
    assert embeddings.shape == (len(entries), 3 if split == "train" else 1, FEATURES)
    assert (embeddings.dtype, means.dtype, means.shape) == (np.float16, np.float32, (len(entries), 3))
    assert [images.name(row) for row in range(len(images))] == [entry["name"] for entry in entries]
    labels = [entry["label"] for entry in entries]
    assert labels == images.labels.tolist() == messy.array(f"{split}_labels").tolist()
    for row, entry in enumerate(entries):
        original = decode((messy.data / entry["source"]).read_bytes(), max_pixels=10**6)
        seen = normalise(to_pixels(original, preprocess), preprocess)
        plain = backbone(torch.from_numpy(seen.copy())[None]).numpy()
        np.testing.assert_allclose(embeddings[row, 0].astype(np.float32), plain[0], rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(means[row], seen.mean(axis=(1, 2)), atol=1e-5)
        # The test split's images keep their pixels, others those of lossless formats.
        lossy = Path(entry["source"]).suffix in (".jpg", ".webp") and split != "test"
        assert entry["name"].endswith(".jpg" if lossy else ".png")
        stored = decode(images.read(row), max_pixels=10**6)
        difference = np.asarray(stored, np.int16) - np.asarray(shrink(original, preprocess), np.int16)
        assert np.abs(difference).max() <= (24 if lossy else 0)


def test_a_few_validation_images_travel_with_the_manifest_and_nothing_else_is_written(messy: Result) -> None:
    validation = PreparedImages(messy.output / "validation", "validation")
    files = {validation.read(row): int(label) for row, label in enumerate(validation.labels)}
    samples = sample_files(messy.output / "manifest")
    assert [files[path.read_bytes()] for path in samples][:6] == [0, 1, 2, 0, 1, 2] and len(samples) == 8
    expected = {f"{split}/{split}-000000.{ending}" for split in SPLITS for ending in ("tar", "npy")}
    kinds = ("-000000", "-000000_means", "_labels", "_groups")
    expected |= {f"embeddings/{split}{kind}.npy" for split in SPLITS for kind in kinds}
    expected |= {"manifest/manifest.json", "manifest/images.jsonl"}
    expected |= {path.relative_to(messy.output).as_posix() for path in messy.output.glob("split_history/*.csv")}
    assert set(messy.contents) == expected | {path.relative_to(messy.output).as_posix() for path in samples}


def test_neither_names_nor_places_of_files_matter(tmp_path: Path, messy: Result, prepare_data: Prepare) -> None:
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(tmp_path / "data" / "data.zip", "w") as archive:
        files = [path for path in messy.data.glob("*/*") if path.is_file()]
        for number, path in enumerate(sorted(files, key=lambda path: path.stat().st_size)):
            archive.write(path, f"enclosing/{path.parent.name}/{number}-{path.name}")
    again = prepare_data(tmp_path / "data", max_unreadable_fraction=0.1)
    assert (again.returncode, again.stderr) == (0, "")
    splits, expected = ({entry["sha256"]: entry["split"] for entry in result.listed} for result in (again, messy))
    assert splits == expected
    assert again.manifest["dataset_sha256"] == messy.manifest["dataset_sha256"]
    assert not list(again.output.glob(".*"))


def test_given_splits_are_kept_and_a_missing_one_is_cut_from_train(tmp_path: Path, prepare_data: Prepare) -> None:
    write_classes(tmp_path / "data" / "train", 20)
    write_classes(tmp_path / "data" / "valid", 3, first=100)
    twin = tmp_path / "data" / "train" / CLASSES[0] / "twin.png"
    twin.write_bytes((tmp_path / "data" / "valid" / CLASSES[0] / "102.jpg").read_bytes())
    result = prepare_data(tmp_path / "data")
    assert result.returncode == 0, result.stderr
    assert {entry["source"].split("/")[0] for entry in result.entries("validation")} == {"valid"}
    assert len(result.entries("validation")) == 9
    assert len(result.entries("train")) + len(result.entries("test")) == 60
    assert result.manifest["split"]["given"] is True
    assert result.manifest["duplicates"] == [{"kept": "valid/001.sky/102.jpg", "dropped": "train/001.sky/twin.png"}]


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((20, 14), {}, (128, True, False)),
        ((5, 3), {"finetune": "all"}, (128, True, False)),
        ((90, 70), {}, (256, False, True)),
        ((90, 70), {"finetune": "last_block"}, (224, False, True)),
        ((20, 14), {"horizontal_flip": "true", "image_size": 48}, (48, True, True)),
    ],
)
def test_how_images_are_seen_depends_on_their_size(
    tmp_path: Path, prepare_data: Prepare, size: tuple[int, int], options: dict[str, object], expected: tuple[Any, ...]
) -> None:
    data = write_classes(tmp_path / "data", 5, size=size)
    result = prepare_data(data, **{"image_size": "auto", "augmented_views": 0, **options})
    assert result.returncode == 0, result.stderr
    manifest = result.manifest
    assert (manifest["preprocess"]["resize_to"], manifest["tiny_images"], manifest["horizontal_flip"]) == expected
    assert manifest["preprocess"]["image_size"] == expected[0]
    assert result.array("train-000000").shape[1:] == (1, FEATURES)


@pytest.mark.parametrize("count", [2, 5])
def test_several_instances_leave_the_images_and_splits_of_one(
    tmp_path: Path, messy: Result, prepare_data: Prepare, count: int
) -> None:
    hosts, merged = [f"algo-{number + 1}" for number in range(count)], tmp_path / "merged"
    for host in hosts:
        (tmp_path / host).write_text(json.dumps({"current_host": host, "hosts": hosts}))
        options = {"resource_config": tmp_path / host, "max_unreadable_fraction": 0.1}
        result = prepare_data(messy.data, output=f"of {host}", **options)
        assert result.returncode == 0, result.stderr
        shutil.copytree(result.output, merged, dirs_exist_ok=True)  # as their uploads merge in S3
    together = Result(messy.data, merged, 0, "", "")
    assert together.manifest == messy.manifest and together.listed == messy.listed
    data, alone = (load(output / "embeddings", output / "manifest") for output in (merged, messy.output))
    for found, expected in ((data.train, alone.train), (data.validation, alone.validation)):
        np.testing.assert_array_equal(found.embeddings[:], expected.embeddings[:])
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.input_means, expected.input_means)
    for split in SPLITS:
        images, expected_images = (PreparedImages(output / split, split) for output in (merged, messy.output))
        assert [*map(images.read, range(len(images)))] == [*map(expected_images.read, range(len(expected_images)))]


def test_only_images_that_are_new_are_embedded(tmp_path: Path, messy: Result, prepare_data: Prepare) -> None:
    data = shutil.copytree(messy.data, tmp_path / "data", symlinks=True)
    write_classes(data, 2, first=100)
    options = {"max_unreadable_fraction": 0.1, "split_history": messy.output / "split_history"}
    fresh = prepare_data(data, output="fresh", **options)
    again = prepare_data(data, output="again", embedding_cache=messy.output / "embedding_cache", **options)
    assert (fresh.known, again.known) == (0, 71)
    assert again.contents == fresh.contents
    added = (np.load(file) for file in (again.output / "embedding_cache").rglob("*.npy"))
    assert sum(map(len, added)) == 6


@pytest.mark.parametrize(
    ("changed", "library"),
    [({"split_seed": 1}, ""), ({"image_size": 48}, ""), ({"horizontal_flip": "false"}, ""),
     *(({}, library) for library in ("numpy", "pillow", "timm", "torch"))],
)  # fmt: skip
def test_what_was_embedded_otherwise_is_embedded_again(
    messy: Result, prepare_data: Prepare, monkeypatch: pytest.MonkeyPatch, changed: dict[str, object], library: str
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.1" if name == library else version(name))
    given = {"embedding_cache": messy.output / "embedding_cache", "max_unreadable_fraction": 0.1, **changed}
    assert prepare_data(messy.data, **given).known == 0


def test_a_run_that_is_killed_leaves_what_it_embedded(tmp_path: Path, weights_dir: Path, prepare_data: Prepare) -> None:
    data, output = write_classes(tmp_path / "data", 200, size=(20, 14)), tmp_path / "killed"
    process = start(data, output, weights_dir, {})
    while process.poll() is None and not list(output.glob("embedding_cache/*/[0-9a-f]*.npy")):
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (output / "manifest" / "manifest.json").exists()
    file = next(output.glob("embedding_cache/*/[0-9a-f]*.npy"))
    file.with_name("half.npy").write_bytes(file.read_bytes()[:5000])
    undisturbed = prepare_data(data, output="undisturbed")
    again = prepare_data(data, output="again", embedding_cache=output / "embedding_cache")
    assert again.known % 256 == 0 < again.known < 600
    assert again.contents == undisturbed.contents


REFUSED = {
    "nothing": ({}, "{root}/data: No such file or directory."),
    "few": ({"min_images_per_class": 10},
            "Each class needs at least 10 different readable images, but '001.sky' has 6, '002.grass' has 6, "
            "'003.rust & co' has 6; add images, remove the class, or lower data.min_images_per_class."),
    "spoilt": ({}, "2 of 20 files in class folders (10.0%) cannot be used as images, but at most 5.0% is accepted "
               "(002.grass/bad.png: The file is empty., 002.grass/worse.png: The file is not a JPEG, PNG, WebP, BMP, "
               "TIFF or GIF image.); remove them or raise data.max_unreadable_fraction."),
    "blocked": ({}, "{root}/output/train: Not a directory."),
    "option": ({"split_seed": "x"},
               "prepare.py: argument --split-seed: invalid int value: 'x'. See prepare.py --help."),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_one_sentence_and_the_jobs_message(tmp_path: Path, prepare_data: Prepare, what: str) -> None:
    data, (options, sentence) = tmp_path / "data", REFUSED[what]
    if what != "nothing":
        write_classes(data, 6)
    if what == "spoilt":
        (data / CLASSES[1] / "bad.png").write_bytes(b"")
        (data / CLASSES[1] / "worse.png").write_text("text")
    elif what == "blocked":
        (tmp_path / "output").write_text("a file where the folder should be")
    result = prepare_data(data, **options)
    assert result.returncode == 1 and result.stderr == sentence.format(root=tmp_path) + "\n"
    assert result.stderr == (tmp_path / "message").read_text() + "\n"
    assert not (result.output / "manifest" / "manifest.json").exists()
