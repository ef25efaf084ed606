"""The runner's end of the fork servers: one for every process of a runner, and one for the trials of a search.

The second has imported what the trials' script imports: that takes one to two seconds for torch, a fork some
milliseconds. Where a script cannot be forked or not safely so, it is executed and nobody notices: for commands other
than `python script.py`, with a PYTHONPATH of the job's own, when threads run after the imports, when the job's code has
a module named like one that is loaded already, on systems other than Linux, and with LOCAL_FORK=off.
"""

import ast
import asyncio
import contextlib
import functools
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.local.sandbox.environment import GUEST
from pipeline.local.sandbox.fork_server import Start
from pipeline.local.sandbox.namespaces import CLONE_NEWPID, Mount, Place

PARSING = threading.Lock()
PROGRAM = Path(__file__).with_name("fork_server.py")
SWITCH = "LOCAL_FORK"  # "off": execute every script
NEEDED = ("LD_LIBRARY_PATH",)  # of the user's variables, by the interpreter itself; jobs see no others in /proc
WARMING_SECONDS, ANSWER_SECONDS = 120.0, 20.0
LOST = -9  # the exit code of a supervisor that could not tell one
OF_ONE_JOB = ("SM_", "TRAINING_JOB_", "LOCAL_")  # variables that only the job's process is to see
READ_THEIR_JOB = (  # at import, from the environment, HOME among it: each job imports its own
    *("sagemaker", "smdebug", "smdistributed", "huggingface_hub", "timm", "transformers", "datasets", "diffusers"),
    *("accelerate", "peft", "sentence_transformers", "evaluate", "matplotlib", "seaborn", "mlflow"),
)


class Started(NamedTuple):
    """A process: its supervisor, which takes signals, and its exit code to come."""

    pid: int
    exited: asyncio.Future[int]


