"""The program that starts jobs' processes: small, so that its forks are quick, or with a script's modules imported.

    python fork_server.py <control socket> <modules, separated by commas>
    python fork_server.py enter <Start, pickled, in hexadecimal digits>     executes a program in a place, see `enter`

For each job the runner (`launcher.py`) sends two file descriptors over the control socket: the job's output, and a
socket for a conversation in pickles. Two processes are forked: the supervisor, which is the first in the job's own
process numbers, passes signals on and ends what the job leaves running; and below it the job.

    runner:     Start, as a tuple
    supervisor: its process id, or an OSError: the job's place could not be set up
    runner:     "g"; without it nothing is run
    job:        an OSError if its program cannot be executed
    supervisor: the exit code, when all has ended

This file imports nothing of the pipeline's.
"""

import builtins
import contextlib
import ctypes
import functools
import gc
import importlib.machinery
import os
import pickle
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType, ModuleType, TracebackType
from typing import Any, NamedTuple, NoReturn

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SYS_CLONE = {"x86_64": 56, "aarch64": 220}
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 36, 38
CAPABILITY_VERSION_3, CAPABILITIES = 0x20080522, 64
# of those that Docker leaves to root: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, BIND, CHROOT
KEPT_CAPABILITIES = (0, 1, 3, 4, 5, 6, 7, 8, 10, 18)
SAID_BYTES = 65536
END_NOW = signal.SIGUSR1  # to a supervisor: SIGKILL for its job
PASSED_ON = (signal.SIGTERM, END_NOW)


Call = tuple[str | bytes | int | None, ...]  # a function of the C library and its arguments


class Start(NamedTuple):
    """What is to be started: words and variables as the process shall see them, and what makes its place."""

    words: Sequence[str]
    environment: Mapping[str, str]
    folder: str
    flags: int = 0  # what clone(2) is to make anew; 0: the job works in the machine as it is
    calls: Sequence[Call] = ()
    is_forked: bool = False  # run as a script by a process whose modules are imported already


