"""The program that starts jobs' processes: small, so that its forks are quick, or with a script's modules imported.

    python -c BOOT <the folder of this package> <control socket> <modules and Mount, pickled, in base 64>

The runner (`launcher.py`) sends two file descriptors a job over the control socket: the job's output, and a socket for
a conversation with the new process, in pickles:

    runner:     Start
    process:    its supervisor's process id, or an OSError: it could not be set up
    runner:     "go"; without that word nothing is run
    process:    an OSError if its program cannot be executed
    supervisor: the exit code, when all has ended

A process either executes its program or, where its modules are imported already, runs the script as Python would: what
it is told replaces the environment, `sys.argv` and `sys.path`, and this package is forgotten.
"""

import base64
import builtins
import contextlib
import gc
import importlib.machinery
import os
import pickle
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

from pipeline.local.sandbox.namespaces import Mount, Place
from pipeline.local.sandbox.supervisor import become_job

BOOT = (
    "import sys; sys.path[0] = sys.argv[1]; from pipeline.local.sandbox.fork_server import serve; "
    "del sys.path[0]; serve()"
)
SAID_BYTES = 65536


class Start(NamedTuple):
    """What is to be started: words and variables as the process shall see them."""

    words: Sequence[str]
    environment: Mapping[str, str]
    place: Place
    is_forked: bool = False  # run as a script by a process whose modules are imported already


def serve() -> None:
    """Import, report, fork until the runner closes the socket; in a forked process, become the job."""
    control = socket.socket(fileno=int(sys.argv[2]))
    modules, mount = pickle.loads(base64.b64decode(sys.argv[3]))
    for name in modules:
        with contextlib.suppress(ImportError):  # the script will say so itself
            importlib.import_module(name)
    said = os.pread(1, SAID_BYTES, 0)  # our output is a file, or nothing
    if modules:
        fork_once()
        loaded = {name.partition(".")[0] for name in sys.modules} - {"pipeline"}
        send(control, (loaded, len(os.listdir("/proc/self/task"))))  # noqa: PTH208
    gc.collect()
    gc.freeze()  # so that the collector of a forked process leaves the shared pages alone
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the runner hears of ends from the supervisors
    server = os.getpid()
    while fds := socket.recv_fds(control, 1, 2)[1]:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            os.set_inheritable(fds[0], False)
            talk = socket.socket(fileno=fds[0])
            start = set_up(talk, fds[1], mount, server)
            if start.is_forked:
                talk.close()
                os.write(1, said)  # warnings at import, which belong to every script's log
                run_script(start)
                return
            execute(start, talk)
        for fd in fds:
            os.close(fd)


def fork_once() -> None:
    """Libraries that know of forks, as OpenBLAS does, end their threads at the first; only then can they be counted."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def set_up(talk: socket.socket, output: int, mount: Mount | None, server: int) -> Start:
    """Make this process what the runner asks for; the `Start`, once the runner has let it go on."""
    supervisor = os.getpid()
    with talk.makefile("rb") as stream:
        start: Start = pickle.load(stream)
        try:
            become_job(start.place, mount, server, lambda code: send(talk, code), talk.fileno())
        except OSError as problem:
            send(talk, problem)
            os._exit(1)
        for fd in (1, 2):
            os.dup2(output, fd)
        os.close(output)
        send(talk, supervisor)
        if not stream.readline():
            os._exit(1)
    return start


def execute(start: Start, talk: socket.socket) -> None:
    """Become the program; never return."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and an ignored signal stays so
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(start.words[0], list(start.words), start.environment)
    except (OSError, ValueError) as problem:
        send(talk, problem)
    os._exit(127)


def run_script(start: Start) -> None:
    """What `python words...` does."""
    os.environ.clear()
    os.environ.update(start.environment)
    sys.dont_write_bytecode = bool(start.environment.get("PYTHONDONTWRITEBYTECODE"))  # as Python would have read it
    sys.argv = list(start.words[1:])
    script = os.path.abspath(sys.argv[0])  # noqa: PTH100
    folders = list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    own = [os.path.dirname(script), *folders]  # noqa: PTH120
    sys.path[:] = [*own, *(folder for folder in sys.path if folder not in folders)]
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.partition(".")[0] == "pipeline"]:
        del sys.modules[name]
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
    """The script's traceback, without the frames that started it."""
    while trace and trace.tb_frame.f_code.co_filename in (__file__, "<string>"):
        trace = trace.tb_next
    sys.__excepthook__(kind, problem.with_traceback(trace), trace)


def send(talk: socket.socket, message: Any) -> None:
    """One pickle; nobody may be listening any more."""
    with contextlib.suppress(ConnectionError):
        talk.sendall(pickle.dumps(message))