class Launcher:
    """One fork server. It ends with this process, and so does what it has started."""

    def __init__(self, modules: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self.control, theirs = socket.socketpair()
        options = [] if modules else ["-I", "-S"]
        with theirs, tempfile.TemporaryFile() as said:
            self.process = subprocess.Popen(
                [sys.executable, *options, str(PROGRAM), str(theirs.fileno()), ",".join(modules)],
                env=environment or {name: os.environ[name] for name in NEEDED if name in os.environ},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said if modules else None,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )

    def launch(self, start: Start, output: int) -> Started:
        """Start a process that writes to a file descriptor; this blocks for some milliseconds.

        Raises:
            OSError: the process's surroundings could not be set up.
            EOFError: the server has ended.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self.control, [b"f"], [theirs.fileno(), output])
            ours.settimeout(ANSWER_SECONDS)
            ours.sendall(pickle.dumps(tuple(start)))
            answer = receive(ours)
            if isinstance(answer, OSError):
                raise OSError(answer.errno, f"its surroundings could not be set up ({answer})")
            if self.process.poll() is not None:  # the supervisor may have begun too late to hear of that
                raise EOFError
            ours.sendall(b"g")
        except (OSError, EOFError) as problem:
            ours.close()
            if isinstance(problem, ConnectionError):
                raise EOFError from problem
            raise
        return Started(answer, exit_code_from(ours))

    def close(self) -> None:
        """End the server and what it has started."""
        self.control.close()
        self.process.kill()
        self.process.wait()


@functools.cache
def launcher() -> Launcher:
    """Return the fork server of this process."""
    return Launcher()


def launch(start: Start, output: int) -> Started:
    """Start a process by the fork server of this process, or by another if somebody has ended that.

    Raises:
        OSError: the process's surroundings could not be set up.
    """
    try:
        return launcher().launch(start, output)
    except EOFError:
        launcher.cache_clear()
        return launcher().launch(start, output)


def words_in(found: Mount, place: Place, words: Sequence[str]) -> list[str]:
    """Return what executes a program in a place, though with this machine's processes, and outlives this process."""
    for name in ("ml", "home", "tmp"):
        (place.job / name).mkdir(parents=True, exist_ok=True)
    flags = found.flags(place) & ~CLONE_NEWPID
    start = Start(words, {}, place.folder, flags, found.calls(place, with_proc=False))
    return [sys.executable, "-I", "-S", str(PROGRAM), "enter", pickle.dumps(tuple(start)).hex()]


class WarmParent:
    """The fork server of one script's trials; none before the first `warm`, and none where it would be of no use."""

    def __init__(self) -> None:
        self.launcher: Launcher | None = None
        self.modules: set[str] = set()
        self.tried = sys.platform != "linux" or os.environ.get(SWITCH) == "off"
        self.lock = asyncio.Lock()

    async def warm(self, start: Start, code: Path) -> None:
        """Import what the first script, in the folder `code`, imports; later ones wait for that."""
        async with self.lock:
            if self.tried or not is_plain_script(start):
                return
            self.tried = True
            modules = await asyncio.to_thread(installed_imports, code / start.words[1])
            if not modules:
                return
            own = {name: value for name, value in start.environment.items() if not name.startswith(OF_ONE_JOB)}
            self.launcher = Launcher(modules, {**own, "PYTHONPATH": str(GUEST)})
            self.launcher.control.settimeout(WARMING_SECONDS)
            try:
                self.modules, threads = await asyncio.to_thread(receive, self.launcher.control)
            except (OSError, EOFError):
                threads = 0
            if threads != 1 or "huggingface_hub" in self.modules:  # threads do not survive a fork, HOME is another
                self.close()

    def launch(self, start: Start, code: Path, output: int) -> Started | None:
        """Start a script; None: nothing was started, and it has to be done otherwise.

        Raises:
            OSError: the process's surroundings could not be set up.
        """
        own = {entry.name.partition(".")[0] for entry in code.iterdir()} if code.is_dir() else set()
        if self.launcher and is_plain_script(start) and not own & self.modules:
            with contextlib.suppress(EOFError):
                return self.launcher.launch(start._replace(is_forked=True), output)
        return None

    def close(self) -> None:
        """End the server and what it has started."""
        if self.launcher:
            self.launcher.close()
            self.launcher = None


def is_plain_script(start: Start) -> bool:
    """Return whether this is `python script.py ...` with nothing but its own folder in the way of imports."""
    is_script = start.words[0] == sys.executable and len(start.words) > 1 and start.words[1].endswith(".py")
    folders = {str(GUEST), start.environment["LOCAL_PACKAGES"], start.folder}
    return is_script and set(start.environment["PYTHONPATH"].split(os.pathsep)) <= folders


def parsed(code: str | bytes) -> ast.Module:
    """Parse Python, one after the other: Python 3.11.7 can fail with a SystemError when two threads do at once."""
    with PARSING:
        return ast.parse(code)


def installed_imports(script: Path) -> list[str]:
    """Return what a script imports at its top, by itself or by modules beside it: read, not run, in order.

    What stands in a function, an `if` or a `try` is not among them.
    """
    found: dict[str, None] = {}
    waiting = [script]
    for file in waiting:
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            for folder, name in imported_names(parsed(file.read_bytes()), file, script.parent):
                path = folder.joinpath(*name.split("."))
                places = [path, *list(path.parents)[: name.count(".")]]
                own = [own for place in places for own in (place.with_suffix(".py"), place / "__init__.py")]
                own = [own for own in own if own.is_file()]
                waiting.extend(own for own in own if own not in waiting)
                is_own = own or places[-1].is_dir() or folder != script.parent
                if not is_own and not name.startswith(READ_THEIR_JOB):
                    found[name] = None
    return list(found)


def imported_names(module: ast.Module, file: Path, top: Path) -> list[tuple[Path, str]]:
    """Return where each import of a module's top begins to look, and its dotted name."""
    names = []
    for node in module.body:
        if isinstance(node, ast.Import):
            names += [(top, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            folder = file.parents[node.level - 1] if node.level else top
            names += [(folder, name) for name in ([node.module] if node.module else [a.name for a in node.names])]
    return names


def exit_code_from(talk: socket.socket) -> asyncio.Future[int]:
    """Return the exit code that a supervisor will tell, or the OSError of a program that cannot be executed."""
    loop = asyncio.get_running_loop()
    exited: asyncio.Future[int] = loop.create_future()

    def read() -> None:
        loop.remove_reader(talk)
        with talk:
            try:
                said = receive(talk)
            except (OSError, EOFError):
                said = LOST
        if not exited.done():
            exited.set_exception(said) if isinstance(said, Exception) else exited.set_result(said)

    loop.add_reader(talk, read)
    return exited


def receive(talk: socket.socket) -> Any:
    """Return the next message.

    Raises:
        OSError: none comes in time.
        EOFError: the other side has ended.
    """
    with talk.makefile("rb") as stream:
        return pickle.load(stream)
