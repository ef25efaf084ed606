"""The process between a runner and a job: gives the job its place, passes signals on, leaves nothing running.

It is the runner's child and the job's parent. Where jobs have process numbers of their own, a second child is the first
of them: what it dies of, the kernel lets all others die of. Elsewhere what a job leaves behind becomes this process's
child (Linux only), whatever it has done to its environment, its session and its parents.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pipeline.local.sandbox.namespaces import Mount, Place, drop_rights, libc, mount_proc

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
END_NOW = signal.SIGUSR1  # to a supervisor: SIGKILL for its job
PASSED_ON = (signal.SIGTERM, END_NOW)


def become_job(place: Place, mount: Mount | None, parent: int, tell: Callable[[int], None], keep: int = -1) -> None:
    """In a child of `parent`, which becomes the supervisor: return in the job's process, which dies with all before it.

    Args:
        place: what the job finds.
        mount: how it gets to find it; None: it works in the machine as it is.
        parent: the process whose death ends the job.
        tell: what the supervisor does at last with the job's exit code, which is negative for a signal.
        keep: a file descriptor that `tell` needs; the supervisor closes all others.

    Raises:
        OSError: the kernel refuses a part of it.
    """
    os.setsid()
    if mount:
        mount.enter(place)
    die_with(parent, END_NOW)
    if sys.platform == "linux":
        libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    first = fork_first() if mount and mount.processes else None
    supervisor = os.getpid()
    job = os.fork()
    if job:
        supervise(job, first, tell, keep)
    os.setsid()
    if first:
        mount_proc()
    os.chdir(place.folder)
    if mount:
        drop_rights()
    die_with(0 if first else supervisor, signal.SIGKILL)
    for number in PASSED_ON:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)


def die_with(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Ask for a signal when the parent ends (Linux only); one in another namespace has the number 0."""
    if sys.platform == "linux":
        libc().prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)


def fork_first() -> int:
    """The first process of its namespace, whose end is everybody's; it does nothing."""
    first = os.fork()
    if first == 0:
        os.closerange(0, os.sysconf("SC_OPEN_MAX"))
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children of the dead are not kept as zombies
        die_with(0)
        while True:
            signal.pause()
    return first


def supervise(job: int, first: int | None, tell: Callable[[int], None], keep: int) -> NoReturn:
    """Wait for the job, end what it has left, tell its exit code."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        wanted = signal.SIGKILL if number == END_NOW else number
        try:
            os.killpg(job, wanted)
        except ProcessLookupError:  # it is about to lead its group, or has ended
            with contextlib.suppress(ProcessLookupError):
                os.kill(job, wanted)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    open_max = os.sysconf("SC_OPEN_MAX")
    os.closerange(0, max(keep, 0))
    os.closerange(keep + 1, open_max)
    pid, status = os.waitpid(-1, 0)
    while pid != job:
        pid, status = os.waitpid(-1, 0)
    if first:
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
    end_children(job)
    tell(os.waitstatus_to_exitcode(status))
    os._exit(0)


def end_children(group: int) -> None:
    """SIGKILL for the job's group and for the children of this process, until there are none."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            for child in children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            os.waitpid(-1, 0)


def children() -> Iterator[int]:
    """The processes whose parent this process is; none where the kernel does not tell."""
    with contextlib.suppress(OSError):
        yield from map(int, Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())
