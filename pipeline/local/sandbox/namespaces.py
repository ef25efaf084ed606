"""What a job sees of this machine: its own /opt/ml, /tmp and HOME, its own processes, everything else read-only.

On Linux a job runs in namespaces of its own, which end with it: its tree is bound to /opt/ml, so that a script which
names that path works unchanged; the rest of the file system is read-only, the user's keys and sockets are covered up.
Inputs that are links to S3 objects get an overlay: what the job writes to them goes elsewhere. Where the kernel does
not allow this (no root and no user namespaces, before Linux 5.12, another system) or LOCAL_ISOLATION=off forbids it,
`/opt/ml` in arguments, environment and configuration files is rewritten to the job's directory instead.
"""

import contextlib
import itertools
import os
import pwd
import re
import shutil
import signal
import stat
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.local import PACKAGE_PARENT
from pipeline.local.sandbox.supervisor import CLONE_NEWNET, CLONE_NEWUSER, enter

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID = 0x00020000, 0x08000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 0x1000, 0x4000, 0x40000
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000

CONTAINER_ROOT, TMP = Path("/opt/ml"), Path("/tmp")
SWITCH = "LOCAL_ISOLATION"  # "off": do without
SECRETS = (  # below a user's own directory: keys, tokens, and histories that hold them
    *(".aws", ".ssh", ".gnupg", ".netrc", ".git-credentials", ".docker", ".kube", ".azure", ".boto", ".s3cfg"),
    *(".config/gcloud", ".config/gh", ".config/sagemaker", ".config/containers", ".local/share/keyrings"),
    *(".npmrc", ".pypirc", ".kaggle", ".databrickscfg", ".terraform.d", ".cache/huggingface/token", ".huggingface"),
    *(".pgpass", ".vault-token", ".config/rclone", ".config/git/credentials", ".cargo/credentials.toml"),
    *(".bash_history", ".zsh_history", ".python_history", ".password-store"),
)
TOKEN_FILE = "studio.json"  # of the home: with what is in it, a job could use the page as the user does
SOCKETS = ("/run/docker.sock", "/run/containerd", "/run/podman", "/run/user")  # whoever reaches them is not inside
NAMED_SECRETS = (
    *("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "KUBECONFIG", "DOCKER_CONFIG"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "AZURE_CONFIG_DIR", "NETRC", "SSH_AUTH_SOCK", "GNUPGHOME"),
)
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "nvidia*", "dri", "kfd", "infiniband")  # and no disks
_MENTION = re.compile(rf"(?<![\w.-]){CONTAINER_ROOT}(?![\w.-])")


Call = tuple[str | bytes | int | None, ...]  # a function of the C library and its arguments


class Place(NamedTuple):
    """What a job's process finds: its /opt/ml, HOME and /tmp are `ml`, `home` and `tmp` of the folder `job`."""

    folder: str  # where it works, as it sees it
    job: Path
    linked: Sequence[Path] = ()  # directories of /opt/ml whose files are links to S3 objects
    hosts: Path | None = None  # its /etc/hosts
    writable: Sequence[Path] = ()
    network: bool = True


def localized(text: str, tree: Path) -> str:
    """Return the text with /opt/ml replaced by the job's tree; /opt/mlflow is something else."""
    return _MENTION.sub(lambda match: str(tree), text)


