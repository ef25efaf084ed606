"""The program of a warm parent: imports what the scripts to come will import, then forks a process for each of them.

    python -c BOOT <the folder of this package> <control socket> <modules, as JSON> <Mount's stage, or empty>

The runner (`warm_parent.py`) sends two file descriptors a script over the control socket: the script's output, and a
socket for a conversation with the new process, in lines of JSON:

    runner:  {"words", "environment", "folder", "tree", "linked", "hosts"}
    process: {"pid"}, or {"pid", "problem"} when it could not be set up
    runner:  go; without that word nothing is run

The process is forked twice, so that it becomes the runner's own child, as the runner adopts orphans. It runs the script
as Python would: what it is told replaces the environment, `sys.argv` and `sys.path`, and this package is forgotten.
"""

import builtins
import contextlib
import ctypes
import gc
import importlib
import importlib.machinery
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from pipeline.local.sandbox.environment import JOB_VARIABLE
from pipeline.local.sandbox.namespaces import Mount, die_with

BOOT = (
    "import sys; sys.path[0] = sys.argv[1]; from pipeline.local.sandbox.fork_server import serve; "
    "del sys.path[0]; serve()"
)
ENV_START, ENV_END = 47, 48  # of /proc/self/stat, counted after the name of the program
SAID_BYTES = 65536


def serve() -> None:
    """Import, report, fork until the runner closes the socket; in a forked process, run the script."""
    control = socket.socket(fileno=int(sys.argv[2]))
    mount = Mount(Path(sys.argv[4])) if sys.argv[4] else None
    runner = os.getppid()
    for name in json.loads(sys.argv[3]):
        with contextlib.suppress(ImportError):  # the script will say so itself
            importlib.import_module(name)
    said = os.pread(1, SAID_BYTES, 0)  # our output is a file
    fork_once()
    modules = sorted({name.partition(".")[0] for name in sys.modules} - {"pipeline"})
    tell(control, {"modules": modules, "threads": len(list(Path("/proc/self/task").iterdir()))})
    gc.collect()
    gc.freeze()  # so that the collector of a forked process leaves the shared pages alone
    while fds := socket.recv_fds(control, 1, 2)[1]:
        if fork_twice(runner):
            control.close()
            run_script(set_up(socket.socket(fileno=fds[0]), fds[1], mount, runner, said))
            return
        for fd in fds:
            os.close(fd)


def fork_once() -> None:
    """Libraries that know of forks, as OpenBLAS does, end their threads at the first; only then can they be counted."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def fork_twice(runner: int) -> bool:
    """Whether this is the new process, whose parent is the runner by now."""
    middle = os.fork()
    if middle:
        os.waitpid(middle, 0)
        return False
    middle = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == middle:
        time.sleep(0.0002)
    if os.getppid() != runner:
        os._exit(1)
    return True


def set_up(talk: socket.socket, output: int, mount: Mount | None, runner: int, said: bytes) -> dict[str, Any]:
    """Make this process what the runner asks for; the request, once the runner has let it go on."""
    with talk, talk.makefile("rb") as lines:
        request: dict[str, Any] = json.loads(lines.readline() or "null") or os._exit(1)
        try:
            os.setsid()
            die_with(runner)
            if mount:
                hosts = Path(request["hosts"]) if request["hosts"] else None
                mount.enter(Path(request["tree"]), [Path(folder) for folder in request["linked"]], hosts)
            os.chdir(request["folder"])
        except OSError as problem:
            tell(talk, {"pid": os.getpid(), "problem": str(problem)})
            os._exit(1)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.close(output)
        replace_environment(request["environment"])
        tell(talk, {"pid": os.getpid()})
        if not lines.readline():
            os._exit(1)
    os.write(1, said)  # warnings at import, which belong to every script's log
    return request


def replace_environment(environment: Mapping[str, str]) -> None:
    """The new one, in /proc as well as far as orphans are told by it: there a fork has what its program began with."""
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))  # as Python would have read it
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    start, room = int(fields[ENV_START]), int(fields[ENV_END]) - int(fields[ENV_START])
    text = f"{JOB_VARIABLE}={environment.get(JOB_VARIABLE, '')}".encode()
    if start and len(text) < room:
        ctypes.memset(start, 0, room)
        ctypes.memmove(start, text, len(text))


def run_script(request: Mapping[str, Any]) -> None:
    """What `python words...` does."""
    words: list[str] = request["words"]
    script = Path(words[0]).absolute()
    sys.argv = words
    folders = list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    sys.path[:] = [str(script.parent), *folders, *(folder for folder in sys.path if folder not in folders)]
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.partition(".")[0] == "pipeline"]:
        del sys.modules[name]
    if "numpy.random" in sys.modules:  # each process its own numbers; Python's `random` sees to that itself
        sys.modules["numpy.random"].seed()
    sys.excepthook = print_exception
    loader = importlib.machinery.SourceFileLoader("__main__", str(script))
    main = ModuleType("__main__")
    main.__dict__.update(__file__=str(script), __builtins__=builtins, __loader__=loader, __cached__=None)
    main.__annotations__ = {}
    sys.modules["__main__"] = main
    exec(compile(script.read_bytes(), str(script), "exec", dont_inherit=True), main.__dict__)


def print_exception(kind: type[BaseException], problem: BaseException, trace: TracebackType | None) -> None:
    """The script's traceback, without the frames that started it."""
    while trace and trace.tb_frame.f_code.co_filename in (__file__, "<string>"):
        trace = trace.tb_next
    sys.__excepthook__(kind, problem.with_traceback(trace), trace)


def tell(talk: socket.socket, message: Mapping[str, Any]) -> None:
    """One line of JSON."""
    talk.sendall(json.dumps(message).encode() + b"\n")
