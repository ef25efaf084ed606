"""Schedule expressions as EventBridge Scheduler takes them: rate(...), cron(...) and at(...).

cron has six fields: minute, hour, day of the month, month, day of the week (Sunday is 1), year; one of the two days is
`?`. Source: EventBridge Scheduler user guide, "Schedule types". croniter, which finds the times, writes weekdays from 0
on, the last Friday `L5` instead of `6L`, and the last weekday of a month `31W` instead of `LW`.
"""

import datetime
import re
from collections.abc import Iterator
from itertools import count as numbers
from itertools import islice
from zoneinfo import ZoneInfo

ACCEPTED = "rate(7 days), cron(0 3 ? * SUN *) or at(2030-01-31T03:00:00)"
FORM = re.compile(r"(rate|cron|at)\((.*)\)")
RATE = re.compile(r"([1-9]\d{0,8}) (minute|hour|day)s?")
AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
FIELDS = {  # lowest, highest, and what is accepted besides values, ranges, steps and lists of those
    "minute": (0, 59, r"(?!)"),
    "hour": (0, 23, r"(?!)"),
    "day of the month": (1, 31, r"\?|L|LW|\d\d?W"),
    "month": (1, 12, r"(?!)"),
    "day of the week": (1, 7, r"\?|L|([1-7]|[A-Za-z]{3})(L|#[1-5])"),
    "year": (1970, 2099, r"(?!)"),
}
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
ITEM = re.compile(r"(\*|(\d{1,4}|[A-Za-z]{3})(-(\d{1,4}|[A-Za-z]{3}))?)(/[1-9]\d{0,3})?")


def fault(expression: str, *, now: datetime.datetime | None = None) -> str | None:
    """Return what is wrong with the expression, as the end of a sentence; None if Scheduler takes it.

    An at(...) must lie after `now`, if that is given (UTC).
    """
    form = FORM.fullmatch(expression)
    if form is None:
        return f"must be like {ACCEPTED}, but got '{expression}'."
    kind, inner = form.groups()
    problem = {"rate": rate_fault, "cron": cron_fault, "at": at_fault}[kind](inner)
    if problem is None and kind == "at" and now and moment(inner) <= now:
        problem = "must name a moment in the future (UTC)"
    return None if problem is None else f"{problem}, but got '{expression}'."


def rate_fault(inner: str) -> str | None:
    return None if RATE.fullmatch(inner) else "must name a number from 1 and minutes, hours or days, as rate(7 days)"


def cron_fault(inner: str) -> str | None:
    from croniter import croniter  # a tenth of a second

    written = inner.split()
    if len(written) != len(FIELDS):
        return f"must have the six fields {', '.join(FIELDS)}, as cron(0 3 ? * SUN *)"
    for index, (name, (lowest, highest, special)) in enumerate(FIELDS.items()):
        alone = ["0", "0", "*", "*", "*", "*"]
        alone[index] = text = written[index]
        is_formed = re.fullmatch(special, text) or all(ITEM.fullmatch(item) for item in text.split(","))
        in_range = all(lowest <= int(number) <= highest for number in re.findall(r"(?<![#/\d])\d+", text))
        if not (is_formed and in_range and croniter.is_valid(translated(alone))):
            return f"must have {name} from {lowest} to {highest} where it has '{text}'"
    if (written[2] == "?") == (written[4] == "?"):
        return "must have ? as exactly one of day of the month and day of the week"
    return None


def at_fault(inner: str) -> str | None:
    try:
        if AT.fullmatch(inner) and moment(inner):
            return None
    except ValueError:  # no such day, or no such time
        pass
    return "must name a date and time in UTC, as at(2030-01-31T03:00:00)"


def moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


def translated(fields: list[str]) -> str:
    """Return the six fields as croniter has them, with seconds, which it reads before the year."""
    minute, hour, day, month, weekday, year = (re.sub(r"^\?", "*", field.upper()) for field in fields)
    for number, name in enumerate(WEEKDAYS, 1):
        weekday = weekday.replace(name, str(number))
    weekday = re.sub(r"(?<![#/\d])\d", lambda number: str(int(number[0]) - 1), "7" if weekday == "L" else weekday)
    weekday = re.sub(r"(\d)L$", r"L\1", weekday)
    return f"{minute} {hour} {'31W' if day == 'LW' else day} {month} {weekday} 0 {year}"


def next_times(
    expression: str, *, after: datetime.datetime, changed: datetime.datetime, timezone: str = "UTC", count: int = 1
) -> list[datetime.datetime]:
    """Return the next moments after `after`, at most so many; none when all are over. The expression is valid.

    A rate counts from `changed`, when the schedule was last changed; cron and at are read in the time zone.
    """
    kind, inner = expression.rstrip(")").split("(")
    zone = ZoneInfo(timezone)
    if kind == "at":
        once = moment(inner).replace(tzinfo=zone)
        return [once] if once > after else []
    times = rate_times(inner, after, changed) if kind == "rate" else cron_times(inner, after.astimezone(zone))
    return list(islice(times, count))


def rate_times(inner: str, after: datetime.datetime, changed: datetime.datetime) -> Iterator[datetime.datetime]:
    number, unit = inner.rstrip("s").split()
    interval = datetime.timedelta(**{f"{unit}s": int(number)})
    return (changed + passed * interval for passed in numbers(max(0, (after - changed) // interval) + 1))


def cron_times(inner: str, after: datetime.datetime) -> Iterator[datetime.datetime]:
    from croniter import CroniterBadDateError, croniter

    times = croniter(translated(inner.split()), after, ret_type=datetime.datetime, max_years_between_matches=130)
    try:
        while True:
            yield times.get_next()
    except CroniterBadDateError:
        return
