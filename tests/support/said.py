"""How a command that ran in the test's own process ended."""

from collections.abc import Callable
from typing import NamedTuple


class Said(NamedTuple):
    """How a command ended and what it printed."""

    status: int
    out: str
    error: str


Cli = Callable[..., Said]
