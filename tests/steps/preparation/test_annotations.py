"""What prepare.py makes of the user's CSV files and of groups."""

from pathlib import Path

import pytest

from tests.steps.prepare_job import CLASSES, Prepare, Result, write_classes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images a class, of which two are in a folder below, and one copy."""
    root = write_classes(tmp_path_factory.mktemp("annotated") / "data", 6)
    for name in CLASSES:
        (root / name / "p7").mkdir()
        for file in ("1.png", "2.webp"):
            (root / name / file).rename(root / name / "p7" / file)
    (root / CLASSES[0] / "copy.png").write_bytes((root / CLASSES[0] / "p7" / "1.png").read_bytes())
    return root


def groups(result: Result) -> list[set[str]]:
    """The paths of each group of several images."""
    assert result.returncode == 0, result.stderr
    found: dict[int, set[str]] = {}
    for entry in result.listed:
        found.setdefault(entry["group"], set()).add(entry["source"])
    for split in ("train", "validation", "test"):
        assert result.array(f"{split}_groups").tolist() == [entry["group"] for entry in result.entries(split)]
    return sorted((paths for paths in found.values() if len(paths) > 1), key=min)


def test_groups_and_attributes_of_csv_files_are_noted_for_each_image(
    tmp_path: Path, data: Path, prepare_data: Prepare
) -> None:
    # With a byte order mark, as Excel writes it, quotes, a row twice, and a copy that brings two groups together.
    rows = ["path,group", f'"{CLASSES[0]}/copy.png",a', f"{CLASSES[0]}/p7/1.png,b", f"{CLASSES[1]}/0.jpg,a", ""]
    rows += [f"{CLASSES[2]}/0.jpg, b ", f"{CLASSES[2]}/0.jpg,b", f"{CLASSES[2]}/3.bmp,"]
    (tmp_path / "groups.csv").write_text("\r\n".join(rows), encoding="utf-8-sig", newline="")
    (tmp_path / "attributes.csv").write_text(f'path,camera,sha256\n{CLASSES[1]}/0.jpg,"Nikon, old",x\n')
    result = prepare_data(data, annotations=tmp_path)
    [group] = groups(result)
    assert sorted(path for path in group if path[0:3] != "001") == [f"{CLASSES[1]}/0.jpg", f"{CLASSES[2]}/0.jpg"]
    assert len(group) == 3
    cameras = {entry["source"]: entry["attributes"] for entry in result.listed}
    assert cameras.pop(f"{CLASSES[1]}/0.jpg") == {"camera": "Nikon, old"}
    assert list(map(str, cameras.values())) == ["{'camera': ''}"] * 17


@pytest.mark.parametrize("rule", [{"group_folder": 1}, {"group_pattern": r"/(p\d)/"}])
def test_a_folder_or_a_pattern_names_the_groups(data: Path, prepare_data: Prepare, rule: dict[str, object]) -> None:
    [group] = groups(prepare_data(data, **rule))
    # Of the two copies the one stays that lies elsewhere.
    assert (len(group), sum("/p7/" in path for path in group)) == (6, 5)


REFUSED = {
    "path": ("attributes", "path,a\nhat.jpg,1",
             "data.attributes, line 2: no image of the data set has the path 'hat.jpg'; accepted is e.g. '001.sky/"),
    "column": ("groups", "name,a\n",
               "data.group.file, line 1: the first column must be path or sha256, but is 'name'."),
    "fields": ("attributes", "path,label\n\n001.sky/0.jpg,a,b",
               "data.attributes, line 3: the row must have 2 fields, but has 3."),
    "twice": ("groups", "path,group\n001.sky/0.jpg,1\n001.sky/0.jpg,2",
              "data.group.file, line 3: '001.sky/0.jpg' must have one row, but line 2 says otherwise of it."),
    "bytes": ("attributes", b"path,\xff\n", "data.attributes names a file that is not CSV in UTF-8: 'utf-8' codec"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, data: Path, prepare_data: Prepare, what: str) -> None:
    name, content, sentence = REFUSED[what]
    (tmp_path / f"{name}.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    result = prepare_data(data, annotations=tmp_path)
    assert (result.returncode, result.stderr.startswith(sentence)) == (1, True), result.stderr


def test_a_rule_that_finds_no_group_is_refused(data: Path, prepare_data: Prepare) -> None:
    result = prepare_data(data, group_folder=2)
    assert result.stderr.startswith("data.group: {folder: 2} finds no group in any path, of which one is '001.sky/")
