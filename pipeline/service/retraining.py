"""The loops that run schedules: of `schedule run`, which retrains, and of the studio, for every schedule of a home."""

import datetime
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.aws.schedule import Schedule, every
from pipeline.errors import PipelineError
from pipeline.service import executions
from pipeline.service.local_target import LocalTarget

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


def run_due(home: Path, stopped: threading.Event, *, say: Callable[[str], None]) -> None:
    """Start the pipelines of a home's schedules, each with its parameters, when they are due, until `stopped` is set.

    As on AWS nothing but the execution is started. Moments that pass while nobody runs schedules are left out, and
    nothing is done while another process runs them. `say` hears of each start, and why one failed.
    """
    from pipeline.local.engine.runner_process import taken_lock

    target = LocalTarget(None, home)
    target.state.client = "schedule"
    after = datetime.datetime.now(datetime.UTC)
    while not stopped.wait(LOOK_SECONDS):
        moment = datetime.datetime.now(datetime.UTC)
        try:
            with suppress(BlockingIOError), taken_lock(target.home / "locks" / "schedule"):
                for schedule in every(target.client):
                    if any(time <= moment for time in schedule.next_times(after)):
                        say(start_scheduled(target, schedule, moment))
        except (PipelineError, OSError) as problem:  # such as a disk that is full for a while
            say(f"Schedules could not be run: {problem}")
        after = moment


def start_scheduled(target: LocalTarget, schedule: Schedule, moment: datetime.datetime) -> str:
    """Start a schedule's pipeline; return a sentence on it, or on why that failed."""
    try:
        arn = executions.start(target, schedule.pipeline_arn.rpartition("/")[2], schedule.parameters)
        return f"The schedule {schedule.name} has started {arn}."
    except PipelineError as problem:
        return f"The schedule {schedule.name} could not start its pipeline: {problem}"
    finally:
        if schedule.is_deleted_after and not schedule.next_times(moment):
            target.client("scheduler").delete_schedule(Name=schedule.name)
