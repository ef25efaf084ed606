"""prepare.py as a job runs it: what it writes, what it says, and what it refuses."""

import hashlib
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from classifier.data import sample_files
from classifier.data.images import Preprocess, decode, normalise, shrink, to_pixels
from classifier.data.prepared_images import PreparedImages
from classifier.model.backbone import load_backbone
from tests.steps.prepare_job import BACKBONE, CLASSES, Prepare, Result, arguments, run_job, write_classes

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
    (data / "README.md").write_text("about")
    options = {"max-unreadable-fraction": 0.1}
    process = run_job(arguments(data, root / "output", weights_dir, options), root / "message")
    return Result(data, root / "output", process.returncode, process.stdout, process.stderr)


def test_the_job_says_what_it_found_and_made(messy: Result) -> None:
    assert (messy.returncode, messy.stderr) == (0, "")
    counts = Counter(entry["split"] for entry in messy.listed)
    lines = messy.stdout.splitlines()
    assert lines[0] == "found 74 images in 3 classes"
    assert lines[1] == "skipped README.md: not in a class folder"
    assert "left out: 3 skipped files, 1 exact duplicates, 1 images with conflicting labels" in lines
    assert (
        f"embedding with {messy.manifest['backbone']['name']} at {messy.manifest['preprocess']['image_size']} px"
        in lines
    )
    assert (
        lines[-1]
        == f"prepared {counts['train']} train, {counts['validation']} validation, {counts['test']} test images"
    )


def test_the_manifest_lists_every_image_once(messy: Result) -> None:
    manifest = messy.manifest
    assert manifest["schema_version"] == 2
    assert manifest["classes"] == CLASSES
    assert len(messy.listed) == 3 * 24 - 1
    assert len({entry["sha256"] for entry in messy.listed}) == len(messy.listed)
    for entry in messy.listed:
        original = (messy.data / entry["source"]).read_bytes()
        assert hashlib.sha256(original).hexdigest() == entry["sha256"]
        assert entry["name"].split(".")[0] == entry["sha256"][:16]
        assert entry["source"].startswith(CLASSES[entry["label"]])


def test_the_manifest_tells_what_was_left_out_and_why(messy: Result) -> None:
    manifest = messy.manifest
    [cut, notes] = [file for file in manifest["skipped"] if file["path"] != "README.md"]
    assert cut["path"] == "003.rust & co/cut.jpg"
    assert cut["reason"].startswith("The image is damaged: image file is truncated")
    assert notes == {
        "path": "003.rust & co/notes.txt",
        "reason": "The file is not a JPEG, PNG, WebP, BMP, TIFF or GIF image.",
    }
    assert manifest["duplicates"] == [{"kept": "001.sky/1.png", "dropped": "001.sky/copy.png"}]
    [conflict] = manifest["conflicting_labels"]
    assert conflict["paths"] == ["001.sky/7.png", "002.grass/sky.png"]


def test_counts_and_class_weights_belong_to_the_listed_images(messy: Result) -> None:
    manifest = messy.manifest
    for split in SPLITS:
        found = Counter(CLASSES[entry["label"]] for entry in messy.entries(split))
        assert manifest["counts"][split] == {name: found[name] for name in CLASSES}
        assert min(found.values()) > 0
    train = manifest["counts"]["train"]
    for name in CLASSES:
        assert manifest["class_weights"][name] == pytest.approx(sum(train.values()) / (3 * train[name]))


def test_the_manifest_describes_how_images_were_prepared(messy: Result, weights_dir: Path) -> None:
    manifest = messy.manifest
    assert manifest["preprocess"] == {
        "image_size": 32,
        "resize_to": 32,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
    }
    assert manifest["backbone"] == {
        "name": BACKBONE,
        "feature_dim": FEATURES,
        "weights_sha256": hashlib.sha256((weights_dir / "weights.pth").read_bytes()).hexdigest(),
    }
    assert manifest["augmented_views"] == 2
    assert manifest["split"] == {
        "seed": 0,
        "fractions": {"train": 0.6, "validation": 0.2, "test": 0.2},
        "given": False,
    }


