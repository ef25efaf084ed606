"""The program that starts a job's process, ends what that leaves running, and tells how it has ended.

    python supervisor.py jobs <socket>              programs, for a runner
    python supervisor.py server                     a program that outlives who started it; SIGTERM is passed on to it
    python supervisor.py warm <socket> <modules>    scripts that are forked with these modules imported

A `Start` of `launcher.py` is on standard input; a runner's socket brings for each job standard input, output
and talk. The outer process forks the first one of the job's own process numbers, and that forks the job. The first one
talks with the runner: each byte that comes is a signal for the job, the end of the runner ends the job too, and what it
says is an exit code (negative for a signal) or the reason why nothing could be run.

This file imports nothing of the pipeline's, and little else: it is loaded for every job.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import marshal
import os
import signal
import sys

TYPE_CHECKING = False  # typing itself would cost more than all of this
if TYPE_CHECKING:
    import socket
    from types import TracebackType
    from typing import NoReturn

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 36, 38
CAPABILITY_VERSION_3, CAPABILITIES = 0x20080522, 64
# of those that Docker leaves to root: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, BIND, CHROOT
KEPT_CAPABILITIES = (0, 1, 3, 4, 5, 6, 7, 8, 10, 18)
SAID_BYTES = 65536

LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Do what the arguments say."""
    if sys.argv[1] == "warm":
        serve(int(sys.argv[2]), sys.argv[3].split(","))
    elif sys.argv[1] == "jobs":
        fork_jobs(connection(int(sys.argv[2])))
    else:
        stand_for_server()


def stand_for_server() -> NoReturn:
    """Be the process that a server is known by: what ends this one ends the server, and the exit code is the same."""
    import socket

    ours, theirs = socket.socketpair()
    signal.signal(signal.SIGTERM, lambda number, frame: ours.sendall(bytes([number])))
    begin(theirs.fileno())
    theirs.close()
    said = ours.makefile("rb").read()
    ended = marshal.loads(said) if said else -signal.SIGKILL
    if not isinstance(ended, int):
        sys.exit(f"The server could not be started: {ended[2]}.")
    sys.exit(ended if ended >= 0 else 128 - ended)


def connection(handle: int) -> socket.socket:
    """Return the runner's socket, which jobs do not inherit."""
    import socket

    control = socket.socket(fileno=handle)
    control.set_inheritable(False)
    return control


def serve(handle: int, modules: list[str]) -> None:
    """Import, report, fork until the runner closes the socket; return in a forked job, whose script has ended."""
    import gc
    import importlib

    control = connection(handle)
    sys.path[:] = [folder for folder in sys.path if folder != os.path.dirname(__file__)]  # noqa: PTH120
    for name in modules:
        with contextlib.suppress(ImportError):  # the script will say so itself
            importlib.import_module(name)
    said = os.pread(1, SAID_BYTES, 0)  # our output is a file
    if os.fork() == 0:  # upon the first fork OpenBLAS and others end their threads, which can be counted then
        os._exit(0)
    os.wait()
    loaded = {name.partition(".")[0] for name in sys.modules}
    control.sendall(marshal.dumps((loaded, len(os.listdir("/proc/self/task")))))  # noqa: PTH208
    gc.collect()
    gc.freeze()  # so that the collector of a forked process leaves the shared pages alone
    if script := fork_jobs(control):
        run_script(*script, said)


def fork_jobs(control: socket.socket) -> tuple[list[str], dict[str, str]] | None:
    """Fork a supervisor for each job until the runner closes the socket; return words, variables in a forked script."""
    import socket

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the runner hears of ends from the jobs' own first processes
    while handles := socket.recv_fds(control, 1, 3)[1]:
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            given, output, talk = handles
            for own, handle in enumerate((given, output, output)):
                os.dup2(handle, own)
            os.close(given)
            os.close(output)
            if script := begin(talk):
                return script
            os.wait()
            os._exit(0)
        for handle in handles:
            os.close(handle)
    return None


