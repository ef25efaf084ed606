"""What a process and its descendants take of the machine, read from /proc (Linux)."""

import os
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """The process and all below it."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [pid, *(below for child in children for below in descendants(child))]


def processor_seconds(pid: int) -> float:
    """User and system time of all of them, and of children that they have buried."""
    ticks = 0
    for process in descendants(pid):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / TICKS_PER_SECOND


def resident_megabytes(pid: int) -> float:
    """Pages that they share count for each."""
    return sum(_kilobytes(f"/proc/{process}/status", "VmRSS:") for process in descendants(pid)) / 1024


def proportional_megabytes(pid: int) -> float:
    """Pages that they share count once, in all."""
    return sum(_kilobytes(f"/proc/{process}/smaps_rollup", "Pss:") for process in descendants(pid)) / 1024


def peak_megabytes(process: int) -> float:
    """The most that a process by itself has had resident; 0 when it has just ended."""
    return _kilobytes(f"/proc/{process}/status", "VmHWM:") / 1024


def _kilobytes(file: str, key: str) -> int:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(key)), 0)
