"""The loop of `schedule run`, by a clock that does not wait."""

import datetime
from collections.abc import Iterator

from pipeline.aws.schedule import OFF, ON, Schedule
from pipeline.service.retraining import LOOK_SECONDS, due_times

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
MINUTE = datetime.timedelta(minutes=1)


class Hands:
    """A clock whose hands are moved by sleeping."""

    def __init__(self) -> None:
        self.time = START
        self.slept: list[float] = []

    def now(self) -> datetime.datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += datetime.timedelta(seconds=seconds)


def schedule(expression: str, state: str = ON, changed: datetime.datetime = START) -> Schedule:
    return Schedule("retrain", expression, "UTC", state, changed)


def minutes(times: list[datetime.datetime]) -> list[float]:
    return [(time - START) / MINUTE for time in times]


def test_each_time_comes_when_it_is_due_and_is_announced_once():
    clock, said = Hands(), []
    due = due_times(lambda: schedule("rate(1 minute)"), say=said.append, now=clock.now, sleep=clock.sleep)
    found = []
    for _ in range(3):
        found.append(next(due))
        assert clock.time == found[-1]
    assert minutes(found) == [1, 2, 3]
    assert said == found
    assert max(clock.slept) == LOOK_SECONDS


def test_times_that_pass_while_a_run_runs_are_left_out():
    clock = Hands()
    due = due_times(lambda: schedule("rate(1 minute)"), say=lambda time: None, now=clock.now, sleep=clock.sleep)
    first = next(due)
    clock.time += 150 * datetime.timedelta(seconds=1)
    assert minutes([first, next(due)]) == [1, 4]


def test_what_another_command_sets_counts_from_then_on():
    clock = Hands()
    changed = START + datetime.timedelta(minutes=30)

    def read() -> Schedule:
        is_changed = clock.time >= changed
        return schedule("cron(10,40 * * * ? *)", changed=changed) if is_changed else schedule("rate(1 hour)")

    assert minutes([next(due_times(read, say=lambda time: None, now=clock.now, sleep=clock.sleep))]) == [40]


def test_it_ends_when_the_schedule_is_off_or_has_no_time_left():
    def all_of(read) -> list[datetime.datetime]:
        clock = Hands()
        due: Iterator[datetime.datetime] = due_times(read, say=lambda time: None, now=clock.now, sleep=clock.sleep)
        return list(due)

    assert minutes(all_of(lambda: schedule("at(2026-01-01T00:02:00)"))) == [2]
    assert all_of(lambda: schedule("rate(1 minute)", OFF)) == []
