"""Runs one job's command as a process: its log on disk, its lines handed on, its end explained.

Standard output and standard error go to one log, as in CloudWatch. Stopping follows the service: SIGTERM to the whole
process group, SIGKILL after a grace period.
"""

import asyncio
import contextlib
import errno
import os
import posixpath
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import cast

from pipeline.errors import PipelineError
from pipeline.local.sandbox.environment import JOB_VARIABLE, SOCKET_VARIABLE, guest_environment
from pipeline.local.sandbox.namespaces import (
    CONTAINER_ROOT,
    Mount,
    localized,
    make_change_folders,
    prepare_child,
    remove_work_folders,
)
from pipeline.local.sandbox.orphans import end_orphans, open_namespace
from pipeline.local.sandbox.requests import SOCKET_NAME, answered_requests
from pipeline.local.sandbox.warm_parent import Start, WarmParent
from pipeline.local.store.answers import Api

TIMEOUT_GRACE_SECONDS = 120.0  # what SageMaker gives a job between SIGTERM and SIGKILL
STOP_GRACE_SECONDS = 30.0
CLOSING_SECONDS = 5.0  # how long the output of an ended job may stay open
LINE_LIMIT_BYTES = 65536  # a longer line is handed on in parts
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

    def last_lines(self, count: int) -> list[str]:
        """The end of the log."""
        if not self.log.is_file():
            return []
        with self.log.open("rb") as stream:
            stream.seek(max(0, self.log.stat().st_size - 16384))
            return stream.read().decode(errors="replace").splitlines()[-count:]