class Mount:
    """How to give a process its place, as far as this machine allows it."""

    def __init__(self, home: Path) -> None:
        self.saved, self.nothing, self.empty = (home / "mounts" / name for name in ("opt", "nothing", "empty"))
        self.is_root = True  # whether root's rights suffice; else the user is the same in a namespace of users
        self.processes = True  # whether a job can have process numbers, and a /proc, of its own
        self.networks = True  # whether a job can be without network
        self.overlays = True  # whether linked inputs can be protected from the job's writes
        for folder in (self.saved, self.nothing):
            folder.mkdir(parents=True, exist_ok=True)
        self.empty.touch()
        self.token = home / TOKEN_FILE
        self.token.touch(0o600)  # so that it is covered for jobs that began before the server
        shown = (home, PACKAGE_PARENT, Path(sys.prefix), Path(sys.base_prefix))
        self.shown = [path.absolute() for path in shown]

    def flags(self, place: Place) -> int:
        """Return what unshare(2) is to make anew for a process."""
        users, processes = (0 if self.is_root else CLONE_NEWUSER), (CLONE_NEWPID if self.processes else 0)
        network = CLONE_NEWNET if self.networks and not place.network else 0
        return CLONE_NEWNS | CLONE_NEWIPC | users | processes | network

    def calls(self, place: Place) -> list[Call]:
        """Return the system calls that give a process its place, of which only its own directories can be written."""
        calls = [mount(None, "/", None, MS_REC | MS_PRIVATE)]
        for number, folder in enumerate(place.linked):
            calls.append(self.cover(folder, place.job / "changes" / str(number)))
        calls += [bind(self.nothing if path.is_dir() else self.empty, path) for path in [self.token, *secret_paths()]]
        if place.hosts:
            calls.append(bind(place.hosts, Path("/etc/hosts").resolve()))
        calls += [] if CONTAINER_ROOT.is_dir() else self.make_container_root()
        calls.append(bind(place.job / "ml", CONTAINER_ROOT))
        for path in outermost(path for path in (*self.shown, Path(place.folder)) if path.is_relative_to(TMP)):
            (place.job / "tmp" / path.relative_to(TMP)).mkdir(parents=True, exist_ok=True)
            calls.append(bind(path, place.job / "tmp" / path.relative_to(TMP)))
        calls.append(bind(place.job / "tmp", TMP))
        own = [place.job / "home", *place.writable]
        devices = [device for name in DEVICES for device in sorted(Path("/dev").glob(name))]
        calls += [bind(path, path) for path in [*own, *devices]]
        calls += [set_attribute(Path("/"), MS_RDONLY | MS_NODEV, 0, AT_RECURSIVE)]
        calls += [set_attribute(path, 0, MS_NODEV, 0) for path in devices]
        calls += [set_attribute(CONTAINER_ROOT, 0, MS_RDONLY, AT_RECURSIVE)]  # with its overlays
        calls += [set_attribute(folder, 0, MS_RDONLY, 0) for folder in [TMP, *own]]
        if Path("/dev/ptmx").exists():
            options = "newinstance,ptmxmode=0666"
            calls.append(mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, options))
            calls += [] if Path("/dev/ptmx").is_symlink() else [bind(Path("/dev/pts/ptmx"), Path("/dev/ptmx"))]
        calls.append(mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"))
        if self.processes:
            calls.append(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY))
        return calls

    def make_container_root(self) -> list[Call]:
        """Return the calls for an /opt with what it has and /opt/ml."""
        top = CONTAINER_ROOT.parent
        calls = [bind(top, self.saved), mount("tmpfs", str(top), "tmpfs", MS_NOSUID, "mode=755")]
        calls.append(("mkdir", os.fsencode(CONTAINER_ROOT), 0o755))
        for entry in sorted(top.iterdir()):
            if entry.is_symlink():
                calls.append(("symlink", os.fsencode(entry.readlink()), os.fsencode(entry)))
                continue
            name = os.fsencode(entry)
            calls.append(("mkdir", name, 0o755) if entry.is_dir() else ("mknod", name, stat.S_IFREG | 0o644, 0))
            calls.append(bind(self.saved / entry.name, entry))
        return calls

    def cover(self, folder: Path, upper: Path) -> Call:
        """Return the call for an overlay over a directory, whose files are never written: changes go to `upper`."""
        work = upper.with_suffix(".work")
        for changes in (upper, work):
            changes.mkdir(parents=True, exist_ok=True)
        options = f"lowerdir={folder},upperdir={upper},workdir={work}{'' if self.is_root else ',userxattr'}"
        return mount("overlay", str(folder), "overlay", 0, options)


