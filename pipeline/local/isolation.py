"""Gives a job a real `/opt/ml` of its own, so that a script which names that path works unchanged.

On Linux each job runs in a mount namespace in which its tree is bound to `/opt/ml`; nobody else sees that mount, and it
ends with the job. Where the kernel does not allow this (no root and no user namespaces, or another system), `/opt/ml`
in arguments and environment is rewritten to the job's directory instead: scripts that take their paths from there work.
Children also ask the kernel to be killed when their runner dies, however it dies.
"""

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
PR_SET_PDEATHSIG = 1
CONTAINER_ROOT = Path("/opt/ml")


def prepare_child(tree: Path, mount: "Mount | None", folder: str) -> Callable[[], None]:
    """What a child does between fork and exec: die with its parent, mount its tree, change to `folder`."""
    parent = os.getpid()

    def prepare() -> None:
        die_with(parent)
        if mount:
            mount.enter(tree)
        os.chdir(folder)

    return prepare


def die_with(parent: int) -> None:
    """Ask for SIGKILL when the parent ends (Linux only)."""
    if sys.platform == "linux":
        libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


@functools.cache
def libc() -> ctypes.CDLL:
    """The C library of this process."""
    return ctypes.CDLL(None, use_errno=True)


class Mount:
    """How to put a job's tree at /opt/ml; where that is missing, `stage` is mounted over /opt, with its entries."""

    def __init__(self, stage: Path) -> None:
        self.stage = stage
        self.neighbours: list[Path] = []
        if not CONTAINER_ROOT.is_dir():
            self.neighbours = sorted(CONTAINER_ROOT.parent.iterdir())
            (stage / CONTAINER_ROOT.name).mkdir(parents=True, exist_ok=True)
            for entry in self.neighbours:
                make_mount_point(entry, stage / entry.name)

    def enter(self, tree: Path) -> None:
        """In a child: a new mount namespace with the tree at /opt/ml.

        Raises:
            OSError: the kernel refuses.
        """
        enter_namespace()
        call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
        if CONTAINER_ROOT.is_dir():
            bind(tree, CONTAINER_ROOT)
            return
        for entry in self.neighbours:
            bind(entry, self.stage / entry.name)
        bind(tree, self.stage / CONTAINER_ROOT.name)
        bind(self.stage, CONTAINER_ROOT.parent)


def find_mount(home: Path) -> Mount | None:
    """A way to mount that works here, tried out in a child process; None where there is none."""
    if sys.platform != "linux" or not CONTAINER_ROOT.parent.is_dir():
        return None
    libc()
    trial = home / "mounts" / "trial"
    trial.mkdir(parents=True, exist_ok=True)
    mount = Mount(home / "mounts" / "opt")
    child = os.fork()
    if child == 0:
        try:
            mount.enter(trial)
        except OSError:
            os._exit(1)
        os._exit(0)
    return mount if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 else None


def enter_namespace() -> None:
    """A mount namespace; without root, inside a user namespace that maps the user to itself."""
    if os.geteuid() == 0:
        call("unshare", CLONE_NEWNS)
        return
    user, group = os.geteuid(), os.getegid()
    call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def make_mount_point(entry: Path, target: Path) -> None:
    """An empty file or directory to bind `entry` over; a link is made again."""
    if target.is_symlink() or target.exists():
        return
    if entry.is_symlink():
        target.symlink_to(entry.readlink())
    elif entry.is_dir():
        target.mkdir(parents=True)
    else:
        target.touch()


def bind(source: Path, target: Path) -> None:
    """mount --rbind; a symbolic link needs none."""
    if not source.is_symlink():
        call("mount", os.fsencode(source), os.fsencode(target), None, MS_BIND | MS_REC, None)


def call(name: str, *arguments: bytes | int | None) -> None:
    """A function of the C library that returns 0.

    Raises:
        OSError: it returned something else.
    """
    if getattr(libc(), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
