"""Schedule expressions: what EventBridge Scheduler takes, what is said about others, and when schedules are due."""

import datetime
from zoneinfo import ZoneInfo

import pytest

from pipeline.config.schedule_expression import fault, next_times

UTC = datetime.UTC
AFTER = datetime.datetime(2026, 1, 30, 12, 0, tzinfo=UTC)  # a Friday
FIELDS = "minute, hour, day of the month, month, day of the week, year"


@pytest.mark.parametrize(
    "expression",
    [
        "rate(7 days)", "rate(1 hour)", "rate(90 minutes)", "cron(0 3 ? * SUN *)", "cron(0/15 * * * ? *)",
        "cron(0 8-17 ? JAN,jul MON-FRI 2026)", "cron(30 4 L * ? *)", "cron(0 0 15W * ? *)", "cron(0 0 ? * 6L *)",
        "cron(0 0 ? * FRI#2 2026-2030)", "at(2030-01-31T03:00:00)", "cron(0 0,12 1 */2 ? *)",
    ],
)  # fmt: skip
def test_an_acceptable_expression_has_no_fault(expression):
    assert fault(expression) is None


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("daily", "must be like rate(7 days), cron(0 3 ? * SUN *) or at(2030-01-31T03:00:00)"),
        ("rate 7 days", "must be like rate(7 days), cron(0 3 ? * SUN *) or at(2030-01-31T03:00:00)"),
        ("rate(0 days)", "must name a number from 1 and minutes, hours or days, as rate(7 days)"),
        ("rate(7 weeks)", "must name a number from 1 and minutes, hours or days, as rate(7 days)"),
        ("rate(1.5 hours)", "must name a number from 1 and minutes, hours or days, as rate(7 days)"),
        ("cron(0 3 * * *)", f"must have the six fields {FIELDS}, as cron(0 3 ? * SUN *)"),
        ("cron(60 3 ? * SUN *)", "must have minute from 0 to 59 where it has '60'"),
        ("cron(0 24 ? * SUN *)", "must have hour from 0 to 23 where it has '24'"),
        ("cron(0 3 32 * ? *)", "must have day of the month from 1 to 31 where it has '32'"),
        ("cron(0 3 ? 13 SUN *)", "must have month from 1 to 12 where it has '13'"),
        ("cron(0 3 ? * 0 *)", "must have day of the week from 1 to 7 where it has '0'"),
        ("cron(0 3 ? * SUN 1969)", "must have year from 1970 to 2099 where it has '1969'"),
        ("cron(0 3 ? * SUN,XYZ *)", "must have day of the week from 1 to 7 where it has 'SUN,XYZ'"),
        ("cron(0/0 3 ? * SUN *)", "must have minute from 0 to 59 where it has '0/0'"),
        ("cron(0 3 * * * *)", "must have ? as exactly one of day of the month and day of the week"),
        ("cron(0 3 ? * ? *)", "must have ? as exactly one of day of the month and day of the week"),
        ("cron(? 3 * * ? *)", "must have minute from 0 to 59 where it has '?'"),
        ("at(2030-02-30T03:00:00)", "must name a date and time in UTC, as at(2030-01-31T03:00:00)"),
        ("at(2030-01-31)", "must name a date and time in UTC, as at(2030-01-31T03:00:00)"),
    ],
)
def test_a_fault_says_what_is_accepted(expression, text):
    assert fault(expression) == f"{text}, but got '{expression}'."


def test_a_moment_that_is_over_is_a_fault_once_the_time_is_known():
    now = datetime.datetime(2030, 1, 31, 3, 0, 0, tzinfo=datetime.UTC)
    expression = "at(2030-01-31T03:00:00)"
    assert fault(expression, now=now) == f"must name a moment in the future (UTC), but got '{expression}'."
    assert fault(expression, now=now - datetime.timedelta(seconds=1)) is None


