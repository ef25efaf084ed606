"""Schedule expressions as EventBridge Scheduler takes them: rate(...), cron(...) and at(...), checked before sending.

cron has six fields: minute, hour, day of the month, month, day of the week, year (1970 to 2199); one of the two days is
`?`. at(...) and cron(...) are in UTC. Source: EventBridge Scheduler user guide, "Schedule types".
"""

import datetime
import re
from dataclasses import dataclass

MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
ACCEPTED = "rate(7 days), cron(0 3 ? * SUN *) or at(2030-01-31T03:00:00)"
FORM = re.compile(r"(rate|cron|at)\((.*)\)")
RATE = re.compile(r"([1-9]\d*) (minute|hour|day)s?")
AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


@dataclass(frozen=True)
class Field:
    """One field of a cron expression: its bounds, the names that stand for numbers, and its special forms."""

    name: str
    lowest: int
    highest: int
    names: tuple[str, ...] = ()
    special: str = r"(?!)"

    def number(self, text: str) -> int | None:
        """The number that a word of the field stands for, or None."""
        if text.upper() in self.names:
            return self.names.index(text.upper()) + self.lowest
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= 4 else None

    def holds(self, text: str) -> bool:
        """Whether the text is a value, a range, a step, or a list of those."""
        return bool(re.fullmatch(self.special, text)) or all(self.holds_item(item) for item in text.split(","))

    def holds_item(self, text: str) -> bool:
        """Whether the text is `*`, a value or a range, with or without a step."""
        start, slash, step = text.partition("/")
        if slash and not re.fullmatch(r"[1-9]\d{0,3}", step):
            return False
        if start == "*":
            return True
        first, dash, last = start.partition("-")
        numbers = [self.number(word) for word in ([first, last] if dash else [first])]
        return all(number is not None and self.lowest <= number <= self.highest for number in numbers)


FIELDS = (
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day of the month", 1, 31, special=r"\?|L|LW|([1-9]|[12]\d|3[01])W"),
    Field("month", 1, 12, MONTHS),
    Field("day of the week", 1, 7, WEEKDAYS, special=rf"\?|L|([1-7]|{'|'.join(WEEKDAYS)})(L|#[1-5])"),
    Field("year", 1970, 2199),
)


def fault(expression: str, *, now: datetime.datetime | None = None) -> str | None:
    """What is wrong with the expression, as the end of a sentence; None if Scheduler takes it.

    An at(...) must lie after `now`, if that is given (UTC).
    """
    form = FORM.fullmatch(expression)
    if form is None:
        return f"must be like {ACCEPTED}, but got '{expression}'."
    kind, inner = form.groups()
    checks = {"rate": rate_fault, "cron": cron_fault, "at": at_fault}
    text = checks[kind](inner) or (past_fault(inner, now) if kind == "at" and now else None)
    return None if text is None else f"{text}, but got '{expression}'."


def rate_fault(inner: str) -> str | None:
    """A number from 1 and a unit."""
    return None if RATE.fullmatch(inner) else "must name a number from 1 and minutes, hours or days, as rate(7 days)"


def cron_fault(inner: str) -> str | None:
    """The first field that is wrong, or the days if both or none is `?`."""
    written = inner.split()
    if len(written) != len(FIELDS):
        names = ", ".join(field.name for field in FIELDS)
        return f"must have the six fields {names}, as cron(0 3 ? * SUN *)"
    for field, text in zip(FIELDS, written, strict=True):
        if not field.holds(text):
            return f"must have {field.name} from {field.lowest} to {field.highest} where it has '{text}'"
    if (written[2] == "?") == (written[4] == "?"):
        return "must have ? as exactly one of day of the month and day of the week"
    return None


def at_fault(inner: str) -> str | None:
    """A date and a time that exist."""
    if AT.fullmatch(inner) and moment(inner):
        return None
    return "must name a date and time in UTC, as at(2030-01-31T03:00:00)"


def past_fault(inner: str, now: datetime.datetime) -> str | None:
    """A moment that is over."""
    found = moment(inner)
    return None if found is None or found > now else "must name a moment in the future (UTC)"


def moment(text: str) -> datetime.datetime | None:
    """The time, or None if the calendar has no such day or the clock no such time."""
    try:
        return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)
    except ValueError:
        return None
