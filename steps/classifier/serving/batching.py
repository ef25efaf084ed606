"""Batches for a GPU: while it runs one, requests gather for the next; a request that finds it idle runs at once."""

import queue
import threading
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt

from classifier.model.runtimes import Runtime

Images = npt.NDArray[np.float32]  # (N, 3, H, W), normalised
Probabilities = npt.NDArray[np.float32]  # (N, C)
Waiting = tuple[Images, Future[Probabilities]]


class Batched:
    """A runtime that many threads may call; a single thread of its own runs the network."""

    def __init__(self, runtime: Runtime) -> None:
        self.batch, self.rounding = runtime.batch, runtime.rounding
        self._runtime = runtime
        self._waiting: queue.SimpleQueue[Waiting] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    @property
    def waiting(self) -> int:
        """Requests that the next batches will hold."""
        return self._waiting.qsize()

    def run(self, images: Images, threads: int) -> Probabilities:
        """Wait for the batch that holds these images, (N, 3, H, W); N is at most `batch`."""
        future: Future[Probabilities] = Future()
        self._waiting.put((images, future))
        return future.result()

    def _work(self) -> None:
        held: Waiting | None = None
        while True:
            batch = [held or self._waiting.get()]
            held = self._gather(batch)
            self._run(batch)

    def _gather(self, batch: list[Waiting]) -> Waiting | None:
        """Add what is waiting as long as it fits; what did not is the next batch's first."""
        count = len(batch[0][0])
        while not self._waiting.empty():
            item = self._waiting.get()
            count += len(item[0])
            if count > self.batch:
                return item
            batch.append(item)
        return None

    def _run(self, batch: list[Waiting]) -> None:
        try:
            rows = self._runtime.run(np.concatenate([images for images, _ in batch]), threads=1)
        except RuntimeError as error:  # of the device; each request fails, and the worker with it
            for _, future in batch:
                future.set_exception(error)
            return
        start = 0
        for images, future in batch:
            future.set_result(rows[start : start + len(images)])
            start += len(images)
