"""Work done by threads, a little ahead of whoever takes the results, and a line now and then on how far it is."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from classifier.job.failures import say

AHEAD = 4  # items started or finished, per worker, before their results are taken
SECONDS_BETWEEN_LINES = 2.0

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    initializer: Callable[[], None] | None = None,
) -> Generator[Result]:
    """Yield `work(item)` of every item in order; unlike with `Executor.map`, few results are in memory at a time."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, initializer=initializer) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class Progress:
    """Prints `embedded 500/1797 images, 210 images/s`, every two seconds at most."""

    def __init__(self, verb: str, total: int) -> None:
        self.verb, self.total, self.done = verb, total, 0
        self.started = self.last_line = time.monotonic()

    def advance(self, images: int) -> None:
        """Count images that are done."""
        self.done += images
        now = time.monotonic()
        if now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            say(f"{self.verb} {self.done}/{self.total} images, {self.done / (now - self.started):.0f} images/s")
