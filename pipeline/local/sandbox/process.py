"""Runs one job's command as a process: its log on disk, its lines handed on, its requests answered, its end explained.

Standard output and standard error go to one log, as in CloudWatch. Stopping follows the service: SIGTERM to the whole
process group, SIGKILL after two minutes.
"""

import asyncio
import contextlib
import marshal
import os
import posixpath
import re
import shutil
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from pipeline.errors import PipelineError
from pipeline.local.sandbox.environment import (
    JOB_VARIABLE,
    SOCKET_NAME,
    SOCKET_VARIABLE,
    answered_requests,
    guest_environment,
)
from pipeline.local.sandbox.launcher import WarmParent, forker, start_in
from pipeline.local.sandbox.namespaces import CONTAINER_ROOT, Mount, Place, localized, remove_work_folders
from pipeline.local.store.answers import Api

GRACE_SECONDS = 120.0  # what SageMaker gives a job between SIGTERM and SIGKILL
GRACE_VARIABLE = "LOCAL_STOP_GRACE_SECONDS"
CLOSING_SECONDS = 5.0  # how long the output of an ended job may stay open
READ_BYTES = 65536
LINE_LIMIT_BYTES = 65536  # a longer line is handed on in parts
LOG_LIMIT_BYTES = 8 * 2**30
LOG_END = b"\n[The log ends here: it has reached its limit of 8 GiB.]\n"
SHOWN_CHARACTERS = 900  # of a line of a log: less than a FailureReason has room for
PYTHON = re.compile(r"/.*/python[0-9.]*|python[0-9.]*")


class ProgramError(PipelineError):
    """A job's command cannot be started, whoever tries."""


