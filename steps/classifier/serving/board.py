"""A few bytes of memory that a worker shares with the server: which lent connection it is at."""

import mmap
import struct
import tempfile
from typing import BinaryIO

NUMBER = struct.Struct("<Q")
BYTES = 2 * NUMBER.size


def new_board_file() -> BinaryIO:
    """What both map; it has no name."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's
    file.truncate(BYTES)
    return file


class Board:
    """Written by the worker, read by the server once the worker has died.

    Args:
        file: A descriptor; it may be closed afterwards.
    """

    def __init__(self, file: int) -> None:
        self._memory = mmap.mmap(file, BYTES)

    def begin(self, number: int) -> None:
        """A request of connection `number` is being computed; it is still in the connection's socket."""
        NUMBER.pack_into(self._memory, 0, number)

    def answer(self, number: int) -> None:
        """It leaves the socket now, and its answer is written."""
        NUMBER.pack_into(self._memory, NUMBER.size, number)

    def end(self) -> None:
        """It is answered."""
        self._memory[:] = bytes(BYTES)

    @property
    def begun(self) -> int:
        """The connection whose request is being computed; 0 if none is."""
        return int(NUMBER.unpack_from(self._memory, 0)[0])

    @property
    def answering(self) -> int:
        """The connection that an answer is being written to; 0 if none is."""
        return int(NUMBER.unpack_from(self._memory, NUMBER.size)[0])
