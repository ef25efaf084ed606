"""When a schedule expression is due: the moments that EventBridge Scheduler would start at.

rate(...) counts from the moment at which the schedule was last changed; cron(...) and at(...) are read in the
schedule's time zone. The special forms of cron are those of the EventBridge Scheduler user guide, "Schedule types":
`L` the last day of the month, in the day of the week Saturday; `15W` the weekday next to the 15th, in the same month;
`LW` the last weekday; `6L` the last Friday; `6#2` the second Friday. Expressions are valid here (see
`pipeline.config.schedule_expression`).
"""

import calendar
import datetime
import re
from collections.abc import Iterator
from itertools import islice
from zoneinfo import ZoneInfo

from pipeline.config.schedule_expression import FIELDS, FORM, RATE, Field, moment

UNITS = {"minute": 60, "hour": 3600, "day": 86400}  # seconds
SATURDAY = 7  # in cron's count, in which Sunday is 1


def next_times(
    expression: str, *, after: datetime.datetime, changed: datetime.datetime, timezone: str = "UTC", count: int = 1
) -> list[datetime.datetime]:
    """The next moments after `after`, at most so many; none when all are over. `after` and `changed` are aware."""
    kind, inner = FORM.fullmatch(expression).groups()  # type: ignore[union-attr]  # it is valid
    found = {"rate": rate_times, "cron": cron_times, "at": at_times}[kind]
    return list(islice(found(inner, after, changed, ZoneInfo(timezone)), count))


def rate_times(
    inner: str, after: datetime.datetime, changed: datetime.datetime, zone: ZoneInfo
) -> Iterator[datetime.datetime]:
    """Every so many minutes, hours or days from the last change on."""
    number, unit = RATE.fullmatch(inner).groups()  # type: ignore[union-attr]
    interval = datetime.timedelta(seconds=int(number) * UNITS[unit])
    passed = max(0, (after - changed) // interval)
    while True:
        passed += 1
        yield changed + passed * interval


def at_times(
    inner: str, after: datetime.datetime, changed: datetime.datetime, zone: ZoneInfo
) -> Iterator[datetime.datetime]:
    """Once."""
    found = moment(inner)
    if found is not None and (once := found.replace(tzinfo=zone)) > after:
        yield once


def cron_times(
    inner: str, after: datetime.datetime, changed: datetime.datetime, zone: ZoneInfo
) -> Iterator[datetime.datetime]:
    """Day by day, those that the fields name."""
    minutes, hours, in_month, months, in_week, years = inner.split()
    hours_of_day = sorted(numbers(FIELDS[1], hours))
    minutes_of_hour = sorted(numbers(FIELDS[0], minutes))
    for year in sorted(number for number in numbers(FIELDS[5], years) if number >= after.astimezone(zone).year):
        for month in sorted(numbers(FIELDS[3], months)):
            for day in sorted(days(year, month, in_month, in_week)):
                for hour in hours_of_day:
                    for minute in minutes_of_hour:
                        found = datetime.datetime(year, month, day, hour, minute, tzinfo=zone)
                        if found > after:
                            yield found


def numbers(field: Field, text: str) -> set[int]:
    """The numbers that a field names; a range may go round the end, as FRI-MON."""
    return {number for item in text.split(",") for number in item_numbers(field, item)}


def item_numbers(field: Field, item: str) -> list[int]:
    """Of one item of a list: `*`, a value, or a range, each with or without a step."""
    start, slash, step = item.partition("/")
    first_word, dash, last_word = start.partition("-")
    first = field.lowest if start == "*" else number_of(field, first_word)
    last = number_of(field, last_word) if dash else field.highest if start == "*" or slash else first
    if last < first:
        last += field.highest - field.lowest + 1
    span = range(first, last + 1, int(step or 1))
    return [(number - field.lowest) % (field.highest - field.lowest + 1) + field.lowest for number in span]


def number_of(field: Field, word: str) -> int:
    """The number that a word stands for."""
    found = field.number(word)
    assert found is not None, word
    return found


def days(year: int, month: int, in_month: str, in_week: str) -> set[int]:
    """The days of a month that the two fields for days name, one of which is `?`."""
    length = calendar.monthrange(year, month)[1]
    if in_week != "?":
        return days_by_week(year, month, length, in_week)
    if in_month in ("L", "LW"):
        return {length if in_month == "L" else nearest_weekday(year, month, length, length)}
    if in_month.endswith("W"):
        return {nearest_weekday(year, month, int(in_month[:-1]), length)} if int(in_month[:-1]) <= length else set()
    return {day for day in numbers(FIELDS[2], in_month) if day <= length}


def days_by_week(year: int, month: int, length: int, text: str) -> set[int]:
    """The days that the field for the day of the week names."""
    match = re.fullmatch(r"(?P<day>\w+?)?(?P<form>L|#(?P<nth>\d))", text)
    wanted = {SATURDAY} if text == "L" else {number_of(FIELDS[4], match["day"])} if match else numbers(FIELDS[4], text)
    fitting = [day for day in range(1, length + 1) if weekday(year, month, day) in wanted]
    if match is None or text == "L":
        return set(fitting)
    return set(fitting[-1:] if match["form"] == "L" else fitting[int(match["nth"]) - 1 : int(match["nth"])])


def weekday(year: int, month: int, day: int) -> int:
    """As cron counts: Sunday is 1."""
    return (calendar.weekday(year, month, day) + 1) % 7 + 1


def nearest_weekday(year: int, month: int, day: int, length: int) -> int:
    """Monday to Friday, as near to the day as there is one in its month."""
    found = calendar.weekday(year, month, day)
    if found == calendar.SATURDAY:
        return day - 1 if day > 1 else day + 2
    if found == calendar.SUNDAY:
        return day + 1 if day < length else day - 2
    return day
