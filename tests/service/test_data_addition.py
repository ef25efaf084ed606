"""--add: the earlier data set stays, and the new one holds its files and those of the folder."""

from pathlib import Path

import pytest

from pipeline.config.config import Config
from pipeline.errors import UsageError
from pipeline.service import data_addition
from pipeline.service.local_target import LocalTarget
from pipeline.service.sources import resolve
from pipeline.service.staging import Project, remember
from pipeline.service.targets import objects
from pipeline.service.weights import ResolvedWeights

EARLIER = "s3://local/image-classification/data/photos"


@pytest.fixture
def target(tmp_path: Path) -> LocalTarget:
    found = LocalTarget(Config(), tmp_path / "home")
    remember(found, project(EARLIER))
    return found


def project(source: str) -> Project:
    return Project(Config(), resolve(source), ResolvedWeights(""), {}, "sample")


def folder(root: Path, *names: str, content: str = "") -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content or name)
    return root


def extended(target: LocalTarget, added: Path) -> tuple[str | None, dict[str, int]]:
    source, _ = data_addition.extended(target, project("sample"), resolve(str(added)))
    return source.uri, objects(target, source.uri or "")


def test_names_that_are_taken_new_classes_and_what_is_there_already(tmp_path: Path, target: LocalTarget) -> None:
    target.put_tree(EARLIER, folder(tmp_path / "old", "all/hat/1.jpg", "all/hat/2.jpg", "all/shoe/1.jpg"))
    new = folder(tmp_path / "new", "cap/1.jpg", "hat/.hidden", "hat/3 \u00e9.jpg")
    folder(new, "hat/1.jpg", content="another")
    folder(new, "shoe/1.jpg", content="all/shoe/1.jpg")
    uri, found = extended(target, new)
    assert sorted(found) == ["all/cap/1.jpg", "all/hat/1-ae448ac8.jpg", "all/hat/1.jpg", "all/hat/2.jpg",
                             "all/hat/3 \u00e9.jpg", "all/shoe/1.jpg"]  # fmt: skip
    assert target.read(f"{uri}/all/hat/1.jpg") == b"all/hat/1.jpg"
    assert target.read(f"{uri}/all/hat/1-ae448ac8.jpg") == b"another"
    assert len(objects(target, EARLIER)) == 3

    # What an interrupted addition left is completed; the same folder again brings nothing.
    target.storage.path(f"{uri}/all/hat/2.jpg").unlink()
    assert extended(target, new) == (uri, found)
    remember(target, project(str(uri)))
    assert extended(target, new) == (uri, found)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (("train/a/1.jpg", "test/a/1.jpg"), ("a/2.jpg",), "has train, validation and test folders, but"),
        (("a/1.jpg", "b/1.jpg"), ("train/a/2.jpg",), "has class folders, but"),
        (("photos.zip",), ("a/2.jpg",), "which holds no folders of images"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, target: LocalTarget, old: tuple[str, ...], new: tuple[str, ...], sentence: str
) -> None:
    target.put_tree(EARLIER, folder(tmp_path / "old", *old))
    with pytest.raises(UsageError, match=sentence):
        extended(target, folder(tmp_path / "new", *new))
