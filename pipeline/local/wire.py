"""A response on its way to botocore."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    """Status, headers and body of an HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @classmethod
    def json(cls, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> "Reply":
        """A JSON body; times are seconds since 1970, as both JSON protocols carry them."""
        return cls(
            status, {"Content-Type": "application/x-amz-json-1.1", **(headers or {})}, json.dumps(content).encode()
        )
