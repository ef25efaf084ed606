"""Who computes what, when: one queue, and a worker process for each core.

A job goes to the first free worker, in the order of arrival. Where the queue is long, a worker gets its next job while
it computes one; that is taken back when its turn would come sooner elsewhere. Threads follow the load: a job that finds
the machine idle goes to the first worker and takes all cores; one among others takes one. While there is work for
everybody, but no more than can be shared evenly, or for a single client, workers are lent the clients' connections, see
borrowed.py. A worker that dies is replaced, and its jobs are tried once more elsewhere; so one bad input costs nobody
else an answer.
"""

import asyncio
import tempfile
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace

from classifier.job.failures import say
from classifier.serving.exchange import Client, Exchange
from classifier.serving.frames import Head
from classifier.serving.worker_process import Job, WorkerProcess
from classifier.serving.worker_settings import WorkerSettings

ATTEMPTS = 2
REST_SECONDS = 1.0  # before a worker that died while it loaded is replaced
JOB_SECONDS = 60.0  # SageMaker's limit for one invocation
GPU = "cuda"  # one worker serves it
LEAST_TO_LEND, MOST_TO_LEND = 3, 16  # clients that have requests, for each worker


class Dispatcher:
    """The queue and the workers.

    Args:
        settings: Of every worker; `threads` is for the first.
        count: Workers.
    """

    def __init__(self, settings: WorkerSettings, count: int) -> None:
        self._lock_file = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the workers need it
        self._settings = replace(settings, lock=self._lock_file.fileno())
        self._count = count
        self._queue: deque[Job] = deque()
        self._slots: dict[int, WorkerProcess] = {}  # in their order
        self._starting: dict[WorkerProcess, asyncio.Future[bool]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_started = False
        self._closing = False
        self.lends = True  # whether workers may be lent connections
        self.on_served: Callable[[str, Head], None] = lambda identifier, served: None  # a worker answered by itself
        self.restarts = 0

    @property
    def runtime(self) -> str:
        return self._settings.runtime

    @property
    def workers(self) -> int:
        """How many are meant to run."""
        return 1 if self.runtime == GPU else self._count

    @property
    def is_ready(self) -> bool:
        """Whether a prediction would be computed now."""
        return self.ready > 0

    @property
    def ready(self) -> int:
        """Workers that compute."""
        return sum(worker.is_ready for worker in self._slots.values())

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Jobs that workers have."""
        return sum(len(worker.jobs) for worker in self._slots.values())

    @property
    def lent(self) -> int:
        """Connections that workers have."""
        return sum(len(worker.lent) for worker in self._slots.values())

    async def start(self, runtime: str) -> int:
        """Start the workers, the first alone: 0, or the exit status of a first worker that could not load the model."""
        self._settings = replace(self._settings, runtime=runtime)
        first = self._spawn(0)
        is_up = await self._starting[first]
        if not is_up:
            del self._slots[0]
            return await first.ended() or 1
        self._has_started = True
        for slot in range(1, self.workers):
            self._spawn(slot)
        return 0

    async def switch(self, runtime: str) -> bool:
        """Replace the workers, one by one, by workers with another runtime; whether the first of them came up."""
        settings = replace(self._settings, runtime=runtime)
        for slot in range(self._count):
            old, new = self._slots.get(slot), self._process(slot, settings)
            if not await self._starting[new]:
                if slot == 0:
                    return False
                continue  # the slot's own worker stays until it dies
            self._settings = settings
            self._slots[slot] = new
            if old:
                old.retire()
            self._dispatch()
        return True

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._queue.append(job)
        if self.lent and not self._suffice(self._clients()):
            self.reclaim()
        self._dispatch()

    def reclaim(self) -> None:
        """Ask for all connections that were lent."""
        for worker in self._slots.values():
            worker.reclaim()

    def _clients(self) -> int:
        """Those that have a request, or had one a moment ago."""
        return self.waiting + self.running + self.lent

    def _suffice(self, clients: int) -> bool:
        """Whether so many keep all workers busy, and no queue is needed."""
        return LEAST_TO_LEND * self.workers <= clients <= MOST_TO_LEND * self.workers

    def _lend(self, client: Client, worker: WorkerProcess) -> None:
        """Lend the client, which has just been answered, to the worker that did it, where that keeps the load even.

        It may also be the only one: then that worker is the first, and all cores are its own.
        """
        if not self.lends or not client.is_lendable:
            return
        if worker.capacity != 1 or worker.retired or worker.reclaimed:
            return
        if self._clients() == 0:
            if worker is self._slots.get(0):
                worker.lend(client, worker.settings.threads)
            return
        even = all(len(worker.lent) <= len(other.lent) for other in self._slots.values() if other.is_ready)
        if even and self._suffice(self._clients() + 1):
            worker.lend(client, 1)

    async def close(self) -> None:
        """End the workers, which have nothing left to do."""
        self._closing = True
        workers = {*self._slots.values(), *self._starting}
        for worker in workers:
            worker.retire()
        for worker in workers:
            await worker.ended()
        for task in self._tasks:
            task.cancel()
        self._lock_file.close()

    def withdraw(self, exchange: Exchange) -> None:
        """Nobody wants its answer any more: it is not computed unless it has been begun."""
        for worker in self._slots.values():
            if worker.ahead and worker.ahead.exchange is exchange:
                worker.recall()

    def end_stuck(self) -> None:
        """Kill workers that have been at one job for too long."""
        self._dispatch()  # where nothing arrives or is answered, nobody else looks for slow ones
        limit = time.perf_counter() - JOB_SECONDS
        for worker in self._slots.values():
            at_a_job = any(job.dispatched < limit for job in worker.jobs.values())
            if not at_a_job and not (worker.lent and worker.heard < limit):
                continue
            say(f"Worker {worker.process.pid} has been at one request for {JOB_SECONDS:g} s: it is replaced")
            for job in worker.jobs.values() if at_a_job else ():
                job.attempts = ATTEMPTS  # another worker would be stuck, too
            worker.kill()

    def _dispatch(self) -> None:
        self._recall()
        while self._queue and (worker := self._taker()):
            job = self._queue.popleft()
            if job.exchange.gone:  # the client left: nobody wants the answer
                continue
            alone = not self._queue and self._clients() == 0
            worker.send(job, worker.settings.threads if alone else 1)

    def _taker(self) -> WorkerProcess | None:
        """Who takes the next job: a free worker, or one that gets it ahead since others are waiting, too."""
        workers = self._slots.values()
        for worker in workers:
            if worker.is_free:
                return worker
        for worker in workers:
            if worker.takes_turns:
                return worker
        if len(self._queue) <= len(workers):
            return None
        now = time.perf_counter()
        return next((worker for worker in workers if worker.may_have_one_ahead(now)), None)

    def _recall(self) -> None:
        """Queue jobs again that would wait for a slow one, or while another worker has nothing to do."""
        ahead = [worker for worker in self._slots.values() if worker.ahead]
        several = [worker for worker in self._slots.values() if len(worker.lent) > 1]
        if not ahead and not several:
            return
        idle = not self._queue and any(worker.is_free for worker in self._slots.values())
        for worker in several if idle else ():
            worker.reclaim()
        now = time.perf_counter()
        self._queue.extendleft([worker.recall() for worker in ahead if idle or worker.is_slow(now)])

    # workers

    def _spawn(self, slot: int) -> WorkerProcess:
        worker = self._process(slot, self._settings)
        self._slots[slot] = worker
        return worker

    def _process(self, slot: int, settings: WorkerSettings) -> WorkerProcess:
        worker = WorkerProcess(self, settings if slot == 0 else replace(settings, threads=1))
        self._starting[worker] = asyncio.get_running_loop().create_future()
        return worker

    def worker_ready(self, worker: WorkerProcess) -> None:
        self._starting.pop(worker).set_result(True)
        self._dispatch()

    def worker_free(self, worker: WorkerProcess, job: Job | None) -> None:
        if job and job.exchange.client:
            self._lend(job.exchange.client, worker)
        self._dispatch()

    def worker_served(self, identifier: str, served: Head) -> None:
        self.on_served(identifier, served)

    def worker_lost(self, worker: WorkerProcess) -> None:
        """Try its jobs again, and replace it, unless it was meant to end."""
        started = self._starting.pop(worker, None)
        if started and not started.done():
            started.set_result(False)
        if ahead := worker.ahead:
            ahead.attempts -= 1  # it was not the cause
        jobs, worker.jobs, worker.capacity = list(worker.jobs.values()), {}, 0
        for job in reversed(jobs):
            if job.attempts < ATTEMPTS:
                self._queue.appendleft(job)
            else:
                job.failed()
        slot = next((slot for slot, known in self._slots.items() if known is worker), None)
        if slot is not None and self._has_started:
            self._later(self._replace(worker, slot, REST_SECONDS if started else 0.0))
        else:
            self._later(self._bury(worker))
        self._dispatch()

    async def _bury(self, worker: WorkerProcess) -> None:
        """Leave no zombie of a worker that was meant to end."""
        await worker.ended()

    async def _replace(self, worker: WorkerProcess, slot: int, rest_seconds: float) -> None:
        status = await worker.ended()
        if self._closing:
            return
        say(f"Worker {worker.process.pid} ended with status {status}: another takes its place")
        self.restarts += 1
        await asyncio.sleep(rest_seconds)
        if slot < self.workers and self._slots.get(slot) is worker and not self._closing:
            self._spawn(slot)

    def _later(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
