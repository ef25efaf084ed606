"""How a runner starts processes: each by a supervisor of its own, and the trials of a search by one that is warm.

The warm one has imported what the trials' script imports: that takes one to two seconds for torch, a fork some
milliseconds. Where a script cannot be forked or not safely so, it is executed and nobody notices: for commands other
than `python script.py`, with a PYTHONPATH of the job's own, when threads run after the imports, when the job's code has
a module named like one that is loaded already, on systems other than Linux, and with LOCAL_FORK=off.
"""

import ast
import asyncio
import contextlib
import functools
import marshal
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any, NamedTuple

from pipeline.local.sandbox.environment import GUEST
from pipeline.local.sandbox.namespaces import Call, Mount, Place

PARSING = threading.Lock()
PROGRAM = Path(__file__).with_name("supervisor.py")
SWITCH = "LOCAL_FORK"  # "off": execute every script
NEEDED = ("LD_LIBRARY_PATH",)  # of the user's variables, by the interpreter itself; jobs see no others in /proc
WARMING_SECONDS = 120.0
OF_ONE_JOB = ("SM_", "TRAINING_JOB_", "LOCAL_")  # variables that only the job's process is to see
READ_THEIR_JOB = (  # at import, from the environment, HOME among it: each job imports its own
    *("sagemaker", "smdebug", "smdistributed", "huggingface_hub", "timm", "transformers", "datasets", "diffusers"),
    *("accelerate", "peft", "sentence_transformers", "evaluate", "matplotlib", "seaborn", "mlflow"),
)


class Start(NamedTuple):
    """What is to be started: words and variables as the process shall see them, and what makes its place."""

    words: list[str]
    environment: dict[str, str]
    folder: str
    flags: int
    calls: list[Call]
    is_forked: bool = False  # run as a script by a process whose modules are imported already


def start_in(mount: Mount | None, place: Place, words: list[str], environment: dict[str, str]) -> Start:
    """Return what is to be started in a place, whose directories are made if need be."""
    for name in ("ml", "home", "tmp"):
        (place.job / name).mkdir(parents=True, exist_ok=True)
    flags, calls = (mount.flags(place), mount.calls(place)) if mount else (0, [])
    return Start(words, environment, place.folder, flags, calls)


def supervisor(*words: str) -> dict[str, Any]:
    """Return the options of Popen for a supervisor with these arguments."""
    return {
        "args": [sys.executable, "-I", "-S", str(PROGRAM), *words],
        "env": {name: os.environ[name] for name in NEEDED if name in os.environ},
        "start_new_session": True,
    }


def written(start: Start) -> IO[bytes]:
    """Return a file that a supervisor reads what it is to start from."""
    given = tempfile.TemporaryFile()  # noqa: SIM115  which its reader keeps
    marshal.dump(tuple(start), given)
    given.seek(0)
    return given


class Forker:
    """A supervisor that forks one for each job: a fork takes a millisecond, the start of a Python twenty."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair()
        with theirs:
            handle = theirs.fileno()
            subprocess.Popen(**supervisor("jobs", str(handle)), stdin=subprocess.DEVNULL, pass_fds=[handle])

    def fork(self, start: Start, output: int, talk: int) -> bool:
        """Start the process by a supervisor of its own; False if the forker has been ended."""
        return sent(self.control, start, output, talk)


@functools.cache
def forker() -> Forker:
    """Return the one of this process, which ends with it."""
    return Forker()


def sent(control: socket.socket, start: Start, output: int, talk: int) -> bool:
    """Hand what is to be started to who forks it; False if somebody has ended that."""
    with contextlib.suppress(OSError), written(start) as given:
        socket.send_fds(control, [b"f"], [given.fileno(), output, talk])
        return True
    return False


class WarmParent:
    """What forks one script's trials; nothing before the first `fork`, and nothing where it would be of no use."""

    def __init__(self) -> None:
        self.server: subprocess.Popen[bytes] | None = None
        self.modules: set[str] = set()
        self.tried = sys.platform != "linux" or os.environ.get(SWITCH) == "off"
        self.lock = asyncio.Lock()

    async def fork(self, start: Start, code: Path, output: int, talk: int) -> bool:
        """Fork the process of a script in the folder `code`; False if that has to be done otherwise."""
        if not is_plain_script(start):
            return False
        async with self.lock:  # later ones wait for the first, for which the modules are imported
            if not self.tried:
                self.tried = True
                if modules := await asyncio.to_thread(installed_imports, code / start.words[1]):
                    await self.warm(modules, start.environment)
        own = {entry.name.partition(".")[0] for entry in code.iterdir()}
        if self.server is None or own & self.modules:
            return False
        return sent(self.control, start._replace(is_forked=True), output, talk)

    async def warm(self, modules: list[str], environment: dict[str, str]) -> None:
        """Import modules in a process to be forked."""
        own = {name: value for name, value in environment.items() if not name.startswith(OF_ONE_JOB)}
        self.control, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile() as said:
            self.server = subprocess.Popen(
                [sys.executable, str(PROGRAM), "warm", str(theirs.fileno()), ",".join(modules)],
                env={**own, "PYTHONPATH": str(GUEST)},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )
        self.control.settimeout(WARMING_SECONDS)
        try:
            with self.control.makefile("rb") as stream:
                self.modules, threads = await asyncio.to_thread(marshal.load, stream)
        except (OSError, EOFError):
            threads = 0
        if threads != 1 or "huggingface_hub" in self.modules:  # threads do not survive a fork, HOME is another
            self.close()

    def close(self) -> None:
        """End the process; what it has forked goes on."""
        if self.server:
            self.control.close()
            self.server.kill()
            self.server.wait()
            self.server = None


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
        try:
            body = parsed(file.read_bytes()).body
        except (OSError, SyntaxError, ValueError):
            continue
        for node in body:
            top, names = script.parent, []
            if isinstance(node, ast.ImportFrom):
                top = file.parents[node.level - 1] if node.level else top
                names = [node.module] if node.module else [alias.name for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                parts = name.split(".")
                places = [top.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)]
                own = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
                own = [file for file in own if file.is_file()]
                waiting.extend(file for file in own if file not in waiting)
                if not own and not places[0].is_dir() and top == script.parent and not name.startswith(READ_THEIR_JOB):
                    found[name] = None
    return list(found)
