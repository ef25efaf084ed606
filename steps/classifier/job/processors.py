"""How many cores this process may use."""

import math
import os
from pathlib import Path

QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")  # of a container: "<microseconds> <period>" or "max <period>"


def core_count() -> int:
    """Cores that may be used at the same time: what the scheduler allows, and no more than a container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, quota(QUOTA_FILE))))


def quota(file: Path) -> float:
    """A control group's limit in cores; infinity if there is none."""
    try:
        limit, period = file.read_text().split()
        return int(limit) / int(period)
    except (OSError, ValueError):
        return math.inf