def begin(talk: int) -> tuple[list[str], dict[str, str]] | None:
    """Fork the first process, which forks the job; return None in this one, words and variables in a forked script."""
    os.set_inheritable(talk, False)
    with open(0, "rb", closefd=False) as given, open(os.devnull) as nothing:  # noqa: PTH123  pathlib is large
        words, environment, folder, flags, calls, is_forked = marshal.load(given)
        os.dup2(nothing.fileno(), 0)
    try:
        if enter(folder, flags, calls):
            return None
    except OSError as problem:
        tell(talk, ("place", problem.errno, f"its surroundings could not be set up ({problem})"))
        os._exit(1)
    ask_kernel(PR_SET_CHILD_SUBREAPER, 1)
    first = os.getpid()
    if job := os.fork():
        supervise(job, talk)
    os.setsid()
    ask_kernel(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != first:
        os._exit(1)
    if flags:
        drop_rights()
    if is_forked:
        os.close(talk)
        return words, environment
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python, and a program would inherit that
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvpe(words[0], words, environment)
    except (OSError, ValueError) as problem:
        tell(talk, ("program", getattr(problem, "errno", 0), getattr(problem, "strerror", str(problem))))
    os._exit(127)


def supervise(job: int, talk: int) -> NoReturn:
    """Pass signals on, wait for the job, end what it has left, tell its exit code."""

    def send(number: int) -> None:
        for kill in (os.killpg, os.kill):  # it is about to lead its group, or has ended
            with contextlib.suppress(ProcessLookupError):
                return kill(job, number)

    def pass_on() -> None:
        while number := os.read(talk, 1):
            send(number[0])
        send(signal.SIGKILL)  # whoever started it has ended

    ask_kernel(PR_SET_DUMPABLE, 0)  # the job's user is ours
    os.closerange(0, talk)
    os.closerange(talk + 1, os.sysconf("SC_OPEN_MAX"))
    _thread.start_new_thread(pass_on, ())
    pid, status = os.wait()
    while pid != job:
        pid, status = os.wait()
    end_children(job)
    tell(talk, os.waitstatus_to_exitcode(status))
    os._exit(0)


def end_children(group: int) -> None:
    """Send SIGKILL to the job's group and to whatever is or becomes a child of this process, until there is none."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    with contextlib.suppress(OSError):  # no children, or a kernel that does not tell them
        while True:
            with open(f"/proc/self/task/{os.getpid()}/children") as file:  # noqa: PTH123
                children = [int(child) for child in file.read().split()]
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            os.wait()


def enter(folder: str, flags: int, calls: list[tuple[str | bytes | int | None, ...]]) -> int:
    """Fork a process with namespaces of its own, in one of users as who it is; its id, or 0 in it, in its place.

    Args:
        folder: where it works, as it sees it.
        flags: what unshare(2) is to make anew; 0: it works in the machine as it is.
        calls: functions of the C library that make its place, and their arguments; they return 0.

    Raises:
        OSError: the kernel refuses.
    """
    user, group = os.geteuid(), os.getegid()
    ids = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
    if flags:
        make_calls([("unshare", flags)])
    for file, text in ids.items() if flags & CLONE_NEWUSER else ():
        with open(f"/proc/self/{file}", "w") as stream:  # noqa: PTH123
            stream.write(text)
    if pid := os.fork():
        return pid
    make_calls(calls)
    if flags & CLONE_NEWNET:
        start_loopback()
    os.chdir(folder)
    return 0


def make_calls(calls: list[tuple[str | bytes | int | None, ...]]) -> None:
    """Call functions of the C library; an OSError if one does not return 0."""
    for name, *arguments in calls:
        if getattr(LIBC, str(name))(*arguments) != 0:
            raise OSError(ctypes.get_errno(), f"{name!s}: {os.strerror(ctypes.get_errno())}")


def start_loopback() -> None:
    """Make 127.0.0.1 work in a new network namespace."""
    import fcntl
    import socket
    import struct

    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def drop_rights() -> None:
    """Give up what undoes a namespace: capabilities, and programs that are somebody else's by setuid."""
    ask_kernel(PR_SET_NO_NEW_PRIVS, 1)
    for capability in set(range(CAPABILITIES)) - set(KEPT_CAPABILITIES):
        ask_kernel(PR_CAPBSET_DROP, capability)
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    LIBC.capget(header, sets)
    kept = sum(1 << capability for capability in KEPT_CAPABILITIES)
    for number in range(6):  # effective, permitted, inheritable; then their upper halves
        sets[number] &= kept if number < 3 else 0
    LIBC.capset(header, sets)


def die_with(parent: int) -> None:
    """Ask for SIGKILL when the parent ends (Linux only)."""
    ask_kernel(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def ask_kernel(option: int, value: int) -> None:
    """prctl(2), which there is on Linux only."""
    if sys.platform == "linux":
        LIBC.prctl(option, value, 0, 0, 0)


def run_script(words: list[str], environment: dict[str, str], said: bytes) -> None:
    """Do what `python words...` does: what is told replaces environment, arguments and path.

    What the imports said goes first, as to every script's log.
    """
    from types import ModuleType

    os.write(1, said)
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))  # as Python would have read it
    sys.argv = words[1:]
    script = os.path.abspath(sys.argv[0])  # noqa: PTH100
    folders = list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    own = [os.path.dirname(script), *folders]  # noqa: PTH120
    sys.path[:] = [*own, *(folder for folder in sys.path if folder not in folders)]
    sys.path_importer_cache.clear()  # of folders that have been empty
    if "numpy.random" in sys.modules:  # each process its own numbers; Python's `random` sees to that itself
        sys.modules["numpy.random"].seed()
    sys.excepthook = print_exception
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__.update(__file__=script, __builtins__=__builtins__, __cached__=None, __annotations__={})
    with open(script, "rb") as file:  # noqa: PTH123
        code = compile(file.read(), script, "exec", dont_inherit=True)
    exec(code, main.__dict__)


def print_exception(kind: type[BaseException], problem: BaseException, trace: TracebackType | None) -> None:
    """Print the script's traceback, without the frames that started it."""
    while trace and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.__excepthook__(kind, problem.with_traceback(trace), trace)


def tell(talk: int, message: int | tuple[str, int | None, str]) -> None:
    """Say an exit code, or what could not be done; nobody may be listening any more."""
    with contextlib.suppress(OSError):
        os.write(talk, marshal.dumps(message))


if __name__ == "__main__":
    main()
