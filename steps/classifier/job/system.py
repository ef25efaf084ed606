"""What a job asks of its system: cores, threads, modules as processes, and files that others read at any moment."""

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from classifier.job.failures import say

QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")  # of a container: "<microseconds> <period>" or "max <period>"
AHEAD = 4  # items started or finished, per worker, before their results are taken
SECONDS_BETWEEN_LINES = 2.0

Item = TypeVar("Item")
Result = TypeVar("Result")


def core_count() -> int:
    """Return how many cores may be used: what the scheduler allows, and no more than a container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        limit, period = QUOTA_FILE.read_text().split()
        return max(1, min(allowed, math.ceil(int(limit) / int(period))))
    except (OSError, ValueError):
        return allowed


def each(work: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> Generator[Result]:
    """Yield `work(item)` of every item in order; unlike with `Executor.map`, few results are in memory at a time."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def progress(results: Iterable[Result], verb: str, total: int) -> Iterator[Result]:
    """Yield the results, and print `embedded 500/1797 images, 210 images/s`, every two seconds at most."""
    started = last_line = time.monotonic()
    for done, result in enumerate(results, 1):
        yield result
        if (now := time.monotonic()) - last_line >= SECONDS_BETWEEN_LINES:
            last_line = now
            say(f"{verb} {done}/{total} images, {done / (now - started):.0f} images/s")


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document as people can read it."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that appears under its name once it is complete; if writing fails, the old one stays."""
    unfinished = path.with_name(f".{path.name}.unfinished")  # one name, so that kills leave one such file at most
    try:
        with unfinished.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # so that it is complete after a power failure, too
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
