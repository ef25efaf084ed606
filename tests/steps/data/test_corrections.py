"""`data.corrections`: what prepare.py makes of the rows that the user has edited."""

from pathlib import Path

import pytest

from tests.steps.prepare_job import CLASSES, Prepare, write_classes

SKY, GRASS, RUST = CLASSES


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images a class; one of the first class has two copies, and one is in two classes."""
    root = write_classes(tmp_path_factory.mktemp("corrected") / "data", 8)
    (root / SKY / "copy.png").write_bytes((root / SKY / "1.png").read_bytes())
    (root / GRASS / "both.png").write_bytes((root / SKY / "7.png").read_bytes())
    return root


def test_labels_are_replaced_images_left_out_and_untouched_rows_do_nothing(
    tmp_path: Path, data: Path, prepare_data: Prepare
) -> None:
    before = prepare_data(data, output="before")
    rows = [f"{SKY}/0.jpg,{GRASS},x", f"{RUST}/3.bmp,-,", f'"{RUST}/4.tif","",', f"{GRASS}/5.gif,{GRASS},{SKY}"]
    rows += [f"{SKY}/1.png,{RUST},", f"{GRASS}/both.png,{SKY},", ""]
    text = "\r\n".join(["path,label,suggested", *rows])
    (tmp_path / "corrections.csv").write_text(text, encoding="utf-8-sig", newline="")
    result = prepare_data(data, annotations=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "corrections: 4 labels, 2 images left out" in result.stdout
    labels = {entry["source"]: CLASSES[entry["label"]] for entry in result.listed}
    assert (labels[f"{SKY}/0.jpg"], labels[f"{GRASS}/5.gif"]) == (GRASS, GRASS)
    assert {path for path in labels if labels[path] == RUST and not path.startswith(RUST)} == {f"{SKY}/1.png"}
    assert labels[f"{SKY}/7.png"] == SKY  # no longer in two classes
    assert not {f"{RUST}/3.bmp", f"{RUST}/4.tif"} & labels.keys()
    assert [entry["path"] for entry in result.manifest["corrections"]["left_out"]] == [f"{RUST}/3.bmp", f"{RUST}/4.tif"]
    assert {"path": f"{SKY}/0.jpg", "from": SKY, "to": GRASS} in result.manifest["corrections"]["applied"]
    assert "corrections" not in before.manifest
    assert before.manifest["dataset_sha256"] != result.manifest["dataset_sha256"]
    assert len(result.listed) == len(before.listed) - 2 + 1


def test_a_row_may_name_the_content(tmp_path: Path, data: Path, prepare_data: Prepare) -> None:
    sha256 = next(
        entry["sha256"] for entry in prepare_data(data, output="before").listed if entry["source"] == f"{SKY}/0.jpg"
    )
    (tmp_path / "corrections.csv").write_text(f"sha256,label\n{sha256},{RUST}\n")
    result = prepare_data(data, annotations=tmp_path)
    assert result.manifest["corrections"]["applied"] == [{"path": f"{SKY}/0.jpg", "from": SKY, "to": RUST}]


REFUSED = {
    f"path,label\n{SKY}/0.jpg,snow\n": "data.corrections, line 2: the label must be a class of the data set (001.sky, ",
    "path,labels\n": "data.corrections, line 1: the columns must be path or sha256, then label, but label is missing.",
    f"path,label\n{SKY}/1.png,-\n{SKY}/copy.png,{RUST}\n": (
        "data.corrections, line 3: '001.sky/copy.png' is a copy of the image in line 2 and must have the same label, "
    ),
    f"path,label\n{SKY}/1.png,-\n{SKY}/1.png,{RUST}\n": "data.corrections, line 3: '001.sky/1.png' must have one row, ",
    f"path,label\n{SKY}/none.png,-\n": "data.corrections, line 2: no image of the data set has the path ",
    "path,label\n"
    + "".join(f"{RUST}/{number}.{end},-\n" for number, end in enumerate(("jpg", "png", "webp", "bmp"))): (
        "Each class needs at least 5 different readable images, but '003.rust & co' has 4"
    ),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_applied_is_named_with_its_line(
    tmp_path: Path, data: Path, prepare_data: Prepare, text: str
) -> None:
    (tmp_path / "corrections.csv").write_text(text)
    result = prepare_data(data, annotations=tmp_path)
    assert (result.returncode, result.stderr.startswith(REFUSED[text])) == (1, True), result.stderr
