"""CSV files about images: checked as far as they can be before a job knows the images, and stored by content."""

from pathlib import Path

import pytest

from pipeline.compile.compiler import Compiled
from pipeline.config.config import load
from pipeline.errors import ConfigError
from pipeline.service.local_target import LocalTarget
from pipeline.service.staging import Project, open_project, upload


def project(folder: Path, text: str) -> Project:
    path = folder / "pipeline.yaml"
    path.write_text(text)
    return open_project(path)


def test_the_files_that_are_named_are_stored_under_a_name_made_of_their_content(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text("path,group\na/1.jpg,1\n")
    (tmp_path / "a.csv").write_text("\ufeffsha256,camera\r\n", newline="")
    text = "data: {group: {file: g.csv}, attributes: a.csv}"
    opened, target = project(tmp_path, text), LocalTarget(load(tmp_path / "pipeline.yaml"), tmp_path / "home")
    uri = opened.annotations_uri(target.placement)
    upload(opened, target, Compiled("{}", (), {}))
    assert target.read(f"{uri}/groups.csv") == b"path,group\na/1.jpg,1\n"
    assert target.holds(f"{uri}/attributes.csv") and target.holds(f"{uri}/README")
    assert not target.holds(f"{uri}/corrections.csv")
    (tmp_path / "g.csv").write_text("path,group\na/1.jpg,2\n")
    assert project(tmp_path, text).annotations_uri(target.placement) != uri


@pytest.mark.parametrize(
    ("named", "content", "sentence"),
    [
        ("group: {file: no.csv}", None, "data.group.file: 'no.csv' cannot be read: No such file or directory."),
        ("attributes: x.csv", "path;camera", "data.attributes: 'x.csv' must have path or sha256 as its first column"),
        ("attributes: x.csv", "path,sha256", "data.attributes: 'x.csv' must have a column for each attribute"),
        ("corrections: x.csv", "path,labl", "must have a column label, but has labl after path. Did you mean 'labl'?"),
        ("attributes: x.csv", "path,a,a", "data.attributes: 'x.csv' must have columns of different names"),
        ("corrections: x.csv", "", "but its first line begins with nothing."),
        ("corrections: x.csv", b"path,\xe9", "data.corrections: 'x.csv' is not in UTF-8; save it as CSV in UTF-8."),
        ("group: {folder: 1, pattern: '(a)'}", "", "pipeline.yaml:1: data.group must be null or hold one of"),
        ("group: {folder: 0}", "", "pipeline.yaml:1: data.group.folder must be null, or at least 1"),
        (
            "group: {pattern: 'a('}",
            "",
            "data.group.pattern must be a regular expression, but got 'a(': missing",
        ),
        ("group: {pattern: 'ab'}", "", "data.group.pattern must have one group in parentheses"),
        ("group: patient", "", "data.group must be a mapping of settings, but got 'patient'."),
        ("attributes: x.xlsx", "", "data.attributes must be null, or a .csv file, but got 'x.xlsx'."),
    ],
)
def test_what_can_be_known_without_the_images_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, content: str | bytes | None, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "x.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as error:
        project(tmp_path, f"data: {{{named}}}")
    assert sentence in str(error.value)