@dataclass(frozen=True)
class Command:
    """What to run, in the container's own terms: paths below /opt/ml."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str


@dataclass(frozen=True)
class Exit:
    """How a process ended. `cause` is exited, timeout, stopped or lost (killed from outside)."""

    code: int
    cause: str


@dataclass
class JobDirectory:
    """`<home>/jobs/<job name>`: the job's /opt/ml as `ml`, and `log.txt`."""

    home: Path
    name: str
    folder: Path = field(init=False)
    linked: list[Path] = field(default_factory=list)  # directories of the tree whose files are links to S3 objects
    hosts: Path | None = None  # what the job sees as /etc/hosts; this machine's where it is None
    network: bool = True
    answered: bool = True  # whether its AWS requests are; not under EnableNetworkIsolation

    def __post_init__(self) -> None:
        self.folder = self.home / "jobs" / self.name
        self.tree.mkdir(parents=True, exist_ok=True)

    @property
    def tree(self) -> Path:
        """What the job sees as /opt/ml."""
        return self.folder / "ml"

    @property
    def log(self) -> Path:
        """Standard output and standard error."""
        return self.folder / "log.txt"

    def inside(self, path: str) -> Path:
        """Return where a path lies on this machine; ValueError if it is not below /opt/ml."""
        return self.tree / Path(posixpath.normpath(path)).relative_to(CONTAINER_ROOT)

    def left(self, path: str) -> Path:
        """Return where what the job has left lies; PipelineError for a link, which may lead to a file of the user's."""
        found = self.inside(path)
        if found.resolve() != self.tree.resolve() / found.relative_to(self.tree):
            raise PipelineError(f"{path} is a link; only what lies there itself is collected.")
        return found

    def message(self, path: str, limit_bytes: int) -> str:
        """Return the beginning of a file that the job has left; empty if there is none, or only a link or a pipe."""
        try:
            handle = os.open(self.left(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (OSError, PipelineError):
            return ""
        with os.fdopen(handle, "rb") as stream:
            return stream.read(limit_bytes).decode(errors="replace") if stat.S_ISREG(os.fstat(handle).st_mode) else ""

    def last_lines(self, count: int) -> list[str]:
        """The end of the log."""
        return last_lines(self.log, count)

    @contextlib.contextmanager
    def surroundings(self, folder: str) -> Iterator[Place]:
        """Yield what the job finds, which but for the tree and the log is there only while it runs."""
        home, tmp = self.folder / "home", self.folder / "tmp"
        for own in (self.home / "packages", home / ".packages", tmp):
            own.mkdir(parents=True, exist_ok=True)
        tmp.chmod(0o1777)
        try:
            yield Place(folder, self.folder, self.linked, self.hosts, network=self.network)
        finally:
            remove_work_folders(self.folder)
            for own in (home, tmp):  # for which nobody has to wait
                asyncio.get_running_loop().run_in_executor(None, shutil.rmtree, own, True)


@dataclass
class JobProcess:
    """One running process. What it leaves running behind it is ended with it, as a container is.

    While it runs, `api` answers its AWS requests. A parent, if there is one, forks the process where it can; that shows
    in nothing but time.
    """

    job: JobDirectory
    command: Command
    mount: Mount | None
    api: Api | None = None
    parent: WarmParent | None = None
    cause: str = field(default="exited", init=False)
    talk: asyncio.StreamWriter | None = field(default=None, init=False)  # to the supervisor, once there is one

    def __post_init__(self) -> None:
        self.api = self.api if self.job.answered else None

    async def run(self, timeout_seconds: float, on_line: Callable[[str], None]) -> Exit:
        """Start, hand on every line, wait for the end, also when the task is cancelled.

        Raises:
            ProgramError: there is no such program, or it cannot be executed.
            OSError: the machine could not start the process.
        """
        async with contextlib.AsyncExitStack() as meanwhile:
            place = meanwhile.enter_context(self.job.surroundings(*self.localized([self.command.folder])))
            if self.api:
                packages = self.job.home / "packages"
                await meanwhile.enter_async_context(answered_requests(self.api, self.job.tree, packages))
            output = await meanwhile.enter_async_context(copied_output(self.job.log, on_line))
            ours, theirs = socket.socketpair()
            meanwhile.callback(ours.close)  # upon which the supervisor ends what still runs
            with theirs, output:
                await self.start(place, output.fileno(), theirs.fileno())
            reader, self.talk = await asyncio.open_connection(sock=ours)
            meanwhile.callback(self.talk.close)
            if self.cause == "stopped":
                self.stop()
            ended = await self.wait(asyncio.create_task(message(reader)), timeout_seconds)
            while await message(reader):  # until its supervisor has ended
                pass
        return ended

    async def start(self, place: Place, output: int, talk: int) -> None:
        """Have the process forked: as a script by a parent that is warm, or else as a program."""
        start = start_in(self.mount, place, self.arguments(), self.environment(place.job / "home"))
        if self.parent:
            is_inside = PurePosixPath(self.command.folder).is_relative_to(CONTAINER_ROOT)
            code = self.job.inside(self.command.folder) if is_inside else Path(self.command.folder)
            if await self.parent.fork(start, code, output, talk):
                return
        if not forker().fork(start, output, talk):  # somebody has ended it
            forker.cache_clear()
            forker().fork(start, output, talk)

    async def wait(self, said: asyncio.Task[bytes], timeout_seconds: float) -> Exit:
        """Return how the process has ended; end it when time is up or the task is cancelled."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await asyncio.shield(said)
        except TimeoutError:
            self.stop("timeout")
        except asyncio.CancelledError:
            self.stop()
            await said
            raise
        ended = marshal.loads(found) if (found := await said) else -signal.SIGKILL
        if isinstance(ended, int):
            return Exit(ended, "lost" if ended == -signal.SIGKILL and self.cause == "exited" else self.cause)
        kind, number, text = ended
        if kind == "program":
            raise ProgramError(f"The program {self.command.arguments[0]!r} could not be started: {text}.")
        raise OSError(number, text)

    def stop(self, cause: str = "stopped") -> None:
        """Ask the process to end, as soon as it runs; `run` then returns with that cause."""
        self.cause = cause
        if self.talk:
            self.signal(signal.SIGTERM)
            asyncio.get_running_loop().call_later(grace_seconds(), self.signal, signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, and all of its group, by its supervisor."""
        if self.talk and not self.talk.is_closing():
            self.talk.write(bytes([number]))

    def arguments(self) -> list[str]:
        """Return the command's words; any image's Python means this one."""
        words = self.localized(self.command.arguments)
        return [sys.executable, *words[1:]] if PYTHON.fullmatch(words[0]) else words

    def environment(self, home: Path) -> dict[str, str]:
        """Return what a container would have, under the job's own variables."""
        answered = {SOCKET_VARIABLE: f"{CONTAINER_ROOT}/{SOCKET_NAME}"} if self.api else {}
        own = {**self.command.environment, **answered, JOB_VARIABLE: str(self.job.folder.resolve())}
        store = self.job.home / "packages"
        return guest_environment(dict(zip(own, self.localized(own.values()), strict=True)), home, store)

    def localized(self, texts: Iterable[str]) -> list[str]:
        """Return texts as this process must see them: /opt/ml is rewritten when it cannot be mounted."""
        return list(texts) if self.mount else [localized(text, self.job.tree) for text in texts]


async def message(reader: asyncio.StreamReader) -> bytes:
    """Return what a supervisor says, which comes in one piece; nothing if somebody has killed it."""
    with contextlib.suppress(ConnectionError):
        return await reader.read(READ_BYTES)
    return b""


@contextlib.asynccontextmanager
async def copied_output(log: Path, on_line: Callable[[str], None]) -> AsyncIterator[IO[bytes]]:
    """Yield what the process is to write to, and is to be closed here; copy that to the log, hand on its lines."""
    output, end = os.pipe()
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(output, "rb", buffering=0)
    )
    copying = asyncio.create_task(copy_lines(stream, log, on_line))
    try:
        yield os.fdopen(end, "wb", buffering=0)
    finally:
        await asyncio.wait([copying], timeout=CLOSING_SECONDS)
        copying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await copying
        transport.close()


async def copy_lines(stream: asyncio.StreamReader, log: Path, on_line: Callable[[str], None]) -> None:
    """Copy a stream to a log until its end, and hand on whole lines."""
    rest = b""
    try:
        with log.open("ab", buffering=0) as file:
            while data := await stream.read(READ_BYTES):
                written = file.tell()
                if written < LOG_LIMIT_BYTES:
                    with contextlib.suppress(OSError):  # a full disk is told by what writes after the job
                        file.write(data if written + len(data) < LOG_LIMIT_BYTES else data + LOG_END)
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > LINE_LIMIT_BYTES:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    on_line(line.decode(errors="replace"))
    finally:
        if rest:
            on_line(rest.decode(errors="replace"))


def grace_seconds() -> float:
    """Return how long a job may take to end when it is asked to."""
    return float(os.environ.get(GRACE_VARIABLE, GRACE_SECONDS))


def last_lines(log: Path, count: int) -> list[str]:
    """Return the end of a log, whatever its size; of a long line, the end."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - READ_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []
    return [line if len(line) <= SHOWN_CHARACTERS else f"... {line[-SHOWN_CHARACTERS:]}" for line in lines]