def test_embeddings_and_labels_follow_the_manifest(messy: Result, weights_dir: Path) -> None:
    preprocess = Preprocess.from_dict(messy.manifest["preprocess"])
    backbone = load_backbone(BACKBONE, weights_dir)
    for split in SPLITS:
        entries, embeddings = messy.entries(split), messy.embeddings(split)
        assert (embeddings.shape, embeddings.dtype) == (
            (len(entries), 3 if split == "train" else 1, FEATURES),
            np.float16,
        )
        assert messy.labels(split) == [entry["label"] for entry in entries]
        for entry, row in zip(entries, embeddings, strict=True):
            image = decode((messy.data / entry["source"]).read_bytes(), max_pixels=10**6)
            pixels = to_pixels(image, preprocess)[None]
            plain = backbone(torch.from_numpy(normalise(pixels, preprocess).copy())).numpy()
            np.testing.assert_allclose(row[0].astype(np.float32), plain[0], rtol=2e-3, atol=2e-3)


def test_a_few_validation_images_travel_with_the_manifest(messy: Result) -> None:
    validation = PreparedImages(messy.output / "validation", "validation")
    files = {validation.read(row): int(label) for row, label in enumerate(validation.labels)}
    samples = sample_files.paths(messy.output / "manifest")
    assert len(samples) == 8
    labels = [files[path.read_bytes()] for path in samples]
    assert labels[:6] == [0, 1, 2, 0, 1, 2] and set(labels[6:]) <= {0, 1, 2}


def test_input_means_are_what_the_network_sees_on_average(messy: Result) -> None:
    preprocess = Preprocess.from_dict(messy.manifest["preprocess"])
    for split in SPLITS:
        entries, means = messy.entries(split), messy.input_means(split)
        assert (means.shape, means.dtype) == ((len(entries), 3), np.float32)
        for entry, mean in zip(entries, means, strict=True):
            image = decode((messy.data / entry["source"]).read_bytes(), max_pixels=10**6)
            seen = normalise(to_pixels(image, preprocess), preprocess)
            np.testing.assert_allclose(mean, seen.mean(axis=(1, 2)), atol=1e-5)


def test_test_images_give_exactly_the_pixels_of_the_originals(messy: Result) -> None:
    preprocess = Preprocess.from_dict(messy.manifest["preprocess"])
    entries, images = messy.entries("test"), messy.images("test")
    assert len({Path(entry["source"]).suffix for entry in entries}) > 2
    for row, entry in enumerate(entries):
        assert entry["name"].endswith(".png")
        original, stored = (
            decode(file, max_pixels=10**6) for file in ((messy.data / entry["source"]).read_bytes(), images.read(row))
        )
        assert min(stored.size) == preprocess.resize_to
        np.testing.assert_array_equal(to_pixels(stored, preprocess), to_pixels(original, preprocess))


def test_other_images_are_stored_without_loss_when_they_came_so(messy: Result) -> None:
    preprocess = Preprocess.from_dict(messy.manifest["preprocess"])
    for split in ("train", "validation"):
        images = messy.images(split)
        for row, entry in enumerate(messy.entries(split)):
            lossy = Path(entry["source"]).suffix in (".jpg", ".webp")
            assert entry["name"].endswith(".jpg" if lossy else ".png")
            original = shrink(decode((messy.data / entry["source"]).read_bytes(), max_pixels=10**6), preprocess)
            stored = decode(images.read(row), max_pixels=10**6)
            difference = np.abs(np.asarray(stored, np.int16) - np.asarray(original, np.int16))
            assert difference.max() <= (24 if lossy else 0)


def test_prepared_images_follow_the_manifest(messy: Result) -> None:
    for split in SPLITS:
        entries, images = messy.entries(split), messy.images(split)
        assert len(images) == len(entries)
        assert [images.name(row) for row in range(len(images))] == [entry["name"] for entry in entries]
        assert images.labels.tolist() == [entry["label"] for entry in entries]


