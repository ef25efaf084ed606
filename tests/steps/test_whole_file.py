"""A file is written whole or not at all."""

from pathlib import Path

import pytest

from classifier.job.whole_file import whole_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nobody_sees_a_file_before_it_is_whole(tmp_path):
    (tmp_path / "file").write_text("old")
    with whole_file(tmp_path / "file") as file:
        file.write("new ö")
        file.flush()
        assert (tmp_path / "file").read_text() == "old"
    assert (names(tmp_path), (tmp_path / "file").read_bytes()) == (["file"], "new ö".encode())


def test_what_fails_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(ValueError, match="halfway"), whole_file(tmp_path / "file", "wb") as file:
        file.write(b"new")
        raise ValueError("halfway")
    assert (names(tmp_path), (tmp_path / "file").read_text()) == (["file"], "old")
