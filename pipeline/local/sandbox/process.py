"""Runs one job's command as a process: its log on disk, its lines handed on, its requests answered, its end explained.

Standard output and standard error go to one log, as in CloudWatch. Stopping follows the service: SIGTERM to the whole
process group, SIGKILL after two minutes.
"""

import asyncio
import contextlib
import errno
import os
import posixpath
import re
import shutil
import signal
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipeline.errors import PipelineError
from pipeline.local.sandbox.environment import JOB_VARIABLE, SOCKET_VARIABLE, guest_environment
from pipeline.local.sandbox.fork_server import END_NOW, Start
from pipeline.local.sandbox.launcher import Started, WarmParent, launch
from pipeline.local.sandbox.namespaces import CONTAINER_ROOT, Mount, Place, localized, remove_work_folders
from pipeline.local.sandbox.requests import SOCKET_NAME, answered_requests
from pipeline.local.store.answers import Api

GRACE_SECONDS = 120.0  # what SageMaker gives a job between SIGTERM and SIGKILL
GRACE_VARIABLE = "LOCAL_STOP_GRACE_SECONDS"
CLOSING_SECONDS = 5.0  # how long the output of an ended job may stay open
READ_BYTES = 65536
LINE_LIMIT_BYTES = 65536  # a longer line is handed on in parts
LOG_LIMIT_BYTES = 8 * 2**30
LOG_END = b"\n[The log ends here: it has reached its limit of 8 GiB.]\n"
SHOWN_CHARACTERS = 900  # of a line of a log: less than a FailureReason has room for
UNUSABLE_PROGRAM = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.ELOOP, errno.E2BIG, errno.EISDIR)
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
        """Where a path below /opt/ml lies on this machine.

        Raises:
            ValueError: the path is not below /opt/ml.
        """
        return self.tree / Path(posixpath.normpath(path)).relative_to(CONTAINER_ROOT)

    def left(self, path: str) -> Path:
        """Return where what the job has left at a path below /opt/ml lies.

        Raises:
            PipelineError: it is, or lies below, a link that the job has made: that may lead to a file of the user's.
        """
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
        store, home, tmp = self.home / "packages", self.folder / "home", self.folder / "tmp"
        for own in (store, home / ".packages", tmp):
            own.mkdir(parents=True, exist_ok=True)
        tmp.chmod(0o1777)
        try:
            yield Place(folder, self.folder, self.linked, self.hosts, network=self.network)
        finally:
            remove_work_folders(self.folder)
            try:
                for own in (home / ".packages", home, tmp):
                    own.rmdir()
            except OSError:  # there is more, for which nobody has to wait
                for own in (home, tmp):
                    asyncio.get_running_loop().run_in_executor(None, shutil.rmtree, own, True)


