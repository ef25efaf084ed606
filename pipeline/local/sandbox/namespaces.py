"""What a job sees of this machine: its own /opt/ml, /tmp and HOME, its own processes, everything else read-only.

On Linux a job runs in namespaces of its own, which end with it: its tree is bound to /opt/ml, so that a script which
names that path works unchanged; the rest of the file system is read-only, the user's keys and sockets are covered up.
Inputs that are links to S3 objects get an overlay: what the job writes to them goes elsewhere. Where the kernel does
not allow this (no root and no user namespaces, before Linux 5.12, another system) or LOCAL_ISOLATION=off forbids it,
`/opt/ml` in arguments, environment and configuration files is rewritten to the job's directory instead.
"""

import contextlib
import ctypes
import fcntl
import functools
import os
import pwd
import re
import shutil
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.local import PACKAGE_PARENT

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 0x1000, 0x4000, 0x40000
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, CAPABILITY_VERSION_3 = 24, 38, 0x20080522
# of those that Docker leaves to root: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, BIND, CHROOT
KEPT_CAPABILITIES = (0, 1, 3, 4, 5, 6, 7, 8, 10, 18)
CAPABILITIES = 64

CONTAINER_ROOT, TMP = Path("/opt/ml"), Path("/tmp")
SWITCH = "LOCAL_ISOLATION"  # "off": do without
SECRETS = (  # below a user's own directory: keys, tokens, and histories that hold them
    *(".aws", ".ssh", ".gnupg", ".netrc", ".git-credentials", ".docker", ".kube", ".azure", ".boto", ".s3cfg"),
    *(".config/gcloud", ".config/gh", ".config/sagemaker", ".config/containers", ".local/share/keyrings"),
    *(".npmrc", ".pypirc", ".kaggle", ".databrickscfg", ".terraform.d", ".cache/huggingface/token", ".huggingface"),
    *(".bash_history", ".zsh_history", ".python_history", ".password-store"),
)
SOCKETS = ("/run/docker.sock", "/run/containerd", "/run/podman", "/run/user")  # whoever reaches them is not inside
NAMED_SECRETS = (
    *("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "KUBECONFIG", "DOCKER_CONFIG"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "AZURE_CONFIG_DIR", "NETRC", "SSH_AUTH_SOCK", "GNUPGHOME"),
)
_MENTION = re.compile(rf"(?<![\w.-]){CONTAINER_ROOT}(?![\w.-])")


class Place(NamedTuple):
    """What a job's process finds."""

    folder: str  # where it works, as it sees it
    job: Path  # this machine's directory, with the job's tree, HOME and /tmp
    linked: Sequence[Path] = ()  # directories of the tree whose files are links to S3 objects
    hosts: Path | None = None  # its /etc/hosts
    writable: Sequence[Path] = ()
    network: bool = True

    @property
    def tree(self) -> Path:
        """Its /opt/ml."""
        return self.job / "ml"

    @property
    def home(self) -> Path:
        """Its HOME."""
        return self.job / "home"

    @property
    def tmp(self) -> Path:
        """Its /tmp."""
        return self.job / "tmp"


def localized(text: str, tree: Path) -> str:
    """A text in which /opt/ml is the job's tree; /opt/mlflow is something else."""
    return _MENTION.sub(lambda match: str(tree), text)


class Mount:
    """How to give a process its place. Where /opt/ml is missing, `stage` is mounted over /opt, with its entries."""

    def __init__(self, home: Path) -> None:
        self.stage, self.nothing = home / "mounts" / "opt", home / "mounts" / "nothing"
        self.overlays = False  # whether linked inputs can be protected from the job's writes
        self.processes = True  # whether a job can have process numbers, and a /proc, of its own
        self.networks = True  # whether a job can be without network
        self.nothing.mkdir(parents=True, exist_ok=True)
        self.secrets = list(secret_paths())
        shown = (home, PACKAGE_PARENT, Path(sys.prefix), Path(sys.base_prefix))
        self.shown = outermost(path.absolute() for path in shown if path.absolute().is_relative_to(TMP))
        self.neighbours: list[Path] = []
        if not CONTAINER_ROOT.is_dir():
            self.neighbours = sorted(CONTAINER_ROOT.parent.iterdir())
            (self.stage / CONTAINER_ROOT.name).mkdir(parents=True, exist_ok=True)
            for entry in self.neighbours:
                make_mount_point(entry, self.stage / entry.name)

    def enter(self, place: Place) -> None:
        """In a child: new namespaces, in which only the place's own directories can be written.

        Children of this process get process numbers of their own (where `processes`), and have to mount /proc.

        Raises:
            OSError: the kernel refuses.
        """
        isolated = CLONE_NEWNET if self.networks and not place.network else 0
        is_root = enter_namespaces(CLONE_NEWNS | isolated | (CLONE_NEWPID if self.processes else 0))
        call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
        for number, folder in enumerate(place.linked):
            cover(folder, place.job / "changes" / str(number), is_root=is_root)
        for path in self.secrets:
            with contextlib.suppress(FileNotFoundError):  # meanwhile
                bind(self.nothing if path.is_dir() else Path(os.devnull), path)
        if place.hosts:
            bind(place.hosts, Path("/etc/hosts").resolve())
        self.bind_tree(place.tree)
        self.bind_tmp(place)
        writable = [CONTAINER_ROOT, TMP, place.home, *place.writable]
        for folder in writable[2:]:
            bind(folder, folder)
        set_read_only(Path("/"))
        for folder in writable:
            set_read_only(folder, False, AT_RECURSIVE if folder == CONTAINER_ROOT else 0)  # with its overlays
        call("mount", b"tmpfs", b"/dev/shm", b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=1777")
        if isolated:
            with socket.socket() as any_socket:
                fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))

    def bind_tree(self, tree: Path) -> None:
        """The tree at /opt/ml, and beside it what else is in /opt."""
        if CONTAINER_ROOT.is_dir():
            bind(tree, CONTAINER_ROOT)
            return
        for entry in self.neighbours:
            bind(entry, self.stage / entry.name)
        bind(tree, self.stage / CONTAINER_ROOT.name)
        bind(self.stage, CONTAINER_ROOT.parent)

    def bind_tmp(self, place: Place) -> None:
        """The job's own /tmp; of this machine's it holds what the job needs, which the rest makes read-only."""
        worked_in = Path(place.folder)
        needed = [*self.shown, *([worked_in] if worked_in.is_relative_to(TMP) else [])]
        for path in outermost(needed):
            target = place.tmp / path.relative_to(TMP)
            target.mkdir(parents=True, exist_ok=True)
            bind(path, target)
        bind(place.tmp, TMP)


