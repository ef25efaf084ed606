"""Starts jobs' processes by a fork server: one for every process of a runner, and one for the trials of a search.

The second has imported what the trials' script imports: that takes one to two seconds for torch, a fork some
milliseconds. Where a script cannot be forked or not safely so, it is executed and nobody notices: for commands other
than `python script.py`, with a PYTHONPATH of the job's own, when threads run after the imports, when the job's code has
a module named like one that is loaded already, on systems other than Linux, and with LOCAL_FORK=off.
"""

import asyncio
import base64
import contextlib
import functools
import os
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.local import PACKAGE_PARENT
from pipeline.local.sandbox.environment import GUEST
from pipeline.local.sandbox.fork_server import BOOT, Start
from pipeline.local.sandbox.namespaces import Mount
from pipeline.local.sandbox.script_imports import installed_imports, own_names

SWITCH = "LOCAL_FORK"  # "off": execute every script
NEEDED = ("LD_LIBRARY_PATH",)  # of the user's variables, by the interpreter itself; jobs see no others in /proc
WARMING_SECONDS, ANSWER_SECONDS = 120.0, 20.0
LOST = -9  # the exit code of a supervisor that could not tell one
OF_ONE_JOB = ("SM_", "TRAINING_JOB_", "LOCAL_")  # variables that only the job's process is to see


class Started(NamedTuple):
    """A process: its supervisor, which takes signals, and its exit code to come."""

    pid: int
    exited: asyncio.Future[int]


class Launcher:
    """One fork server. It ends with this process, and so does what it has started."""

    def __init__(self, mount: Mount | None, modules: Sequence[str] = (), environment: Mapping[str, str] | None = None):
        self.control, theirs = socket.socketpair()
        told = base64.b64encode(pickle.dumps((modules, mount))).decode()
        options = [] if modules else ["-I", "-S"]
        words = [sys.executable, *options, "-c", BOOT, str(PACKAGE_PARENT), str(theirs.fileno()), told]
        with theirs, tempfile.TemporaryFile() as said:
            self.process = subprocess.Popen(
                words,
                env=environment or {name: os.environ[name] for name in NEEDED if name in os.environ},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said if modules else None,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )

    def launch(self, start: Start, output: int) -> Started:
        """Start a process that writes to a file descriptor.

        It blocks for some milliseconds, as starting any process does.

        Raises:
            OSError: the process's surroundings could not be set up.
            EOFError: the server has ended.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self.control, [b"f"], [theirs.fileno(), output])
            ours.settimeout(ANSWER_SECONDS)
            ours.sendall(pickle.dumps(start))
            answer = received(ours)
            if isinstance(answer, OSError):
                raise OSError(answer.errno, f"its surroundings could not be set up ({answer})")
            ours.sendall(b"go\n")
        except ConnectionError as problem:
            ours.close()
            raise EOFError from problem
        except (OSError, EOFError):
            ours.close()
            raise
        return Started(answer, exit_code_from(ours))

    def close(self) -> None:
        """End the server and what it has started."""
        self.control.close()
        self.process.kill()
        self.process.wait()


@functools.cache
def launcher(mount: Mount | None) -> Launcher:
    """The fork server of this process."""
    return Launcher(mount)


def launch(mount: Mount | None, start: Start, output: int) -> Started:
    """Start a process by the fork server of this process, or by another if somebody has ended that.

    Raises:
        OSError: the process's surroundings could not be set up.
    """
    try:
        return launcher(mount).launch(start, output)
    except EOFError:
        launcher.cache_clear()
        return launcher(mount).launch(start, output)


class WarmParent:
    """The fork server of one script's trials; none before the first `warm`, and none where it would be of no use."""

    def __init__(self, mount: Mount | None) -> None:
        self.mount = mount
        self.launcher: Launcher | None = None
        self.modules: set[str] = set()
        self.tried = False
        self.lock = asyncio.Lock()

    async def warm(self, start: Start, code: Path) -> None:
        """Import what the first script, in the folder `code`, imports; later ones wait for that."""
        async with self.lock:
            possible = sys.platform == "linux" and os.environ.get(SWITCH) != "off"
            if self.tried or not possible or not is_plain_script(start):
                return
            self.tried = True
            modules = await asyncio.to_thread(installed_imports, code / start.words[1])
            if not modules:
                return
            own = {name: value for name, value in start.environment.items() if not name.startswith(OF_ONE_JOB)}
            self.launcher = Launcher(self.mount, modules, {**own, "PYTHONPATH": str(GUEST)})
            self.launcher.control.settimeout(WARMING_SECONDS)
            try:
                self.modules, threads = await asyncio.to_thread(received, self.launcher.control)
            except (OSError, EOFError):
                threads = 0
            if threads != 1:  # they do not survive a fork
                await self.close()

    def launch(self, start: Start, code: Path, output: int) -> Started | None:
        """Start a script; None: nothing was started, and it has to be done otherwise.

        Raises:
            OSError: the process's surroundings could not be set up.
        """
        if self.launcher is None or not is_plain_script(start) or own_names(code) & self.modules:
            return None
        with contextlib.suppress(EOFError):
            return self.launcher.launch(start._replace(is_forked=True), output)
        return None

    async def close(self) -> None:
        """End the server and what it has started."""
        if self.launcher:
            self.launcher.close()
            self.launcher = None


def is_plain_script(start: Start) -> bool:
    """Whether this is `python script.py ...` with nothing but its own folder in the way of imports."""
    is_script = start.words[0] == sys.executable and len(start.words) > 1 and start.words[1].endswith(".py")
    folders = {str(GUEST), f"{start.place.home}/.packages", start.place.folder}
    return is_script and set(start.environment["PYTHONPATH"].split(os.pathsep)) <= folders


def exit_code_from(talk: socket.socket) -> asyncio.Future[int]:
    """The exit code that a supervisor will tell, or the OSError of a program that cannot be executed."""
    loop = asyncio.get_running_loop()
    exited: asyncio.Future[int] = loop.create_future()

    def read() -> None:
        loop.remove_reader(talk)
        with talk:
            try:
                said = received(talk)
            except (OSError, EOFError):
                said = LOST
        if not exited.done():
            exited.set_exception(said) if isinstance(said, Exception) else exited.set_result(said)

    loop.add_reader(talk, read)
    return exited


def received(talk: socket.socket) -> Any:
    """The next message.

    Raises:
        OSError: none comes in time.
        EOFError: the other side has ended.
    """
    with talk.makefile("rb") as stream:
        return pickle.load(stream)
