"""The commit that a version's metadata names."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.service.staging import commit_of


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", folder, *who, *words], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def project(tmp_path) -> Path:
    """A work tree with a project in a folder of it."""
    folder = tmp_path / "repository" / "project"
    folder.mkdir(parents=True)
    (folder / "run_pipeline.py").write_text("1")
    git(folder.parent, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "One")
    return folder


def test_commit_of_a_work_tree_is_named_and_marked_once_a_tracked_file_differs(project):
    head = git(project, "rev-parse", "HEAD").strip()
    assert commit_of(project) == head
    (project / "notes.txt").write_text("untracked")
    assert commit_of(project) == head
    (project / "run_pipeline.py").write_text("2")
    assert commit_of(project) == f"{head}-dirty"


def test_a_copy_in_somebody_else_s_work_tree_has_none(project, tmp_path):
    copy = shutil.copytree(project, project.parent / "copy")
    assert commit_of(copy) is None


def test_outside_a_work_tree_and_without_git_there_is_none(project, tmp_path, monkeypatch):
    (tmp_path / "run_pipeline.py").write_text("1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_of(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(project) is None
