"""Schedule expressions: what EventBridge Scheduler takes, and a sentence about what it does not."""

import datetime

import pytest

from pipeline.config.schedule_expression import fault

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
        ("cron(0 3 ? * SUN 1969)", "must have year from 1970 to 2199 where it has '1969'"),
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
