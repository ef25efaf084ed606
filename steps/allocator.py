"""Keeps freed memory within the process, which fine-tuning on a CPU asks for again at its next step.

glibc gives large blocks back to the system at once, and each step then pays for having them mapped and zeroed anew: a
third of its time, measured at 160 px. The parameters are those of mallopt(3).
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER = 2**31 - 1  # bytes at the top of the heap that are kept


def keep_freed_memory() -> bool:
    """From now on, take large blocks from the heap and never shrink it. False where the allocator is another."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
