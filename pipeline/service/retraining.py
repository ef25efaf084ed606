"""The loop of `schedule run`: waits for the moments at which a schedule starts the pipeline."""

import datetime
import time
from collections.abc import Callable, Iterator

from pipeline.aws.schedule import Schedule

LOOK_SECONDS = 5.0  # between two looks at the schedule, which another command may change


def due_times(
    read: Callable[[], Schedule],
    *,
    say: Callable[[datetime.datetime], None],
    now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[datetime.datetime]:
    """Yield each moment when it has come, until the schedule is switched off or has none left.

    The caller works before it asks for the next: moments that pass meanwhile, or while no loop runs, are left out.
    `say` hears each moment that is waited for.
    """
    after, told = now(), None
    while times := read().next_times(after):
        [moment] = times
        if moment != told:
            say(moment)
            told = moment
        left_seconds = (moment - now()).total_seconds()
        if left_seconds > 0:
            sleep(min(LOOK_SECONDS, left_seconds))
            continue
        yield moment
        after = now()
