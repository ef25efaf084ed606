"""What glibc's allocator does with freed memory: mallopt(3), malloc_trim(3)."""

import ctypes
import sys
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # malloc.h
NEVER = 2**31 - 1  # bytes at the top of the heap that are kept


def keep_freed_memory() -> bool:
    """From now on, take large blocks from one heap for all threads, and never shrink it. False where the allocator is
    another.

    A network on a CPU asks for the same memory at its next batch. By itself glibc gives large blocks back to the
    system at once, and each batch then pays for having them mapped and zeroed anew: a third of its time, measured at
    160 px in fine-tuning and at 224 px in extraction. A thread's own heap cannot hold blocks of 64 MB and more.
    """
    mallopt = function("mallopt")
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER) and mallopt(M_ARENA_MAX, 1))


def give_back_freed_memory() -> None:
    """Return to the system what loading has left free."""
    if malloc_trim := function("malloc_trim"):
        malloc_trim(0)


def function(name: str) -> Any:
    """Of the C library; None where it has no such."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