def find_mount(home: Path) -> Mount | None:
    """A way to mount that works here, tried out in child processes; None where there is none."""
    if sys.platform != "linux" or not CONTAINER_ROOT.parent.is_dir() or os.environ.get(SWITCH) == "off":
        return None
    mount = Mount(home.absolute())
    folder = home.absolute() / "mounts" / f"trial-{os.getpid()}"
    place = Place("/", folder, network=False)
    linked = place.tree / "input"
    for path in (linked, place.home, place.tmp):
        path.mkdir(parents=True, exist_ok=True)
    try:
        for mount.processes, mount.networks in ((True, True), (True, False), (False, True), (False, False)):
            for covered in ([linked], []):
                if succeeds(mount, place._replace(linked=covered)):
                    mount.overlays = bool(covered)
                    return mount
        return None
    finally:
        remove_work_folders(folder)
        shutil.rmtree(folder, ignore_errors=True)


def succeeds(mount: Mount, place: Place) -> bool:
    """Whether a child can enter the place and, if it is to have one, mount a /proc of its own."""
    libc()
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(OSError):
            mount.enter(place)
            code = 0
            if mount.processes and (grandchild := os.fork()) == 0:
                code = 1
                mount_proc()
                code = 0
            elif mount.processes:
                code = os.waitpid(grandchild, 0)[1]
        os._exit(bool(code))
    return os.waitpid(child, 0)[1] == 0


