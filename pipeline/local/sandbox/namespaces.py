"""Gives a job a real `/opt/ml` of its own, so that a script which names that path works unchanged.

On Linux each job runs in a mount namespace in which its tree is bound to `/opt/ml`; nobody else sees that mount, and it
ends with the job. Inputs that are links to S3 objects get an overlay there: what the job writes to them goes elsewhere.
Where the kernel does not allow this (no root and no user namespaces, or another system) or LOCAL_ISOLATION=off forbids
it, `/opt/ml` in arguments, environment and configuration files is rewritten to the job's directory instead: scripts
that take their paths from there work. Children also ask the kernel to be killed when their runner dies, however it
dies, and what they leave behind becomes the runner's own child, so that it can be ended with its job.
"""

import contextlib
import ctypes
import functools
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 1, 36, 37
CONTAINER_ROOT = Path("/opt/ml")
SWITCH = "LOCAL_ISOLATION"  # "off": do without mounts
NO_MOUNT, NO_OVERLAY = 1, 2  # exit codes of the trial
_MENTION = re.compile(rf"(?<![\w.-]){CONTAINER_ROOT}(?![\w.-])")


def prepare_child(
    tree: Path, mount: "Mount | None", folder: str, *, linked: Sequence[Path] = (), hosts: Path | None = None
) -> Callable[[], None]:
    """What a child does between fork and exec: die with its parent, mount its tree, change to `folder`.

    Args:
        tree: what the job sees as /opt/ml.
        mount: how it gets to see it.
        folder: the working directory, as the job sees it.
        linked: directories of the tree whose files are links to S3 objects.
        hosts: what the job sees as /etc/hosts; this machine's where it is None.
    """
    parent = os.getpid()

    def prepare() -> None:
        die_with(parent)
        if mount:
            mount.enter(tree, linked, hosts)
        os.chdir(folder)

    return prepare


def localized(text: str, tree: Path) -> str:
    """A text in which /opt/ml is the job's tree; /opt/mlflow is something else."""
    return _MENTION.sub(lambda match: str(tree), text)


def adopt_orphans() -> None:
    """From now on what this process's children leave running becomes its own child (Linux only)."""
    if sys.platform == "linux":
        libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def adopts_orphans() -> bool:
    """Whether `adopt_orphans` is in force here."""
    if sys.platform != "linux":
        return False
    found = ctypes.c_int()
    libc().prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0)
    return bool(found.value)


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
        self.overlays = False  # whether linked inputs can be protected from the job's writes
        self.neighbours: list[Path] = []
        if not CONTAINER_ROOT.is_dir():
            self.neighbours = sorted(CONTAINER_ROOT.parent.iterdir())
            (stage / CONTAINER_ROOT.name).mkdir(parents=True, exist_ok=True)
            for entry in self.neighbours:
                make_mount_point(entry, stage / entry.name)

    def enter(self, tree: Path, linked: Sequence[Path] = (), hosts: Path | None = None) -> bool:
        """In a child: a new mount namespace with the tree at /opt/ml; whether that took root's rights.

        `hosts`, if given, is bound over /etc/hosts, so that the hosts of a job find each other by name.

        Raises:
            OSError: the kernel refuses.
        """
        is_root = enter_namespace()
        call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
        for folder, (upper, work) in zip(linked, change_folders(tree, len(linked)), strict=True):
            cover(folder, upper, work, is_root=is_root)
        if hosts:
            bind(hosts, Path("/etc/hosts").resolve())
        if CONTAINER_ROOT.is_dir():
            bind(tree, CONTAINER_ROOT)
            return is_root
        for entry in self.neighbours:
            bind(entry, self.stage / entry.name)
        bind(tree, self.stage / CONTAINER_ROOT.name)
        bind(self.stage, CONTAINER_ROOT.parent)
        return is_root


def find_mount(home: Path) -> Mount | None:
    """A way to mount that works here, tried out in a child process; None where there is none."""
    if sys.platform != "linux" or not CONTAINER_ROOT.parent.is_dir() or os.environ.get(SWITCH) == "off":
        return None
    libc()
    mount = Mount(home / "mounts" / "opt")
    folder = home / "mounts" / f"trial-{os.getpid()}"
    tree = folder / "ml"
    linked = tree / "input"
    linked.mkdir(parents=True, exist_ok=True)
    make_change_folders(tree, 1)
    child = os.fork()
    if child == 0:
        os._exit(trial(mount, tree, linked))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    remove_work_folders(tree, 1)
    shutil.rmtree(folder, ignore_errors=True)
    mount.overlays = code == 0
    return mount if code in (0, NO_OVERLAY) else None


def trial(mount: Mount, tree: Path, linked: Path) -> int:
    """Mount with and without an overlay; the exit code."""
    try:
        is_root = mount.enter(tree)
    except OSError:
        return NO_MOUNT
    try:
        cover(linked, *change_folders(tree, 1)[0], is_root=is_root)
    except OSError:
        return NO_OVERLAY
    return 0


def change_folders(tree: Path, count: int) -> list[tuple[Path, Path]]:
    """Beside a tree, where each of its overlays keeps changes and works."""
    folder = tree.parent / "changes"
    return [(folder / f"{number}", folder / f"{number}.work") for number in range(count)]


def make_change_folders(tree: Path, count: int) -> None:
    """Before the job starts."""
    for upper, work in change_folders(tree, count):
        upper.mkdir(parents=True, exist_ok=True)
        work.mkdir(exist_ok=True)


def remove_work_folders(tree: Path, count: int) -> None:
    """After the job has ended: the kernel leaves directories that only root can list."""
    for _, work in change_folders(tree, count):
        with contextlib.suppress(OSError):
            (work / "work").rmdir()
            work.rmdir()


def can_be_covered(folder: Path) -> bool:
    """Whether the path can stand in the options of an overlay."""
    return not re.search(r"[:,\\]", str(folder))


def cover(folder: Path, upper: Path, work: Path, *, is_root: bool) -> None:
    """In a child: mount an overlay over a directory, so that its files are read and never written.

    Raises:
        OSError: the kernel refuses.
    """
    options = f"lowerdir={folder},upperdir={upper},workdir={work}{'' if is_root else ',userxattr'}"
    call("mount", b"overlay", os.fsencode(folder), b"overlay", 0, os.fsencode(options))


def enter_namespace() -> bool:
    """A mount namespace, by root's rights (True) or inside a user namespace that maps the user to itself."""
    with contextlib.suppress(OSError):  # root of a container may lack the right
        call("unshare", CLONE_NEWNS)
        return True
    user, group = os.geteuid(), os.getegid()
    call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return False


def make_mount_point(entry: Path, target: Path) -> None:
    """An empty file or directory to bind `entry` over; a link is made again."""
    with contextlib.suppress(FileExistsError):  # another runner of this home may be making it
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
