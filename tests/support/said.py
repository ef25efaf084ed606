"""How a command that ran in the test's own process ended."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple


class Said(NamedTuple):
    """How a command ended and what it printed."""

    status: int
    out: str
    error: str

    @property
    def document(self) -> Any:
        """What a command that succeeded has printed as JSON."""
        assert self.status == 0, self.error
        return json.loads(self.out)


Cli = Callable[..., Said]