def missing_isolation(home: Path) -> str | None:
    """One sentence that says what jobs do without on this machine; None where nothing is missing."""
    mount = find_mount(home)
    if mount is None:
        why = f"{SWITCH}=off is set" if os.environ.get(SWITCH) == "off" else "this machine allows no mount namespaces"
        return (
            f"Local target: jobs are not isolated, since {why}: a script that names /opt/ml itself fails (what it is "
            "told by arguments, SM_ variables and configuration files is right), a job can read and change what you "
            "can, and EnableNetworkIsolation is ignored."
        )
    lacks = [
        *([] if mount.processes else ["see this machine's other processes (no PID namespaces)"]),
        *([] if mount.networks else ["keep the network under EnableNetworkIsolation (no network namespaces)"]),
    ]
    return f"Local target: on this machine jobs {' and '.join(lacks)}." if lacks else None


def secret_paths() -> Iterator[Path]:
    """What is to be covered up, of all that is there."""
    users = {str(Path("~").expanduser()), *(pwd.getpwuid(user).pw_dir for user in {os.getuid(), os.geteuid()})}
    named = [path for name in NAMED_SECRETS for path in os.environ.get(name, "").split(os.pathsep)]
    paths = [*(f"{user}/{name}" for user in users for name in SECRETS), *filter(None, named), *SOCKETS]
    for path in map(Path, dict.fromkeys(paths)):
        with contextlib.suppress(OSError):
            if path.exists() and path != Path(os.devnull):
                yield path


def enter_namespaces(flags: int) -> bool:
    """By root's rights (True), or inside a user namespace that maps the user to itself.

    Raises:
        OSError: the kernel refuses.
    """
    with contextlib.suppress(OSError):  # root of a container may lack the right
        call("unshare", flags)
        return True
    user, group = os.geteuid(), os.getegid()
    call("unshare", flags | CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return False


def mount_proc() -> None:
    """In a process with a number of its own: the /proc that shows its like alone."""
    call("mount", b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, None)


def drop_rights() -> None:
    """Give up what undoes a namespace: capabilities, and programs that are somebody else's by setuid."""
    libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for capability in set(range(CAPABILITIES)) - set(KEPT_CAPABILITIES):
        libc().prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header, sets = struct.pack("Ii", CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    libc().capget(header, sets)
    kept = sum(1 << capability for capability in KEPT_CAPABILITIES)
    for number in range(6):  # effective, permitted, inheritable; then their upper halves
        sets[number] &= kept if number < 3 else 0
    libc().capset(header, sets)


def set_read_only(path: Path, wanted: bool = True, flags: int = AT_RECURSIVE) -> None:
    """Make a mount, and usually those below it, read-only, or no longer.

    Raises:
        OSError: the kernel refuses.
    """
    attributes = struct.pack("QQQQ", MS_RDONLY if wanted else 0, 0 if wanted else MS_RDONLY, 0, 0)
    call("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, os.fsencode(path), flags, attributes, len(attributes))


def remove_work_folders(job: Path) -> None:
    """After a job has ended: for each overlay the kernel leaves a directory that only root can list."""
    for work in job.glob("changes/*.work"):
        with contextlib.suppress(OSError):
            (work / "work").rmdir()
            work.rmdir()


def can_be_covered(folder: Path) -> bool:
    """Whether the path can stand in the options of an overlay."""
    return not re.search(r"[:,\\]", str(folder))


def cover(folder: Path, upper: Path, *, is_root: bool) -> None:
    """In a child: mount an overlay over a directory, whose files are never written: changes go to `upper`.

    Raises:
        OSError: the kernel refuses.
    """
    work = upper.with_suffix(".work")
    for changes in (upper, work):
        changes.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={folder},upperdir={upper},workdir={work}{'' if is_root else ',userxattr'}"
    call("mount", b"overlay", os.fsencode(folder), b"overlay", 0, os.fsencode(options))


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


def outermost(folders: Iterable[Path]) -> list[Path]:
    """Those that lie in no other."""
    distinct = set(folders)
    return sorted(folder for folder in distinct if distinct.isdisjoint(folder.parents))


@functools.cache
def libc() -> ctypes.CDLL:
    """The C library of this process."""
    return ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: bytes | int | None) -> None:
    """A function of the C library that returns 0.

    Raises:
        OSError: it returned something else.
    """
    if getattr(libc(), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
