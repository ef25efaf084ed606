"""A worker as the server sees it: a process, the socket to it, and the jobs that it has."""

import asyncio
import itertools
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from classifier.job.programs import module_command, module_environment
from classifier.serving.board import Board, new_board_file
from classifier.serving.exchange import Client, Exchange
from classifier.serving.frames import FrameReader, Head, packed
from classifier.serving.worker_settings import WorkerSettings

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # of PyTorch's threads: where cores are shared, spinning takes 15 times as long
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),  # glibc's: large images go back to the system
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
    "MALLOC_ARENA_MAX": "2",  # threads share what they free
}
EXIT_SECONDS = 5.0
SLOW_SECONDS = 0.1  # a job that takes longer has nothing waiting behind it
SOCKET_BYTES = 1 << 20  # so that most requests are handed over at once

RECEIVED = memoryview(bytearray(64 * 1024))

_numbers = itertools.count(1)


@dataclass(eq=False)
class Job:
    """A prediction that somebody waits for."""

    exchange: Exchange
    head: Head  # for the worker
    done: Callable[[Head, bytes], None]  # given the worker's answer
    failed: Callable[[], None]  # the workers died on it
    attempts: int = 0
    queued: float = field(default_factory=time.perf_counter)
    dispatched: float = 0.0


class Owner(Protocol):
    """Who is told what becomes of a worker."""

    def worker_ready(self, worker: "WorkerProcess") -> None: ...

    def worker_free(self, worker: "WorkerProcess", job: Job | None) -> None: ...

    def worker_served(self, identifier: str, served: Head) -> None: ...

    def worker_lost(self, worker: "WorkerProcess") -> None: ...


class WorkerProcess(asyncio.BufferedProtocol):
    """One process; it takes up to `capacity` jobs at a time.

    One that takes a single job may be sent the next one ahead, so that it does not wait for the server in between. Or
    it is lent connections, from which it takes requests itself, and gets jobs besides, one at a time, in turn.
    """

    def __init__(self, owner: Owner, settings: WorkerSettings) -> None:
        self._owner = owner
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self.settings = settings
        self.capacity = 0  # until it is ready
        self.retired = False
        self.jobs: dict[int, Job] = {}
        self.lent: dict[int, Client] = {}
        self.heard = 0.0  # when it last said something
        self.reclaimed = False  # it is asked for what it was lent, and has not given all of it back
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        self._socket = ours
        with theirs, new_board_file() as board_file:
            settings = replace(self.settings, channel=theirs.fileno(), board=board_file.fileno())
            self._board = Board(settings.board)
            process = subprocess.Popen(
                [*module_command("classifier.serving.worker"), settings.to_argument()],
                stdin=subprocess.DEVNULL,
                pass_fds=(settings.channel, settings.lock, settings.board),
                start_new_session=True,  # a signal to the server's group lets the workers finish
                env=ENVIRONMENT | {"OMP_NUM_THREADS": str(settings.threads)} | module_environment(),
            )
        self._connecting = asyncio.ensure_future(asyncio.get_running_loop().create_connection(lambda: self, sock=ours))
        return process

    @property
    def is_ready(self) -> bool:
        return self.capacity > 0 and not self.retired

    @property
    def is_free(self) -> bool:
        return len(self.jobs) < self.capacity and not self.retired and not self.lent

    @property
    def ahead(self) -> Job | None:
        """The job that it has got, but not begun."""
        return next(reversed(self.jobs.values())) if len(self.jobs) > self.capacity > 0 else None

    def may_have_one_ahead(self, now: float) -> bool:
        """Whether it works at a single job, and not for long."""
        working = len(self.jobs) == self.capacity == 1 and not self.lent
        return working and not self.retired and not self.is_slow(now)

    @property
    def takes_turns(self) -> bool:
        """Whether it works at lent connections alone, and takes a job in turn with them."""
        return bool(self.lent) and not self.jobs and not self.retired

    def is_slow(self, now: float) -> bool:
        """Whether its job takes so long that another should not wait for it."""
        return any(job.dispatched < now - SLOW_SECONDS for job in self.jobs.values())

    def recall(self) -> Job:
        """Take back the job ahead."""
        assert self._transport is not None
        number, job = self.jobs.popitem()
        job.attempts -= 1
        self._transport.write(packed({"recalled": number}, 0))  # if it has begun meanwhile, its answer is dropped
        return job

    def send(self, job: Job, threads: int) -> None:
        """Give it a job."""
        assert self._transport is not None
        number = next(_numbers)
        job.dispatched = time.perf_counter()
        job.attempts += 1
        self.jobs[number] = job
        exchange = job.exchange
        head = packed({**job.head, "id": number, "threads": threads}, exchange.body_bytes)
        self._transport.writelines([head, *exchange.body])

    def lend(self, client: Client, threads: int) -> None:
        """Give it a connection, if that can be said at once; its requests are computed on so many threads."""
        assert self._transport is not None
        number = next(_numbers)
        message = packed({"lent": number, "threads": threads}, 0)
        if self._transport.get_write_buffer_size():
            return
        descriptor = client.lend()
        self.lent[number] = client
        try:
            sent = socket.send_fds(self._socket, [message], [descriptor])
        except OSError:
            self._returned([number])
        else:
            self._transport.write(message[sent:])

    def reclaim(self) -> None:
        """Ask for the connections that it was lent."""
        if self.lent and not self.reclaimed and self._transport:
            self.reclaimed = True
            self._transport.write(packed({"wanted_back": True}, 0))

    def _returned(self, numbers: list[int], unsent: bytes = b"") -> None:
        for number in numbers:
            self.lent.pop(number).take_back(unsent=unsent, attempted=False)
        self.reclaimed = self.reclaimed and bool(self.lent)

    def retire(self) -> None:
        """Let it finish what it has, and end."""
        self.retired = True
        self.reclaim()
        if not self.capacity:
            self.kill()  # it still loads
        elif self._transport and not self.jobs and not self.lent:
            self._transport.close()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, size_hint: int) -> memoryview:
        return RECEIVED  # of all workers, since what arrived is read before anything else happens

    def buffer_updated(self, count: int) -> None:
        self.heard = time.perf_counter()
        for head, body in self._reader.feed(RECEIVED[:count]):
            if "ready" in head:
                self.capacity = head["capacity"]
                self._owner.worker_ready(self)
                continue
            if "served" in head:
                for identifier, served in head["served"]:
                    self._owner.worker_served(identifier, served)
                continue
            job = None
            if "returned" in head:
                self._returned(head["returned"], body)
            else:
                job = self._answered(head, body)
            if self.retired:
                self.retire()
            self._owner.worker_free(self, job)

    def _answered(self, head: Head, body: bytes) -> Job | None:
        """The job that has its answer; none if it was taken back too late."""
        job = self.jobs.pop(head["id"], None)
        if self.capacity == 1 and self.jobs:
            next(iter(self.jobs.values())).dispatched = time.perf_counter()  # it is begun now
        if job:
            job.done(head, body)
        return job

    def connection_lost(self, exception: Exception | None) -> None:
        lent, self.lent = self.lent, {}
        for number, client in lent.items():
            if number == self._board.answering:
                client.abort()
            else:
                client.take_back(unsent=b"", attempted=number == self._board.begun)
        self._owner.worker_lost(self)

    async def ended(self) -> int:
        """Wait for the process; its exit status."""
        deadline = time.monotonic() + EXIT_SECONDS
        while (status := self.process.poll()) is None:
            if time.monotonic() > deadline:
                self.process.kill()
            await asyncio.sleep(0.01)
        return status