class JobProcess(asyncio.SubprocessProtocol):
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
        self.api = api
        self.parent = parent
        self.cause = "exited"
        self.pid: int | None = None
        self.namespace: int | None = None
        self.rest = b""

    async def run(self, timeout_seconds: float, on_line: Callable[[str], None]) -> Exit:
        """Start, hand on every line, wait for the end.

        Raises:
            ProgramError: there is no such program, or it cannot be executed.
            OSError: the machine could not start the process.
            asyncio.CancelledError: after the process has been ended.
        """
        loop = asyncio.get_running_loop()
        self.on_line = on_line
        self.exited: asyncio.Future[int] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        make_change_folders(self.job.tree, len(self.job.linked))
        try:
            async with contextlib.AsyncExitStack() as meanwhile:
                self.log = meanwhile.enter_context(self.job.log.open("ab", buffering=0))
                if self.api:
                    await meanwhile.enter_async_context(answered_requests(self.api, self.job.tree))
                await self.start(loop)
                if self.cause == "stopped":
                    self.stop()
                try:
                    code = await self.wait(timeout_seconds)
                finally:
                    self.transport.close()
        finally:
            if self.namespace is not None:
                os.close(self.namespace)
            remove_work_folders(self.job.tree, len(self.job.linked))
        if code == -signal.SIGKILL and self.cause == "exited":
            self.cause = "lost"
        return Exit(code, self.cause)

    async def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the process.

        Raises:
            ProgramError: there is no such program, or it cannot be executed.
            OSError: the machine could not start the process.
        """
        start = self.description()
        if self.parent:
            await self.parent.warm(start)
            if self.parent.fork(start, self):
                return
        try:
            await loop.subprocess_exec(
                lambda: self,
                *start.words,
                env=start.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=prepare_child(
                    self.job.tree, self.mount, start.folder, linked=self.job.linked, hosts=self.job.hosts
                ),
            )
        except subprocess.SubprocessError as problem:  # of what the child does before it becomes the program
            raise OSError(errno.EPERM, f"its /opt/ml could not be set up ({problem})") from problem
        except (OSError, ValueError) as problem:
            if isinstance(problem, OSError) and problem.errno not in UNUSABLE_PROGRAM:
                raise
            program, reason = self.command.arguments[0], getattr(problem, "strerror", problem)
            raise ProgramError(f"The program {program!r} could not be started: {reason}.") from problem

    def description(self) -> Start:
        """What is to be started."""
        (folder,) = self.localized([self.command.folder])
        is_inside = PurePosixPath(self.command.folder).is_relative_to(CONTAINER_ROOT)
        code = self.job.inside(self.command.folder) if is_inside else Path(folder)
        return Start(self.arguments(), self.environment(), folder, code, self.job.tree, self.job.linked, self.job.hosts)

    async def wait(self, timeout_seconds: float) -> int:
        """The exit code, once the output is read; ends the process when time is up or the task is cancelled."""
        try:
            async with asyncio.timeout(timeout_seconds):
                code = await asyncio.shield(self.exited)
        except TimeoutError:
            code = await self.end("timeout", TIMEOUT_GRACE_SECONDS)
        except asyncio.CancelledError:
            await self.end("stopped", STOP_GRACE_SECONDS)
            self.end_descendants()
            raise
        self.end_descendants()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_SECONDS):
                await asyncio.shield(self.closed)
        if self.rest:
            self.on_line(self.rest.decode(errors="replace"))
        return code

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process has been started."""
        self.transport = cast(asyncio.SubprocessTransport, transport)
        self.pid = self.transport.get_pid()
        self.namespace = open_namespace(self.pid) if self.mount and self.pid else None

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Copy output to the log and hand on whole lines."""
        self.log.write(data)
        lines = data.split(b"\n")
        lines[0] = self.rest + lines[0]
        self.rest = lines.pop()
        if len(self.rest) > LINE_LIMIT_BYTES:
            lines.append(self.rest)
            self.rest = b""
        for line in lines:
            self.on_line(line.decode(errors="replace"))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """The output has ended."""
        if not self.closed.done():
            self.closed.set_result(None)

    def process_exited(self) -> None:
        """The process itself has ended."""
        if not self.exited.done():
            self.exited.set_result(self.transport.get_returncode() or 0)

    def stop(self) -> None:
        """Ask the process to end, as soon as it runs; `run` then returns with the cause `stopped`."""
        if self.pid is None:
            self.cause = "stopped"
        elif not self.exited.done():
            self.cause = "stopped"
            self.signal(signal.SIGTERM)
            asyncio.get_running_loop().call_later(STOP_GRACE_SECONDS, self.kill_if_running)

    def kill_if_running(self) -> None:
        """SIGKILL, unless it has ended by itself."""
        if not self.exited.done():
            self.signal(signal.SIGKILL)

    async def end(self, cause: str, grace_seconds: float) -> int:
        """SIGTERM, then SIGKILL; the exit code."""
        self.cause = cause
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                return await asyncio.shield(self.exited)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.exited

    def end_descendants(self) -> None:
        """What the process has left running, in its group or out of it."""
        self.signal(signal.SIGKILL)
        assert self.pid
        end_orphans(self.pid, f"{JOB_VARIABLE}={self.job.name}", self.namespace)

    def signal(self, number: signal.Signals) -> None:
        """To the process and all that it started."""
        assert self.pid
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def arguments(self) -> list[str]:
        """The command's words; any image's Python means this one."""
        words = self.localized(self.command.arguments)
        return [sys.executable, *words[1:]] if PYTHON.fullmatch(words[0]) else words

    def environment(self) -> dict[str, str]:
        """What a container would have, under the job's own variables."""
        home = self.job.folder / "home"
        home.mkdir(exist_ok=True)
        answered = {SOCKET_VARIABLE: f"{CONTAINER_ROOT}/{SOCKET_NAME}"} if self.api else {}
        own = {**self.command.environment, **answered, JOB_VARIABLE: self.job.name}
        return guest_environment(dict(zip(own, self.localized(own.values()), strict=True)), home)

    def localized(self, texts: Iterable[str]) -> list[str]:
        """Texts as this process must see them: /opt/ml is rewritten when it cannot be mounted."""
        return list(texts) if self.mount else [localized(text, self.job.tree) for text in texts]