def find_mount(home: Path) -> Mount | None:
    """Return a way to mount that works here, tried out in child processes; None where there is none."""
    if sys.platform != "linux" or not CONTAINER_ROOT.parent.is_dir() or os.environ.get(SWITCH) == "off":
        return None
    found = Mount(home.absolute())
    folder = home.absolute() / "mounts" / f"trial-{os.getpid()}"
    for name in ("ml/input", "home", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    try:
        combinations = itertools.product((True, False), repeat=4)
        for found.processes, found.networks, found.overlays, found.is_root in combinations:
            if succeeds(found, Place("/", folder, [folder / "ml/input"] if found.overlays else [], network=False)):
                return found
        return None
    finally:
        remove_work_folders(folder)
        shutil.rmtree(folder, ignore_errors=True)


def succeeds(found: Mount, place: Place) -> bool:
    """Return whether a child's child gets the place."""
    flags, calls = found.flags(place), found.calls(place)
    # Python swallows a Ctrl-C that comes while it forks, and in the child it would go on as a second command.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(OSError):
                pid = enter(place.folder, flags, calls)
                code = os.waitpid(pid, 0)[1] if pid else 0
            os._exit(bool(code))
        return os.waitpid(child, 0)[1] == 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def missing_isolation(home: Path) -> str | None:
    """Return one sentence that says what jobs do without on this machine; None where nothing is missing."""
    found = find_mount(home)
    if found is None:
        why = f"{SWITCH}=off is set" if os.environ.get(SWITCH) == "off" else "this machine allows no mount namespaces"
        return (
            f"Local target: jobs are not isolated, since {why}: a script that names /opt/ml itself fails (what it is "
            "told by arguments, SM_ variables and configuration files is right), a job can read and change what you "
            "can, and EnableNetworkIsolation is ignored."
        )
    lacks = [
        *([] if found.processes else ["see this machine's other processes (no PID namespaces)"]),
        *([] if found.networks else ["keep the network under EnableNetworkIsolation (no network namespaces)"]),
    ]
    return f"Local target: on this machine jobs {' and '.join(lacks)}." if lacks else None


def secret_paths() -> Iterator[Path]:
    """Yield what is to be covered up, of all that is there."""
    users = {os.path.expanduser("~")}  # noqa: PTH111  which may be unknown, as may the user's number be
    for user in (os.getuid(), os.geteuid(), int(os.environ.get("SUDO_UID", "0") or 0)):
        with contextlib.suppress(KeyError):
            users.add(pwd.getpwuid(user).pw_dir)
    named = [path for name in NAMED_SECRETS for path in os.environ.get(name, "").split(os.pathsep)]
    paths = [*(f"{user}/{name}" for user in users for name in SECRETS), *filter(None, named), *SOCKETS]
    for path in map(Path, dict.fromkeys(paths)):
        with contextlib.suppress(OSError):
            if path.exists() and path != Path(os.devnull):
                yield path


def remove_work_folders(job: Path) -> None:
    """After a job has ended, remove what the kernel leaves of each overlay: a directory that only root can list."""
    for work in job.glob("changes/*.work"):
        with contextlib.suppress(OSError):
            (work / "work").rmdir()
            work.rmdir()


def can_be_covered(folder: Path) -> bool:
    """Return whether the path can stand in the options of an overlay."""
    return not re.search(r"[:,\\]", str(folder))


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> Call:
    """Return a call of mount(2)."""
    first, second, third, last = (text and os.fsencode(text) for text in (source, target, kind, options))
    return ("mount", first, second, third, flags, last)


def bind(source: Path, target: Path) -> Call:
    """Return the call that `mount --rbind` makes."""
    return mount(str(source), str(target), None, MS_BIND | MS_REC)


def set_attribute(path: Path, added: int, removed: int, flags: int) -> Call:
    """Return a call of mount_setattr(2)."""
    attributes = struct.pack("QQQQ", added, removed, 0, 0)
    return ("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, os.fsencode(path), flags, attributes, len(attributes))


def outermost(folders: Iterable[Path]) -> list[Path]:
    """Return those that lie in no other."""
    distinct = set(folders)
    return sorted(folder for folder in distinct if distinct.isdisjoint(folder.parents))
