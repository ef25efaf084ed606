"""A parent for the scripts of one step: it has imported their heavy modules and forks, so that each starts in no time.

Importing torch takes one to two seconds, a fork some milliseconds. Where a fork is not possible or not safe, a script
is started the ordinary way and nobody notices: on systems other than Linux, where the runner does not adopt orphans,
for commands other than `python script.py`, with a PYTHONPATH of the job's own, when threads run after the imports, when
the job's code has a module named like one that is loaded already, and with LOCAL_FORK=off.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.local.sandbox.environment import GUEST, JOB_VARIABLE
from pipeline.local.sandbox.fork_server import BOOT
from pipeline.local.sandbox.namespaces import Mount, adopts_orphans, die_with
from pipeline.local.sandbox.script_imports import installed_imports, own_names

SWITCH = "LOCAL_FORK"  # "off": start every script afresh
WARMING_SECONDS = 120.0
ANSWER_SECONDS = 10.0  # from a request to the forked process's answer
READ_BYTES = 65536
OF_ONE_JOB = ("SM_", "TRAINING_JOB_")  # variables that only the forked process is to see
ROOM = {"WARM_PARENT_ROOM": "." * 256}  # which the forked process overwrites with its job's name


@dataclass(frozen=True)
class Start:
    """What is to be started: words and variables as the process shall see them, paths of the job on this machine."""

    words: Sequence[str]  # the interpreter, the script, its arguments
    environment: Mapping[str, str]
    folder: str  # working directory, as the process sees it
    code: Path  # the same, as this process sees it
    tree: Path
    linked: Sequence[Path]
    hosts: Path | None = None

    @property
    def is_plain_script(self) -> bool:
        """Whether this is `python script.py ...` with nothing but its own folder in the way of imports."""
        is_script = self.words[0] == sys.executable and len(self.words) > 1 and self.words[1].endswith(".py")
        return is_script and set(self.environment.get("PYTHONPATH", self.folder).split(os.pathsep)) <= {
            str(GUEST),
            self.folder,
        }


class WarmParent:
    """One process that forks; none before the first `warm`, and none where it would be of no use."""

    def __init__(self, mount: Mount | None) -> None:
        self.mount = mount
        self.control: socket.socket | None = None
        self.process: asyncio.subprocess.Process | None = None
        self.modules: set[str] = set()
        self.tried = False
        self.lock = asyncio.Lock()

    async def warm(self, start: Start) -> None:
        """Import what the first script imports; later ones wait for that."""
        async with self.lock:
            possible = sys.platform == "linux" and adopts_orphans() and os.environ.get(SWITCH) != "off"
            if self.tried or not possible or not start.is_plain_script:
                return
            self.tried = True
            modules = await asyncio.to_thread(installed_imports, start.code / start.words[1])
            try:
                async with asyncio.timeout(WARMING_SECONDS):
                    await self.launch(modules, start.environment)
            except (OSError, TimeoutError, ValueError):
                await self.close()

    async def launch(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the process and wait until it is ready.

        Raises:
            OSError: it could not be started.
            ValueError: it ended, or runs threads.
        """
        self.control, theirs = socket.socketpair()
        own = {n: v for n, v in environment.items() if not n.startswith(OF_ONE_JOB) and n != JOB_VARIABLE}
        own["PYTHONPATH"] = str(GUEST)
        stage = str(self.mount.stage) if self.mount else ""
        package = str(Path(__file__).parents[2])
        with theirs, tempfile.TemporaryFile() as said:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", BOOT, package, str(theirs.fileno()), json.dumps(modules), stage),
                env={**own, **ROOM},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
                preexec_fn=partial(die_with, os.getpid()),
            )
        ready = json.loads(await self.first_line())
        if ready["threads"] != 1:
            raise ValueError("threads do not survive a fork")
        self.modules = set(ready["modules"])
        self.control.settimeout(ANSWER_SECONDS)

    async def first_line(self) -> bytes:
        """What the process says when it is ready; empty when it has ended."""
        assert self.control
        self.control.setblocking(False)
        text = b""
        while not text.endswith(b"\n"):
            received = await asyncio.get_running_loop().sock_recv(self.control, READ_BYTES)
            if not received:
                break
            text += received
        return text

    def fork(self, start: Start, protocol: asyncio.SubprocessProtocol) -> bool:
        """Start a script and connect the protocol to it; False: nothing was started, and it has to be done otherwise.

        It blocks for some milliseconds, as starting any process does.

        Raises:
            OSError: the process's surroundings could not be set up.
        """
        if self.control is None or not start.is_plain_script or own_names(start.code) & self.modules:
            return False
        ours, theirs = socket.socketpair()
        output, end = os.pipe()
        with ours:
            try:
                with theirs:
                    socket.send_fds(self.control, [b"f"], [theirs.fileno(), end])
                ours.settimeout(ANSWER_SECONDS)
                answer = converse(ours, start)
            except (OSError, ValueError):  # the parent has died, or the machine is at its limits
                os.close(output)
                return False
            finally:
                os.close(end)
            if problem := answer.get("problem"):
                os.close(output)
                os.waitpid(answer["pid"], 0)
                raise OSError(f"its /opt/ml could not be set up ({problem})")
            ForkedTransport(protocol, answer["pid"], output)
            with contextlib.suppress(OSError):  # it has been killed meanwhile
                ours.sendall(b"go\n")
        return True

    async def close(self) -> None:
        """End the process; scripts that it has forked go on."""
        if self.control:
            self.control.close()
            self.control = None
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