@pytest.mark.parametrize(
    ("expression", "times"),
    [
        ("cron(0 3 ? * SUN *)", ["2026-02-01 03:00", "2026-02-08 03:00"]),
        ("cron(0 12 * * ? *)", ["2026-01-31 12:00", "2026-02-01 12:00"]),
        ("cron(15,45 12 * * ? *)", ["2026-01-30 12:15", "2026-01-30 12:45"]),
        ("cron(0/20 * * * ? *)", ["2026-01-30 12:20", "2026-01-30 12:40", "2026-01-30 13:00"]),
        ("cron(0 18 ? * MON-FRI *)", ["2026-01-30 18:00", "2026-02-02 18:00"]),
        ("cron(0 0 ? * FRI-MON *)", ["2026-01-31 00:00", "2026-02-01 00:00", "2026-02-02 00:00", "2026-02-06 00:00"]),
        ("cron(0 0 ? * 2/2 *)", ["2026-02-02 00:00", "2026-02-04 00:00", "2026-02-06 00:00", "2026-02-09 00:00"]),
        ("cron(0 0 L * ? *)", ["2026-01-31 00:00", "2026-02-28 00:00"]),
        ("cron(0 0 L 2 ? 2028)", ["2028-02-29 00:00"]),
        ("cron(0 0 LW * ? *)", ["2026-02-27 00:00", "2026-03-31 00:00"]),
        ("cron(0 0 1W * ? *)", ["2026-02-02 00:00", "2026-03-02 00:00", "2026-04-01 00:00"]),
        ("cron(0 0 15W 2-3 ? *)", ["2026-02-16 00:00", "2026-03-16 00:00"]),
        ("cron(0 0 31W * ? 2026)", ["2026-02-27 00:00", "2026-03-31 00:00"]),
        ("cron(0 0 ? * 6L *)", ["2026-02-27 00:00", "2026-03-27 00:00"]),
        ("cron(0 0 ? * FRIL *)", ["2026-02-27 00:00"]),
        ("cron(0 0 ? * 6#1 *)", ["2026-02-06 00:00", "2026-03-06 00:00"]),
        ("cron(0 0 ? * FRI#5 *)", ["2026-05-29 00:00", "2026-07-31 00:00"]),
        ("cron(0 0 ? * L *)", ["2026-01-31 00:00", "2026-02-07 00:00"]),
        ("cron(0 0 29 FEB ? *)", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("cron(0 0 30 2 ? *)", []),
        ("cron(0 0 1 1 ? 1999)", []),
        ("cron(0 0 1 1 ? 2024-2027)", ["2027-01-01 00:00"]),
        ("at(2026-01-30T12:00:01)", ["2026-01-30 12:00:01"]),
        ("at(2026-01-30T12:00:00)", []),
    ],
)  # fmt: skip
def test_the_next_times_are_those_of_the_calendar(expression, times):
    assert fault(expression) is None
    found = next_times(expression, after=AFTER, changed=AFTER, count=len(times) or 1)
    assert [time.isoformat(" ", "seconds").removesuffix("+00:00").removesuffix(":00") for time in found] == times


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("rate(7 days)", "2026-01-01T10:00:00", "2026-01-08T10:00:00"),
        ("rate(7 days)", "2026-01-08T10:00:00", "2026-01-15T10:00:00"),
        ("rate(7 days)", "2026-01-20T00:00:00", "2026-01-22T10:00:00"),
        ("rate(1 hour)", "2026-01-01T10:59:59", "2026-01-01T11:00:00"),
        ("rate(5 minutes)", "2026-01-01T10:05:01", "2026-01-01T10:10:00"),
    ],
)
def test_a_rate_counts_from_the_last_change(expression, after, expected):
    changed = datetime.datetime(2026, 1, 1, 10, tzinfo=UTC)
    moment = datetime.datetime.fromisoformat(after).replace(tzinfo=UTC)
    [found] = next_times(expression, after=moment, changed=changed)
    assert found == datetime.datetime.fromisoformat(expected).replace(tzinfo=UTC)


def test_cron_is_read_in_the_schedules_time_zone():
    berlin = ZoneInfo("Europe/Berlin")
    for expression in ("cron(0 3 1 FEB ? *)", "at(2026-02-01T03:00:00)"):
        [found] = next_times(expression, after=AFTER, changed=AFTER, timezone="Europe/Berlin")
        assert found == datetime.datetime(2026, 2, 1, 3, tzinfo=berlin)
        assert found.astimezone(UTC).hour == 2
