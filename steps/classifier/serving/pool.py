"""One queue and a worker process for each core.

A job goes to the worker that has least to do, up to a few for each, so that none waits for the server between two.
Threads follow the load: a job that finds the machine idle goes to the first worker and takes all cores; one among
others takes one. A worker that dies is replaced, and its jobs are tried once more: a bad input costs nobody else one.
"""

import asyncio
import contextlib
import itertools
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from classifier.job.failures import say
from classifier.job.system import core_count, module_command, module_environment
from classifier.model.runtime_choice import chosen_runtimes
from classifier.model.runtimes import AUTO
from classifier.serving.content import Head
from classifier.serving.settings import Settings

ATTEMPTS = 2
JOB_SECONDS = 60.0  # SageMaker's limit for one invocation
REST_SECONDS = 1.0  # before a worker that died while it loaded is replaced
MAX_THREADS = 16  # of one request: more help no network of this size
SOCKET_BYTES = 1 << 20  # so that most requests are handed over at once
GPU = "cuda"  # one worker serves it
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # of PyTorch's threads: where cores are shared, spinning takes 15 times as long
    "MALLOC_MMAP_MAX_": "65536",  # glibc's: large images go back to the system, unlike in a training
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
    "MALLOC_ARENA_MAX": "2",  # threads share what they free
}
Answer = tuple[Head, bytes]


class Lost(Exception):
    """The workers died on a job, or its client left before its turn."""


@dataclass(eq=False)
class Job:
    """A request to the workers."""

    head: Head
    body: bytearray
    is_wanted: Callable[[], bool]  # whether the client is still there
    is_long: bool  # of many images, perhaps: nobody shall wait behind it
    answer: asyncio.Future[Answer]
    attempts: int = 0


class Worker:
    """A process, the socket to it, and the jobs that it has, in their order."""

    def __init__(self, runtime: str, threads: int, lock: int) -> None:
        self.threads, self.batch, self.capacity = threads, 1, 0  # until it is ready
        self.jobs: dict[int, Job] = {}
        self.began = 0.0  # with the first of them
        self._socket, theirs = socket.socketpair()
        for end in (self._socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        words = map(str, (theirs.fileno(), lock, runtime, threads))
        with theirs:
            self.process = subprocess.Popen(
                [*module_command("classifier.serving.worker"), *words],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), lock),
                start_new_session=True,  # a signal to the server's group lets the workers finish
                env=module_environment() | ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)},
            )

    @property
    def is_open(self) -> bool:
        """Whether it takes another job."""
        return len(self.jobs) < self.capacity and not any(job.is_long for job in self.jobs.values())

    def send(self, number: int, job: Job, threads: int) -> None:
        """Give it a job."""
        self.began = self.began if self.jobs else time.monotonic()
        self.jobs[number] = job
        head = {**job.head, "id": number, "threads": threads, "bytes": len(job.body)}
        self._writer.writelines([orjson.dumps(head) + b"\n", job.body])

    async def work(self, on_news: Callable[[], None]) -> int:
        """Pass on its answers until it ends; the exit status."""
        reader, self._writer = await asyncio.open_connection(sock=self._socket)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                head = orjson.loads(line)
                body = await reader.readexactly(head["bytes"])
                self.began = time.monotonic()
                if "ready" in head:
                    self.batch, self.capacity = head["batch"], head["capacity"]
                elif not (job := self.jobs.pop(head["id"])).answer.done():
                    job.answer.set_result((head, body))
                on_news()
        self._writer.close()
        return await asyncio.to_thread(self.process.wait)

    async def close(self) -> None:
        """End it, which has nothing left to do; it may still load."""
        self._writer.close() if self.capacity else self.process.kill()
        await asyncio.to_thread(self.process.wait)


