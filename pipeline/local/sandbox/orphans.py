"""Ends what a job has left running, also what has left its process group: a container leaves nothing behind either.

The runner is the reaper of its jobs' descendants (`isolation.adopt_orphans`): a process whose parent has ended becomes
the runner's own child, and is told from other children by the job's name in its environment, or by the job's mount
namespace where it has one.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

ROUNDS = 100  # each ends one generation: the children of a process become ours when it has ended


def end_orphans(group: int, variable: str, namespace: int | None) -> None:
    """SIGKILL for the children of this process that belong to a job, and for theirs; the job itself has ended.

    Args:
        group: the job's process group, which has been sent SIGKILL.
        variable: NAME=VALUE that is in the job's environment alone.
        namespace: from `open_namespace`; None where the job has none of its own.
    """
    wanted = None if namespace is None else os.fstat(namespace).st_ino
    for _ in range(ROUNDS):
        reap(group)
        orphans = [pid for pid in children() if has(pid, variable) or (wanted and namespace_of(pid) == wanted)]
        if not orphans:
            return
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in orphans:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def reap(group: int) -> None:
    """Wait for the children of this process in a killed process group; a zombie tells no longer whose it was."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-group, 0)


def children() -> Iterator[int]:
    """The processes whose parent this process is; none where the kernel does not tell."""
    for file in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, file.read_text().split())


def open_namespace(pid: int) -> int | None:
    """A file descriptor of a process's mount namespace, which keeps its number from being given to another.

    None when the process is gone.
    """
    try:
        return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    except OSError:
        return None


def namespace_of(pid: int) -> int | None:
    """The number of a process's mount namespace; None when the process is gone."""
    try:
        return Path(f"/proc/{pid}/ns/mnt").stat().st_ino
    except OSError:
        return None


def has(pid: int, variable: str) -> bool:
    """Whether a process was started with a variable of that value; a zombie has none."""
    try:
        return variable.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
