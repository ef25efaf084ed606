"""What prepare.py refuses, in one sentence that is the job's message, too."""

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.steps.prepare_job import CLASSES, Prepare, Result, arguments, encoded, run_job, write_classes


def assert_refused(result: Result, tmp_path: Path, sentence: str) -> None:
    assert (result.returncode, result.stderr) == (1, sentence + "\n")
    assert (tmp_path / "message").read_text() == sentence
    assert not (result.output / "manifest" / "manifest.json").exists()


def test_a_refusal_is_one_sentence_and_the_jobs_message(tmp_path: Path, weights_dir: Path) -> None:
    command = arguments(tmp_path / "nowhere", tmp_path / "output", weights_dir, {})
    process = run_job(command, tmp_path / "message")
    result = Result(tmp_path, tmp_path / "output", process.returncode, process.stdout, process.stderr)
    assert_refused(
        result,
        tmp_path,
        f"There is no folder {tmp_path}/nowhere; a folder per class with its images, or train, validation and test "
        "folders with such folders, or one .zip or .tar(.gz) archive of either, is accepted.",
    )


def test_an_empty_folder_is_refused(tmp_path: Path, prepare_data: Prepare) -> None:
    (tmp_path / "data").mkdir()
    assert_refused(
        prepare_data(tmp_path / "data"),
        tmp_path,
        f"{tmp_path}/data holds no class folders; a folder per class with its images, or train, validation and test "
        "folders with such folders, or one .zip or .tar(.gz) archive of either, is accepted.",
    )


def test_a_small_class_is_refused(tmp_path: Path, prepare_data: Prepare) -> None:
    write_classes(tmp_path / "data", 4)
    assert_refused(
        prepare_data(tmp_path / "data", min_images_per_class=10),
        tmp_path,
        "Each class needs at least 10 different readable images, but '001.sky' has 4, '002.grass' has 4, "
        "'003.rust & co' has 4; add images, remove the class, or lower data.min_images_per_class.",
    )


def test_unreadable_files_are_refused_above_their_share(tmp_path: Path, prepare_data: Prepare) -> None:
    data = write_classes(tmp_path / "data", 6)
    (data / CLASSES[1] / "bad.png").write_bytes(b"")
    (data / CLASSES[1] / "worse.png").write_text("text")
    assert_refused(
        prepare_data(data),
        tmp_path,
        "2 of 20 files in class folders (10.0%) cannot be used as images, but at most 5.0% is accepted "
        "(002.grass/bad.png: The file is empty; 002.grass/worse.png: The file is not a JPEG, PNG, WebP, BMP, TIFF or "
        "GIF image); remove them or raise data.max_unreadable_fraction.",
    )


def test_an_image_above_the_pixel_limit_is_refused(tmp_path: Path, prepare_data: Prepare) -> None:
    data = write_classes(tmp_path / "data", 6)
    (data / CLASSES[1] / "large.png").write_bytes(encoded(Image.new("L", (3000, 1000))))
    assert_refused(
        prepare_data(data, max_image_megapixels=2),
        tmp_path,
        "002.grass/large.png: The image has 3.0 megapixels (3000 x 1000), but at most 2 are accepted; remove or resize "
        "it, or raise data.max_image_megapixels.",
    )


def test_fractions_that_do_not_sum_to_one_are_refused(tmp_path: Path, prepare_data: Prepare) -> None:
    assert_refused(
        prepare_data(write_classes(tmp_path / "data", 6), train_fraction=0.7),
        tmp_path,
        "data.split: the shares must sum to 1, but train 0.7, validation 0.2, test 0.2 sum to 1.1.",
    )


def test_changed_weights_are_refused(tmp_path: Path, prepare_data: Prepare, weights_dir: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "weights.json").write_bytes((weights_dir / "weights.json").read_bytes())
    (weights / "weights.pth").write_bytes((weights_dir / "weights.pth").read_bytes() + b"!")
    found = hashlib.sha256((weights / "weights.pth").read_bytes()).hexdigest()
    announced = json.loads((weights / "weights.json").read_text())["sha256"]
    assert_refused(
        prepare_data(write_classes(tmp_path / "data", 6), weights=weights),
        tmp_path,
        f"{weights}/weights.pth has sha256 {found}, but weights.json announces {announced}: it is damaged or was "
        "changed. Stage the weights again.",
    )


def test_an_output_folder_with_results_is_refused(tmp_path: Path, prepare_data: Prepare) -> None:
    write_classes(tmp_path / "output" / "train", 1)
    assert_refused(
        prepare_data(write_classes(tmp_path / "data", 6)),
        tmp_path,
        f"{tmp_path}/output/train is not empty; an empty or missing folder is accepted as --output-dir.",
    )


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("image_size", "16", "argument --image-size: must be auto or 32 or more, but got 16"),
        ("horizontal_flip", "perhaps", "argument --horizontal-flip: must be auto, true or false, but got perhaps"),
        ("augmented_views", "-1", "argument --augmented-views: must be 0 or more, but got -1"),
        ("split_seed", "x", "argument --split-seed: invalid int value: 'x'"),
    ],
)
def test_an_impossible_argument_is_refused(
    tmp_path: Path, prepare_data: Prepare, option: str, value: str, complaint: str
) -> None:
    result = prepare_data(tmp_path / "data", **{option: value})
    assert_refused(result, tmp_path, f"prepare.py: {complaint}. See prepare.py --help.")


def test_a_full_or_forbidden_disk_is_told_without_a_traceback(tmp_path: Path, prepare_data: Prepare) -> None:
    write_classes(tmp_path / "data", 6)
    (tmp_path / "output").write_text("a file where the folder should be")
    result = prepare_data(tmp_path / "data")
    assert (result.returncode, result.stderr) == (1, f"{tmp_path}/output/train: Not a directory.\n")