class JobProcess:
    """One running process. What it leaves running behind it is ended with it, as a container is.

    While it runs, `api` answers its AWS requests. A parent, if there is one, forks the process where it can; that shows
    in nothing but time.
    """

    def __init__(
        self,
        job: JobDirectory,
        command: Command,
        mount: Mount | None,
        *,
        api: Api | None = None,
        parent: WarmParent | None = None,
    ) -> None:
        self.job = job
        self.command = command
        self.mount = mount
        self.api = api if job.answered else None
        self.parent = parent
        self.cause = "exited"
        self.started: Started | None = None
        self.rest = b""

    async def run(self, timeout_seconds: float, on_line: Callable[[str], None]) -> Exit:
        """Start, hand on every line, wait for the end.

        Raises:
            ProgramError: there is no such program, or it cannot be executed.
            OSError: the machine could not start the process.
            asyncio.CancelledError: after the process has been ended.
        """
        self.on_line = on_line
        (folder,) = self.localized([self.command.folder])
        async with contextlib.AsyncExitStack() as meanwhile:
            place = meanwhile.enter_context(self.job.surroundings(folder))
            self.log = meanwhile.enter_context(self.job.log.open("ab", buffering=0))
            if self.api:
                packages = self.job.home / "packages"
                await meanwhile.enter_async_context(answered_requests(self.api, self.job.tree, packages))
            output = meanwhile.enter_context(self.read_output())
            try:
                self.started = await self.start(place, output)
            finally:
                os.close(output)
            if self.cause == "stopped":
                self.stop()
            code = await self.wait(self.started, timeout_seconds)
        if code == -signal.SIGKILL and self.cause == "exited":
            self.cause = "lost"
        return Exit(code, self.cause)

    async def start(self, place: Place, output: int) -> Started:
        """Start the process.

        Raises:
            OSError: the machine could not start the process.
        """
        start = Start(self.arguments(), self.environment(place.job / "home"), place.folder)
        if self.mount:
            start = start._replace(flags=self.mount.flags(place), calls=self.mount.calls(place))
        if self.parent:
            code = self.code_folder(place.folder)
            await self.parent.warm(start, code)
            if started := self.parent.launch(start, code, output):
                return started
        return launch(start, output)

    async def wait(self, started: Started, timeout_seconds: float) -> int:
        """The exit code, once the output is read; ends the process when time is up or the task is cancelled.

        Raises:
            ProgramError: the program cannot be executed.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                code = await asyncio.shield(started.exited)
        except TimeoutError:
            code = await self.end(started, "timeout")
        except (OSError, ValueError) as problem:
            if isinstance(problem, OSError) and problem.errno not in UNUSABLE_PROGRAM:
                raise
            program, reason = self.command.arguments[0], getattr(problem, "strerror", problem)
            raise ProgramError(f"The program {program!r} could not be started: {reason}.") from problem
        except asyncio.CancelledError:
            await self.end(started, "stopped")
            raise
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_SECONDS):
                await asyncio.shield(self.closed)
        if self.rest:
            self.on_line(self.rest.decode(errors="replace"))
        return code

    def stop(self) -> None:
        """Ask the process to end, as soon as it runs; `run` then returns with the cause `stopped`."""
        if self.started is None:
            self.cause = "stopped"
        elif not self.started.exited.done():
            self.cause = "stopped"
            self.signal(self.started, signal.SIGTERM)
            asyncio.get_running_loop().call_later(grace_seconds(), self.signal, self.started, END_NOW)

    async def end(self, started: Started, cause: str) -> int:
        """SIGTERM, then SIGKILL; the exit code."""
        self.cause = cause
        self.signal(started, signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds()):
                return await asyncio.shield(started.exited)
        except TimeoutError:
            self.signal(started, END_NOW)
            return await started.exited

    def signal(self, started: Started, number: signal.Signals) -> None:
        """To the supervisor, which passes it on to the process and all that it started."""
        if not started.exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(started.pid, number)

    @contextlib.contextmanager
    def read_output(self) -> Iterator[int]:
        """What the process is to write to: a file descriptor, which the caller closes once the process has it."""
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = loop.create_future()
        output, end = os.pipe()
        os.set_blocking(output, False)

        def read() -> None:
            if data := os.read(output, READ_BYTES):
                self.take(data)
            elif not self.closed.done():
                loop.remove_reader(output)
                self.closed.set_result(None)

        loop.add_reader(output, read)
        try:
            yield end
        finally:
            loop.remove_reader(output)
            os.close(output)

    def take(self, data: bytes) -> None:
        """Copy output to the log and hand on whole lines."""
        written = self.log.tell()
        if written < LOG_LIMIT_BYTES:
            self.log.write(data if written + len(data) < LOG_LIMIT_BYTES else data + LOG_END)
        lines = data.split(b"\n")
        lines[0] = self.rest + lines[0]
        self.rest = lines.pop()
        if len(self.rest) > LINE_LIMIT_BYTES:
            lines.append(self.rest)
            self.rest = b""
        for line in lines:
            self.on_line(line.decode(errors="replace"))

    def code_folder(self, folder: str) -> Path:
        """The working directory, as this process sees it."""
        is_inside = PurePosixPath(self.command.folder).is_relative_to(CONTAINER_ROOT)
        return self.job.inside(self.command.folder) if is_inside else Path(folder)

    def arguments(self) -> list[str]:
        """The command's words; any image's Python means this one."""
        words = self.localized(self.command.arguments)
        return [sys.executable, *words[1:]] if PYTHON.fullmatch(words[0]) else words

    def environment(self, home: Path) -> dict[str, str]:
        """What a container would have, under the job's own variables."""
        answered = {SOCKET_VARIABLE: f"{CONTAINER_ROOT}/{SOCKET_NAME}"} if self.api else {}
        own = {**self.command.environment, **answered, JOB_VARIABLE: self.job.name}
        store = self.job.home / "packages"
        return guest_environment(dict(zip(own, self.localized(own.values()), strict=True)), home, store)

    def localized(self, texts: Iterable[str]) -> list[str]:
        """Texts as this process must see them: /opt/ml is rewritten when it cannot be mounted."""
        return list(texts) if self.mount else [localized(text, self.job.tree) for text in texts]


def grace_seconds() -> float:
    """How long a job may take to end when it is asked to."""
    return float(os.environ.get(GRACE_VARIABLE, GRACE_SECONDS))


def last_lines(log: Path, count: int) -> list[str]:
    """The end of a log, whatever its size; of a long line, the end."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - READ_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []
    return [line if len(line) <= SHOWN_CHARACTERS else f"... {line[-SHOWN_CHARACTERS:]}" for line in lines]