class Pool:
    """The queue and the workers: the first is started alone, the others when it has shown that the model loads."""

    def __init__(self, settings: Settings, announcement: str) -> None:
        self._settings, self._announcement = settings, announcement
        self._lock_file = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the workers need it
        self._numbers, self._tasks = itertools.count(1), list[asyncio.Task[Any]]()
        self._is_closing, self.has_started = False, False
        self.on_restart: Callable[[], None] = lambda: None
        self.queue, self.workers, self.runtime, self.count = deque[Job](), list[Worker](), "", settings.workers

    @property
    def ready(self) -> int:
        """How many workers compute."""
        return sum(worker.capacity > 0 for worker in self.workers)

    @property
    def running(self) -> int:
        """Jobs that workers have."""
        return sum(len(worker.jobs) for worker in self.workers)

    @property
    def is_full(self) -> bool:
        """Whether as many jobs wait as may, beyond those that are computed."""
        return len(self.queue) + self.running >= self.count * self.workers[0].batch + self._settings.max_queued

    async def run(self) -> int:
        """Keep the workers alive; returns only if the model cannot be loaded: the exit status of who tried last."""
        self._tasks.append(asyncio.create_task(self._end_stuck()))
        automatic = self._settings.runtime == AUTO
        for name in chosen_runtimes(self._settings.model_dir) if automatic else [self._settings.runtime]:
            if self.runtime:
                say(f"The runtime {self.runtime} did not start: trying {name}")
            self.runtime, self.count = name, 1 if name == GPU else self._settings.workers
            self.workers = [self._worker(0)]
            status = await self._keep(0)
            if self._is_closing:
                return 0
        for job in self.queue:
            job.answer.set_exception(Lost())
        return status or 1

    def _worker(self, slot: int) -> Worker:
        threads = 1 if slot else min(core_count(), MAX_THREADS)
        return Worker(self.runtime, threads, self._lock_file.fileno())

    async def close(self) -> None:
        """End the workers, which have nothing left to do."""
        self._is_closing = True
        await asyncio.gather(*(worker.close() for worker in self.workers))
        for task in self._tasks:
            task.cancel()

    async def answer(self, head: Head, body: bytearray, is_wanted: Callable[[], bool], *, is_long: bool) -> Answer:
        """A worker's; raises Lost if the workers died on the job, or its client left before its turn."""
        job = Job(head, body, is_wanted, is_long, asyncio.get_running_loop().create_future())
        self.queue.append(job)
        self._dispatch()
        return await job.answer

    def _dispatch(self) -> None:
        while self.queue and (takers := [worker for worker in self.workers if worker.is_open]):
            job = self.queue.popleft()
            if job.is_wanted():
                worker = min(takers, key=lambda taker: len(taker.jobs))
                is_alone = not self.queue and not self.running
                worker.send(next(self._numbers), job, worker.threads if is_alone else 1)
            else:
                job.answer.set_exception(Lost())

    def _on_news(self) -> None:
        """A worker is ready or has answered."""
        if not self.has_started:
            self.has_started = True
            say(f"{self._announcement} with {self.count} worker(s), runtime {self.runtime}")
            self.workers += [self._worker(slot) for slot in range(1, self.count)]
            self._tasks += [asyncio.create_task(self._keep(slot)) for slot in range(1, self.count)]
        self._dispatch()

    async def _keep(self, slot: int) -> int:
        """Replace a worker whenever it dies; returns if no worker has ever been ready, or all shall end."""
        while True:
            worker = self.workers[slot]
            status = await worker.work(self._on_news)
            if self._is_closing or not self.has_started:
                return status
            say(f"Worker {worker.process.pid} ended with status {status}: another takes its place")
            self.on_restart()
            rest_seconds = 0.0 if worker.capacity else REST_SECONDS
            jobs, worker.jobs, worker.capacity = list(worker.jobs.values()), {}, 0
            for job in jobs if worker.batch > 1 else jobs[:1]:  # what was computed may be the cause
                job.attempts += 1
            for job in reversed(jobs):
                self.queue.appendleft(job) if job.attempts < ATTEMPTS else job.answer.set_exception(Lost())
            self._dispatch()
            await asyncio.sleep(rest_seconds)
            self.workers[slot] = self._worker(slot)

    async def _end_stuck(self) -> None:
        """Kill workers that have been at one job for too long; another would be stuck at it, too."""
        while True:
            await asyncio.sleep(1.0)
            for worker in self.workers:
                if worker.jobs and time.monotonic() > worker.began + JOB_SECONDS:
                    say(f"Worker {worker.process.pid} has been at one request for {JOB_SECONDS:g} s: it is replaced")
                    next(iter(worker.jobs.values())).attempts = ATTEMPTS
                    worker.process.kill()
