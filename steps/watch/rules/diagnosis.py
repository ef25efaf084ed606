"""What is wrong with a training, root first, from what its rules found."""

from collections.abc import Sequence
from typing import Any


def diagnose(rules: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the diagnosis of rules/status.json; empty on a healthy run."""
    return []