def converse(ours: socket.socket, start: Start) -> dict[str, Any]:
    """Send the request; the forked process's answer.

    Raises:
        OSError: it does not answer.
        ValueError: it has ended.
    """
    request = {
        "words": start.words[1:],
        "environment": start.environment,
        "folder": start.folder,
        "tree": str(start.tree),
        "linked": [str(folder) for folder in start.linked],
        "hosts": str(start.hosts) if start.hosts else None,
    }
    ours.sendall(json.dumps(request).encode() + b"\n")
    with ours.makefile("rb") as lines:
        answer: dict[str, Any] = json.loads(lines.readline())
    return answer


class ForkedTransport(asyncio.SubprocessTransport):
    """A process that this one has not started but adopted, as asyncio has its own."""

    def __init__(self, protocol: asyncio.SubprocessProtocol, pid: int, output: int) -> None:
        super().__init__()
        self.protocol = protocol
        self.pid = pid
        self.output: int | None = output
        self.code: int | None = None
        self.loop = asyncio.get_running_loop()
        self.end: int | None = os.pidfd_open(pid)
        os.set_blocking(output, False)
        protocol.connection_made(self)
        self.loop.add_reader(output, self.read)
        self.loop.add_reader(self.end, self.ended)

    def read(self) -> None:
        """There is output, or its end."""
        assert self.output is not None
        data = os.read(self.output, READ_BYTES)
        if data:
            self.protocol.pipe_data_received(1, data)
        else:
            self.close_output()
            self.protocol.pipe_connection_lost(1, None)

    def ended(self) -> None:
        """The process has ended."""
        self.reap()
        self.protocol.process_exited()

    def reap(self) -> None:
        """Take its exit code; wait for it if need be."""
        if self.end is not None:
            self.loop.remove_reader(self.end)
            os.close(self.end)
            self.end = None
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close_output(self) -> None:
        """Read no more."""
        if self.output is not None:
            self.loop.remove_reader(self.output)
            os.close(self.output)
            self.output = None

    def get_pid(self) -> int:
        """The process id."""
        return self.pid

    def get_returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.code

    def close(self) -> None:
        """End it, if it still runs, and read no more."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.reap()
        self.close_output()
