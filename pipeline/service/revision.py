"""The commit of the project's code, for the registered version's metadata."""

import os
import subprocess
from pathlib import Path

from pipeline.paths import ROOT

ENTRY_POINT = "run_pipeline.py"
TIMEOUT_SECONDS = 10


def commit_of(folder: Path = ROOT) -> str | None:
    """The commit that a project folder has checked out, as 40 digits; `-dirty` follows if tracked files differ.

    None without git, outside a work tree, and for a copy of the project that lies in somebody else's work tree.
    """
    if git(folder, "ls-files", "--error-unmatch", ENTRY_POINT) is None:
        return None
    return git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def git(folder: Path, *words: str) -> str | None:
    """What git prints; None if it fails or is not there."""
    command = ["git", "-C", str(folder), *words]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # only looks; takes no lock from a commit under way
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None