def test_nothing_else_is_written(messy: Result) -> None:
    listed = {f"{split}/{split}-000000.{ending}" for split in SPLITS for ending in ("tar", "index")}
    listed |= {"manifest/manifest.json", "manifest/images.jsonl"}
    listed |= {path.relative_to(messy.output).as_posix() for path in sample_files.paths(messy.output / "manifest")}
    listed |= {
        f"embeddings/{split}{kind}.npy" for split in SPLITS for kind in ("-00000", "-00000_input_means", "_labels")
    }
    written = {path.relative_to(messy.output).as_posix() for path in messy.output.rglob("*") if path.is_file()}
    cached = {path for path in written if path.startswith("embedding_cache/")}
    assert len(cached) == 2  # of training images and of others, which have fewer views
    assert written - cached == listed


def test_the_same_data_gives_the_same_bytes_whatever_lies_where(
    tmp_path: Path, messy: Result, prepare_data: Prepare
) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for path in messy.data.rglob("*"):
            if path.is_file():
                archive.write(path, Path("enclosing") / path.relative_to(messy.data))
    (tmp_path / "data").mkdir()
    (tmp_path / "data.zip").rename(tmp_path / "data" / "data.zip")
    again = prepare_data(tmp_path / "data", max_unreadable_fraction=0.1)
    assert (again.returncode, again.stderr) == (0, "")
    for split in SPLITS:
        assert [e["name"] for e in again.entries(split)] == [e["name"] for e in messy.entries(split)]
        np.testing.assert_array_equal(again.embeddings(split), messy.embeddings(split))
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
    assert {entry["source"].split("/")[0] for split in ("train", "test") for entry in result.entries(split)} == {
        "train"
    }
    assert len(result.entries("train")) + len(result.entries("test")) == 60
    assert result.manifest["split"]["given"] is True
    assert result.manifest["duplicates"] == [
        {"kept": "valid/001.sky/102.jpg", "dropped": "train/001.sky/twin.png"},
    ]


def test_tiny_images_are_seen_smaller_and_not_mirrored(tmp_path: Path, prepare_data: Prepare) -> None:
    data = write_classes(tmp_path / "data", 6, size=(20, 14))
    result = prepare_data(data, image_size="auto", augmented_views=8)
    assert result.returncode == 0, result.stderr
    preprocess = result.manifest["preprocess"]
    assert (preprocess["image_size"], preprocess["resize_to"]) == (128, 128)
    assert result.manifest["tiny_images"] is True
    unmirrored = prepare_data(data, output="other", image_size=128, augmented_views=8, horizontal_flip="false")
    mirrored = prepare_data(data, output="mirrored", image_size=128, augmented_views=8, horizontal_flip="true")
    np.testing.assert_array_equal(result.embeddings("train"), unmirrored.embeddings("train"))
    assert (result.embeddings("train") != mirrored.embeddings("train")).any()


def test_other_images_are_seen_at_256_px_and_mirrored(tmp_path: Path, prepare_data: Prepare) -> None:
    data = write_classes(tmp_path / "data", 5)
    result = prepare_data(data, image_size="auto")
    assert result.returncode == 0, result.stderr
    preprocess = result.manifest["preprocess"]
    assert (preprocess["image_size"], preprocess["resize_to"]) == (256, 256)
    assert result.manifest["tiny_images"] is False
    mirrored = prepare_data(data, output="mirrored", image_size=256, horizontal_flip="true")
    np.testing.assert_array_equal(result.embeddings("train"), mirrored.embeddings("train"))


@pytest.mark.parametrize(("shape", "expected"), [((64, 64), 224), ((20, 14), 128)])
def test_photos_are_seen_smaller_where_the_backbone_learns(
    tmp_path: Path, prepare_data: Prepare, shape: tuple[int, int], expected: int
) -> None:
    data = write_classes(tmp_path / "data", 5, size=shape)
    result = prepare_data(data, image_size="auto", finetune="last_block", augmented_views=0)
    assert result.returncode == 0, result.stderr
    assert result.manifest["preprocess"]["image_size"] == expected


def test_no_augmented_views_leave_the_plain_one(tmp_path: Path, prepare_data: Prepare) -> None:
    result = prepare_data(write_classes(tmp_path / "data", 5), augmented_views=0)
    assert result.embeddings("train").shape[1:] == (1, FEATURES)
