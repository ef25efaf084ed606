"""Modules that run as processes of their own: the observer, the server's workers, the report, the runtimes' trial."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the folder that holds `classifier`: of the job's code, or of the model's


def module_command(module: str) -> list[str]:
    """What runs a module such as `classifier.watch.observer`, whatever the working directory holds (-P)."""
    return [sys.executable, "-P", "-m", module]


def module_environment() -> dict[str, str]:
    """The environment in which that command finds `classifier`."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    return os.environ | {"PYTHONPATH": path}
