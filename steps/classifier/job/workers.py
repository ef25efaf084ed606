"""Work done by threads, a little ahead of who takes the results."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AHEAD = 4  # items begun or finished, per worker, before their results are taken

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    initializer: Callable[[], None] | None = None,
) -> Generator[Result]:
    """`work(item)` of every item, in the items' order.

    Memory does not grow with their number. When one fails, or nobody wants more (close the generator to say so), what
    has begun is finished and no more is begun.
    """
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
