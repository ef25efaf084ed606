"""The messages between the server and its workers: a small JSON head and a body of bytes, each with its length."""

import struct
from collections.abc import Iterator
from typing import Any

import orjson

LENGTHS = struct.Struct("!II")  # of head and body, bytes

Head = dict[str, Any]


def packed(head: Head, body_bytes: int) -> bytes:
    """What goes before the body."""
    text = orjson.dumps(head)
    return LENGTHS.pack(len(text), body_bytes) + text


class FrameReader:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[tuple[Head, bytes]]:
        """The messages that are complete with `data`."""
        self._received += data
        while (end := self._end()) is not None:
            head_bytes = LENGTHS.unpack_from(self._received)[0]
            start = LENGTHS.size + head_bytes
            head = orjson.loads(self._received[LENGTHS.size : start])
            body = bytes(memoryview(self._received)[start:end])
            del self._received[:end]
            yield head, body

    def _end(self) -> int | None:
        if len(self._received) < LENGTHS.size:
            return None
        end = LENGTHS.size + sum(LENGTHS.unpack_from(self._received))
        return end if len(self._received) >= end else None
