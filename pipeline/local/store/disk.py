"""A full disk: recognised in whatever error it shows itself by, said in one sentence, survived by a reserve.

The reserve is a file of two megabytes in the home that is given up piece by piece when the disk is full, so that the
end of the steps, and why they failed, can still be recorded.
"""

import contextlib
import errno
import os
import sqlite3
from pathlib import Path

from pipeline.errors import ServiceError

RESERVE_BYTES, PIECE_BYTES = 2 << 20, 256 << 10
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_SPACE_IN_SQLITE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE)
RESERVE = "state.reserve"


class DiskFull(ServiceError):
    """There is no room left on a home's disk."""

    def __init__(self, home: Path) -> None:
        disk, free, total = disk_of(home), *room_on(home)
        super().__init__(
            f"The disk {disk}, on which {home} lies, is full ({free >> 20} of {total >> 20} MB free); make room there, "
            "then `run` or `retry` again."
        )


def is_full(problem: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that a disk is full."""
    while problem is not None:
        if isinstance(problem, DiskFull) or (isinstance(problem, OSError) and problem.errno in NO_SPACE):
            return True
        if isinstance(problem, BaseExceptionGroup) and any(map(is_full, problem.exceptions)):  # of a search's trials
            return True
        if isinstance(problem, sqlite3.Error) and getattr(problem, "sqlite_errorcode", 0) in NO_SPACE_IN_SQLITE:
            return True
        problem = problem.__cause__ or problem.__context__
    return False


def disk_of(path: Path) -> Path:
    """The mount point of the disk that a path lies on."""
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    return next(folder for folder in (existing, *existing.parents) if os.path.ismount(folder))


def room_on(path: Path) -> tuple[int, int]:
    """Free and total bytes of the disk that a path lies on."""
    found = os.statvfs(disk_of(path))
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def was_full(home: Path) -> bool:
    """Whether there is hardly any room, or was none since the reserve was last whole."""
    reserve = home / RESERVE
    return room_on(home)[0] < PIECE_BYTES or (reserve.exists() and reserve.stat().st_size < RESERVE_BYTES)


def keep_reserve(home: Path) -> None:
    """Set the reserve aside, unless it is whole or there is little room."""
    reserve = home / RESERVE
    if (reserve.exists() and reserve.stat().st_size == RESERVE_BYTES) or room_on(home)[0] < 2 * RESERVE_BYTES:
        return
    with contextlib.suppress(OSError), reserve.open("ab") as stream:
        os.posix_fallocate(stream.fileno(), 0, RESERVE_BYTES)


def give_up_reserve(home: Path) -> bool:
    """Make room for a few records; whether there was any left to give."""
    reserve = home / RESERVE
    try:
        left = reserve.stat().st_size
        os.truncate(reserve, max(0, left - PIECE_BYTES))
    except OSError:
        return False
    return left > 0
