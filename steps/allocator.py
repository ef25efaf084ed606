"""What glibc's allocator does with freed memory: mallopt(3), malloc_trim(3)."""

import ctypes
import sys
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER = 2**31 - 1  # bytes at the top of the heap that are kept


def keep_freed_memory() -> bool:
    """From now on, take large blocks from the heap and never shrink it. False where the allocator is another.

    Fine-tuning on a CPU asks for the same memory at its next step. By itself glibc gives large blocks back to the
    system at once, and each step then pays for having them mapped and zeroed anew: a third of its time, measured at
    160 px.
    """
    mallopt = function("mallopt")
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))


def give_back_freed_memory() -> None:
    """Return to the system what loading has left free."""
    if malloc_trim := function("malloc_trim"):
        malloc_trim(0)


def function(name: str) -> Any:
    """Of the C library; None where it has no such."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