def serve() -> None:
    """Import, report, fork until the runner closes the socket; return in a forked job, whose script has ended."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    sys.path[:] = [folder for folder in sys.path if folder != os.path.dirname(__file__)]  # noqa: PTH120
    modules = list(filter(None, sys.argv[2].split(",")))
    for name in modules:
        with contextlib.suppress(ImportError):  # the script will say so itself
            importlib.import_module(name)
    said = os.pread(1, SAID_BYTES, 0)  # our output is a file, or nothing
    if modules:
        if os.fork() == 0:  # upon the first fork OpenBLAS and others end their threads, which can be counted then
            os._exit(0)
        os.wait()
        loaded = {name.partition(".")[0] for name in sys.modules}
        send(control, (loaded, len(os.listdir("/proc/self/task"))))  # noqa: PTH208
    libc()
    gc.collect()
    gc.freeze()  # so that the collector of a forked process leaves the shared pages alone
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the runner hears of ends from the supervisors
    while fds := socket.recv_fds(control, 1, 2)[1]:
        with socket.socket(fileno=fds[0]) as talk:
            start = become_job(talk, fds[1])
        os.close(fds[1])
        if start:
            control.close()
            run_script(start, said)
            return


def become_job(talk: socket.socket, output: int) -> Start | None:
    """Fork a supervisor and that a job; return in a job that is to run a script here, and None in the server."""
    server = os.getpid()
    try:
        start = Start(*pickle.load(talk.makefile("rb")))
        pid = fork_into(start.flags)
    except EOFError:
        return None
    except OSError as problem:
        send(talk, problem)
        return None
    if pid:
        return None
    os.setsid()
    number = int(os.readlink("/proc/self")) if sys.platform == "linux" else os.getpid()  # noqa: PTH115  as outside
    ask_kernel(PR_SET_PDEATHSIG, END_NOW)
    ask_kernel(PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        make_calls(start.calls)
        if start.flags & CLONE_NEWNET:
            start_loopback()
        os.chdir(start.folder)
    except OSError as problem:
        send(talk, problem)
        os._exit(1)
    send(talk, number)
    if os.getppid() not in (0, server) or not talk.recv(1):  # 0: in another namespace
        os._exit(1)
    supervisor = os.getpid()
    if job := os.fork():
        supervise(job, talk)
    os.setsid()
    ask_kernel(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(1)
    if start.flags:
        drop_rights()
    for stream in (1, 2):
        os.dup2(output, stream)
    for caught in (*PASSED_ON, signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores the last two, which a program inherits
        if caught in PASSED_ON or not start.is_forked:
            signal.signal(caught, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    if start.is_forked:
        return start
    talk.set_inheritable(False)
    os.set_inheritable(output, False)
    try:
        os.execvpe(start.words[0], list(start.words), start.environment)
    except (OSError, ValueError) as problem:
        send(talk, problem)
    os._exit(127)


def supervise(job: int, talk: socket.socket) -> NoReturn:
    """Wait for the job, end what it has left, tell its exit code, which is negative for a signal."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for kill in (os.killpg, os.kill):  # it is about to lead its group, or has ended
            with contextlib.suppress(ProcessLookupError):
                return kill(job, signal.SIGKILL if number == END_NOW else number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    ask_kernel(PR_SET_DUMPABLE, 0)  # the job's user is ours
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    os.closerange(0, talk.fileno())
    os.closerange(talk.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    pid, status = os.wait()
    while pid != job:
        pid, status = os.wait()
    end_children(job)
    send(talk, os.waitstatus_to_exitcode(status))
    os._exit(0)


def end_children(group: int) -> None:
    """Send SIGKILL to the job's group and to the children of this process, until there are none."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            for child in children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            os.wait()


def children() -> Iterator[int]:
    """Yield the processes whose parent this process is; none where the kernel does not tell."""
    path = f"/proc/self/task/{os.getpid()}/children"
    with contextlib.suppress(OSError), open(path) as file:  # noqa: PTH123  pathlib would double this program
        yield from map(int, file.read().split())


def fork_into(flags: int) -> int:
    """Fork a child with new namespaces, in one of users as who it is; the process must have but one thread.

    Raises:
        OSError: the kernel refuses.
    """
    if not flags:
        return os.fork()
    user, group = os.geteuid(), os.getegid()
    pid = int(libc().syscall(SYS_CLONE.get(os.uname().machine, -1), flags | signal.SIGCHLD, 0, 0, 0, 0))
    if pid < 0:
        raise last_error("clone")
    if pid == 0 and flags & CLONE_NEWUSER:
        map_user(user, group)
    return pid


def map_user(user: int, group: int) -> None:
    """In a new namespace of users, be who one was."""
    for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{file}", "w") as stream:  # noqa: PTH123
            stream.write(text)


def enter() -> NoReturn:
    """Execute a program in a place of its own, by this process, whose number, environment and output it keeps.

    Raises:
        OSError: the kernel refuses, or there is no such program.
    """
    start = Start(*pickle.loads(bytes.fromhex(sys.argv[2])))
    user, group = os.geteuid(), os.getegid()
    make_calls([("unshare", start.flags)])
    if start.flags & CLONE_NEWUSER:
        map_user(user, group)
    make_calls(start.calls)
    os.chdir(start.folder)
    drop_rights()
    os.execvp(start.words[0], list(start.words))


def make_calls(calls: Sequence[Call]) -> None:
    """Call functions of the C library that return 0.

    Raises:
        OSError: one returned something else.
    """
    for name, *arguments in calls:
        if getattr(libc(), str(name))(*arguments) != 0:
            raise last_error(str(name))


def last_error(place: str) -> OSError:
    """Return what the C library has said last."""
    return OSError(ctypes.get_errno(), f"{place}: {os.strerror(ctypes.get_errno())}")


def start_loopback() -> None:
    """Make 127.0.0.1 work in a new network namespace."""
    import fcntl

    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def drop_rights() -> None:
    """Give up what undoes a namespace: capabilities, and programs that are somebody else's by setuid."""
    ask_kernel(PR_SET_NO_NEW_PRIVS, 1)
    for capability in set(range(CAPABILITIES)) - set(KEPT_CAPABILITIES):
        ask_kernel(PR_CAPBSET_DROP, capability)
    header, sets = struct.pack("Ii", CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    libc().capget(header, sets)
    kept = sum(1 << capability for capability in KEPT_CAPABILITIES)
    for number in range(6):  # effective, permitted, inheritable; then their upper halves
        sets[number] &= kept if number < 3 else 0
    libc().capset(header, sets)


@functools.cache
def libc() -> ctypes.PyDLL:
    """Return the C library of this process; the interpreter's lock is kept, for the sake of clone."""
    library = ctypes.PyDLL(None, use_errno=True)
    for name in ("mount", "syscall", "prctl", "capget", "capset") if sys.platform == "linux" else ():
        getattr(library, name)  # found once, not by each child
    return library


def die_with(parent: int) -> None:
    """Ask for SIGKILL when the parent ends (Linux only)."""
    ask_kernel(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def ask_kernel(option: int, value: int) -> None:
    """prctl(2), which there is on Linux only."""
    if sys.platform == "linux":
        libc().prctl(option, value, 0, 0, 0)


def run_script(start: Start, said: bytes) -> None:
    """Do what `python words...` does: what is told replaces environment, arguments and path.

    What the imports said goes first, as to every script's log.
    """
    os.write(1, said)
    os.environ.clear()
    os.environ.update(start.environment)
    sys.dont_write_bytecode = bool(start.environment.get("PYTHONDONTWRITEBYTECODE"))  # as Python would have read it
    sys.argv = list(start.words[1:])
    script = os.path.abspath(sys.argv[0])  # noqa: PTH100
    folders = list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    own = [os.path.dirname(script), *folders]  # noqa: PTH120
    sys.path[:] = [*own, *(folder for folder in sys.path if folder not in folders)]
    importlib.invalidate_caches()
    if "numpy.random" in sys.modules:  # each process its own numbers; Python's `random` sees to that itself
        sys.modules["numpy.random"].seed()
    sys.excepthook = print_exception
    loader = importlib.machinery.SourceFileLoader("__main__", script)
    main = ModuleType("__main__")
    main.__dict__.update(__file__=script, __builtins__=builtins, __loader__=loader, __cached__=None)
    main.__annotations__ = {}
    sys.modules["__main__"] = main
    exec(compile(loader.get_data(script), script, "exec", dont_inherit=True), main.__dict__)


def print_exception(kind: type[BaseException], problem: BaseException, trace: TracebackType | None) -> None:
    """Print the script's traceback, without the frames that started it."""
    while trace and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.__excepthook__(kind, problem.with_traceback(trace), trace)


def send(talk: socket.socket, message: Any) -> None:
    """Send one pickle; nobody may be listening any more."""
    with contextlib.suppress(ConnectionError):
        talk.sendall(pickle.dumps(message))


if __name__ == "__main__":
    enter() if sys.argv[1] == "enter" else serve()
