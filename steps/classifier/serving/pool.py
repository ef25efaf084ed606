"""One queue and a worker process for each core.

A job goes to the worker that has least to do; one that finds the machine idle to the first, where it takes all cores.
A worker that dies is replaced, and its jobs are tried once more: a bad input costs nobody else an answer.
"""

import asyncio
import contextlib
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import orjson

from classifier.job.failures import StepError, say
from classifier.job.system import core_count
from classifier.model.runtimes import AUTO, RUNTIMES, chosen_runtimes
from classifier.serving.content import LENGTHS, MEGABYTE, Head, Refusal, message
from watch.files import module_command, module_environment

AHEAD = 4  # jobs that a worker has at a time: the next is there when one is done, and for a GPU all are one batch
GPU, GPU_WORKERS = "cuda", 8  # at most, since each takes some of its memory
DIED = "The model's process ended on this request; the endpoint's log may say why."
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # of PyTorch's threads: where cores are shared, spinning takes 15 times as long
    "MALLOC_MMAP_MAX_": "65536",  # glibc's: large images go back to the system, unlike in a training
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
    "MALLOC_ARENA_MAX": "2",  # threads share what they free
}


class Settings:
    """The endpoint's environment variables, or what a SageMaker container has; raises StepError for a wrong one."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        def number(name: str, default: float, most: float = 1e6) -> float:
            text = environment.get(name) or str(default)
            try:
                value = float(text)
            except ValueError:
                value = -1.0
            if not 0 <= value <= most:
                raise StepError(f"Environment variable {name} must be a number from 0 to {most:g}, but got {text}.")
            return value

        self.model_dir = Path(environment.get("SM_MODEL_DIR") or "/opt/ml/model")  # model.tar.gz, unpacked
        self.host = environment.get("BIND_HOST") or "0.0.0.0"
        self.port = int(number("SAGEMAKER_BIND_TO_PORT", 8080, 65535))
        self.max_body_bytes = int(number("MAX_REQUEST_MEGABYTES", 6) * MEGABYTE)  # a larger body is answered 413
        self.max_pixels = int(number("MAX_IMAGE_MEGAPIXELS", 100) * 1_000_000)  # so is a larger image
        self.min_precision = number("MIN_PRECISION", 0, 0.9999)  # of confident answers; 0: none is called so
        self.idle_seconds = number("ENDPOINT_IDLE_SECONDS", 0, inf) or inf  # without an invocation, then it ends
        self.workers = max(1, int(number("SAGEMAKER_MODEL_SERVER_WORKERS", core_count())))  # processes
        self.max_queued = int(number("MAX_QUEUED_REQUESTS", 128))  # beyond those computed: one more is answered 503
        self.runtime, known = environment.get("INFERENCE_RUNTIME") or AUTO, ", ".join((AUTO, *RUNTIMES))
        if self.runtime not in (AUTO, *RUNTIMES):
            raise StepError(f"Environment variable INFERENCE_RUNTIME must be {known}, but got {self.runtime}.")


@dataclass(eq=False)
class Job:
    """A request to the workers."""

    head: Head
    body: bytearray
    is_long: bool  # of many images, perhaps: nobody shall wait behind it
    answer: asyncio.Future[tuple[Head, bytes]] = field(default_factory=asyncio.Future)
    was_lost: bool = False  # with a worker that died on it


class Worker:
    """A process, which another replaces when it dies."""

    def __init__(self, threads: int) -> None:
        self.threads, self.is_ready = threads, False
        self.jobs = deque[Job]()  # that it has, in their order
        self.writer: asyncio.StreamWriter

    @property
    def places(self) -> int:
        """How many more jobs it takes."""
        return AHEAD - len(self.jobs) if self.is_ready and not any(job.is_long for job in self.jobs) else 0

    def start(self, settings: Settings, runtime: str) -> tuple["subprocess.Popen[bytes]", socket.socket]:
        """Start the process; what is sent to it goes through the socket."""
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = map(str, (theirs.fileno(), settings.model_dir, runtime, self.threads, settings.max_pixels))
            command = [*module_command("classifier.serving.worker"), *arguments]
            environment = module_environment() | ENVIRONMENT | {"OMP_NUM_THREADS": str(self.threads)}
            # In a session of its own, so that a signal to the server's group lets it finish.
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True, env=environment)
        return process, ours


class Pool:
    """The queue and the workers: the first is started alone, the others when it has shown that the model loads."""

    def __init__(self, settings: Settings, announcement: str) -> None:
        self._settings, self._announcement = settings, announcement
        self.queue, self.workers, self.runtime, self.has_started = deque[Job](), list[Worker](), "", False
        self.on_restart: Callable[[], None] = lambda: None

    @property
    def running(self) -> int:
        """How many jobs workers have."""
        return sum(len(worker.jobs) for worker in self.workers)

    @property
    def is_full(self) -> bool:
        """Whether as many jobs wait as may, beyond those that are computed."""
        return len(self.queue) + self.running >= len(self.workers) + self._settings.max_queued

    async def run(self) -> int:
        """Keep the workers alive until cancelled; returns only if none starts: the exit status of who tried last."""
        settings, cores = self._settings, min(core_count(), 16)  # more threads help no network of this size
        async with asyncio.TaskGroup() as self._tasks:
            for name in chosen_runtimes(settings.model_dir) if settings.runtime == AUTO else [settings.runtime]:
                if self.runtime:
                    say(f"The runtime {self.runtime} did not start: trying {name}")
                self.runtime, count = name, min(settings.workers, GPU_WORKERS if name == GPU else settings.workers)
                self.workers = [Worker(1 if number else cores) for number in range(count)]
                status = await self._keep(self.workers[0])
        for job in self.queue:
            job.answer.set_exception(Refusal(500, DIED))
        return status or 1

    def put(self, job: Job) -> None:
        """Queue a job; its answer is a Refusal if workers died on it."""
        self.queue.append(job)
        self._dispatch()

    def _dispatch(self) -> None:
        """Give jobs to workers, whenever there is another job, answer or worker."""
        while self.queue and (worker := max(self.workers, key=lambda one: one.places)).places > 0:
            is_alone = len(self.queue) == 1 and not self.running
            worker.jobs.append(job := self.queue.popleft())
            worker.writer.write(message(job.head | {"threads": worker.threads if is_alone else 1}, job.body))

    def _take(self, worker: Worker, head: Head, body: bytes) -> None:
        """A worker says that it is ready, or answers."""
        if "ready" in head:
            worker.is_ready = True
        elif not (job := worker.jobs.popleft()).answer.done():
            job.answer.set_result((head, body))
        if not self.has_started:
            self.has_started = True
            say(f"{self._announcement} with {len(self.workers)} worker(s), runtime {self.runtime}")
            for other in self.workers[1:]:
                self._tasks.create_task(self._keep(other))
        self._dispatch()

    async def _keep(self, worker: Worker) -> int:
        """Start it, and again whenever it dies; returns the exit status if no worker has ever been ready."""
        while True:
            process, channel = worker.start(self._settings, self.runtime)
            try:
                reader, worker.writer = await asyncio.open_connection(sock=channel)
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    while True:
                        lengths = LENGTHS.unpack(await reader.readexactly(LENGTHS.size))
                        head, body = [await reader.readexactly(length) for length in lengths]
                        self._take(worker, orjson.loads(head), body)
                worker.writer.close()
                status = await asyncio.to_thread(process.wait)
            finally:
                process.kill()  # if this task is cancelled
            if not self.has_started:
                return status
            say(f"A worker ended with status {status}: another takes its place")
            self.on_restart()
            rest_seconds, worker.is_ready = 0.0 if worker.is_ready else 1.0, False  # loading fails again
            if worker.jobs and worker.jobs[0].was_lost:  # twice, so what was computed may be the cause
                worker.jobs.popleft().answer.set_exception(Refusal(500, DIED))
            elif worker.jobs:
                worker.jobs[0].was_lost = True
            self.queue.extendleft(reversed(worker.jobs))
            worker.jobs.clear()
            self._dispatch()
            await asyncio.sleep(rest_seconds)
