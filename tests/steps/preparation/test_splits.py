"""Splits over several runs of prepare.py, and near-duplicates, which no split shares out."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from tests.steps.prepare_job import CLASSES, Prepare, Result, write_classes


def splits(result: Result) -> dict[str, str]:
    assert result.returncode == 0, result.stderr
    return {entry["sha256"]: entry["split"] for entry in result.listed}


def test_what_was_used_before_keeps_its_split_and_a_run_adds_only_what_is_new(
    tmp_path: Path, prepare_data: Prepare
) -> None:
    data, history = write_classes(tmp_path / "data", 10), tmp_path / "output" / "split_history"
    before = splits(prepare_data(data))
    write_classes(data, 10, first=100)
    (history / "damaged.csv").write_bytes(b"\xff\n" + b"0" * 64 + b",test\n" + b"1" * 64 + b",tes")
    more = prepare_data(data, output="more", split_history=history, split_seed=9)
    after = splits(more)
    assert {sha256: after[sha256] for sha256 in before} == before
    assert more.manifest["counts"] == {
        s: dict.fromkeys(CLASSES, n) for s, n in zip(("train", "validation", "test"), (12, 4, 4), strict=True)
    }
    assert more.manifest["split_history"] | {"tested_though_trained_on": None} == {
        "known_images": 30, "new_images": 30, "moved_images": 0, "tested_though_trained_on": None, "damaged_lines": 2,
    }  # fmt: skip
    [added] = more.output.glob("split_history/*.csv")
    assert {line[:64] for line in added.read_text().splitlines()} == after.keys() - before.keys()
    assert "30 of 60 images keep the split that they had in earlier runs" in more.stdout
    assert "split_history: 2 lines cannot be read" in more.stdout

    # A second run adds nothing; dealt anew, images that were trained on come into the test split, which is said.
    (history / added.name).write_bytes(added.read_bytes())
    assert not list(prepare_data(data, output="third", split_history=history).output.glob("split_history/*.csv"))
    anew = prepare_data(data, output="anew", split_history=history, split_seed=9, keep_splits="false")
    seen = {s for s, split in splits(anew).items() if split == "test" and after[s] != "test"}
    assert anew.manifest["split_history"]["tested_though_trained_on"]["count"] == len(seen) > 0
    assert f"{len(seen)} images of the test split were trained or validated on by earlier versions" in anew.stdout


def test_a_folder_called_test_wins_over_the_history_and_that_is_said(tmp_path: Path, prepare_data: Prepare) -> None:
    before = splits(prepare_data(write_classes(tmp_path / "data" / "train", 10)))
    write_classes(tmp_path / "data" / "test", 4, first=6)  # the last four of each class again
    options = {"split_history": tmp_path / "output" / "split_history", "group_pattern": "(bmp)"}
    given = prepare_data(tmp_path / "data", output="given", **options)
    tested = [sha256 for sha256, split in splits(given).items() if split == "test"]
    seen = given.manifest["split_history"]["tested_though_trained_on"]
    assert (len(tested), seen["count"]) == (12, sum(before[sha256] != "test" for sha256 in tested))
    assert given.manifest["straddling_groups"] == 1 and "WARNING: 1 groups of images lie in more" in given.stdout
    assert seen["count"] > 0 and seen["paths"][0].startswith(f"test/{CLASSES[0]}/")


def test_near_duplicates_share_a_split_and_are_listed(tmp_path: Path, prepare_data: Prepare) -> None:
    data, expected = tmp_path / "data", set()
    for number in range(60):  # pictures that have nothing in common
        blocks = np.random.default_rng(number).integers(0, 256, (3, 4, 3)).astype(np.uint8)
        folder, picture = data / CLASSES[number % 3], Image.fromarray(blocks).resize((96, 72), Image.Resampling.NEAREST)
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{number}.png")
        if number < 12:
            copy = ImageEnhance.Brightness(picture).enhance(1.03).resize((80, 60), Image.Resampling.BILINEAR)
            copy.save(folder / f"copy-{number}.jpg", quality=90)
            expected.add(frozenset(f"{folder.name}/{name}" for name in (f"{number}.png", f"copy-{number}.jpg")))
    Image.open(data / CLASSES[0] / "15.png").save(data / CLASSES[1] / "swapped.jpg", quality=95)
    result = prepare_data(data, near_duplicates="true", image_size=128)
    assert result.returncode == 0, result.stderr
    pairs = {frozenset(pair["paths"]): pair["distance"] for pair in result.manifest["near_duplicates"]}
    conflict = frozenset([f"{CLASSES[0]}/15.png", f"{CLASSES[1]}/swapped.jpg"])
    assert pairs.keys() == expected | {conflict}
    assert max(pairs.values()) < result.manifest["near_duplicate_threshold"]
    assert result.manifest["near_duplicate_count"] == 26
    assert [set(pair["paths"]) for pair in result.manifest["near_duplicates_of_two_classes"]] == [conflict]
    placed = {entry["source"]: (entry["split"], entry["group"]) for entry in result.listed}
    assert all(len({placed[path] for path in pair}) == 1 for pair in pairs)
    known = {"embedding_cache": result.output / "embedding_cache"}
    again = prepare_data(data, output="again", near_duplicates="true", image_size=128, **known)
    assert again.contents == result.contents and not list((again.output / "embedding_cache").rglob("*.npy"))
