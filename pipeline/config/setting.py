"""What one setting of pipeline.yaml accepts, and how a section of settings is read.

A reader is a function from a `Value` to the typed value; it raises `Unacceptable` with every fault it finds.
`whole_number`, `number`, `text`, `choice` ... make readers of single values, `section` one of a dataclass whose fields
are `setting`s or sections in turn, and whose `rules` relate them. A setting that the file leaves out takes the default
that stands in its dataclass, and nowhere else.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, NoReturn, TypeVar

from pipeline.config.yaml_lines import Value, join
from pipeline.suggestion import did_you_mean

T = TypeVar("T")
Read = Callable[[Value], T]
REQUIRED: Any = MISSING
BOUNDS: dict[str, Callable[[float, float], bool]] = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
}


@dataclass(frozen=True)
class Fault:
    """One mistake: the setting's path and the rest of the sentence about it."""

    line: int
    path: str
    text: str

    def below(self, name: str) -> "Fault":
        """The same fault, seen from the section above."""
        return Fault(self.line, join(name, self.path), self.text)


class Unacceptable(Exception):
    """Every fault of a value."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(*faults)
        self.faults = faults


@contextmanager
def collecting(faults: list[Fault], name: str = "") -> Iterator[None]:
    """Adds the faults met inside, seen from the section above, to the list."""
    try:
        yield
    except Unacceptable as error:
        faults += [fault.below(name) for fault in error.faults]


@dataclass(frozen=True)
class Rule:
    """A relation between settings: `fault` is given their values and returns what is wrong, or None.

    A name may lead into a section below, as `vpc.subnet_ids`. The fault is reported at the first name. A rule is not
    asked when one of its settings is itself unacceptable.
    """

    names: tuple[str, ...]
    fault: Callable[..., str | None]
    at_section: bool = False


def setting(default: T, read: Read[T]) -> T:
    """A dataclass field with its default and its reader."""
    if default is MISSING:
        return field(metadata={"read": read})  # type: ignore[no-any-return]
    return field(default_factory=lambda: default, metadata={"read": read})


def refuse(value: Value, text: str) -> NoReturn:
    """Raises Unacceptable for the value itself."""
    raise Unacceptable(Fault(value.line, "", text))


def section(cls: type[T]) -> Read[T]:
    """A reader of a mapping whose keys are the dataclass's fields; nothing at all is a section of defaults."""
    rules: tuple[Rule, ...] = getattr(cls, "rules", ())
    known: dict[str, Field[Any]] = {item.name: item for item in fields(cls)}  # type: ignore[arg-type]

    def read(value: Value) -> T:
        members = mapping(value)
        faults = [unknown_key(name, member, known) for name, member in members.items() if name not in known]
        settings = {}
        for name, item in known.items():
            with collecting(faults, name):
                settings[name] = read_member(item, members.get(name), value.line)
        faults += broken_rules(rules, settings, members, value.line)
        if faults:
            raise Unacceptable(*faults)
        return cls(**settings)

    return read


def mapping(value: Value) -> dict[str, Value]:
    """The members of a mapping; none when nothing is written."""
    if value.data is None:
        return {}
    if not isinstance(value.data, dict):
        refuse(value, f"must be a mapping of settings, but got {value}.")
    return value.data


def unknown_key(name: str, member: Value, known: dict[str, Any]) -> Fault:
    """The fault of a key that the section does not have."""
    hint = did_you_mean(name, known) or f" Known here: {', '.join(known)}."
    return Fault(member.key_line, name, f"is not a known setting.{hint}")


def read_member(item: "Field[Any]", member: Value | None, line: int) -> Any:
    """A setting's value: the file's, else its default."""
    if member is not None:
        read = item.metadata.get("read") or section(item.default_factory)  # type: ignore[arg-type]
        return read(member)
    if item.default_factory is MISSING:
        raise Unacceptable(Fault(line, "", "is missing."))
    return item.default_factory()


def broken_rules(
    rules: tuple[Rule, ...], settings: dict[str, Any], members: dict[str, Value], line: int
) -> list[Fault]:
    """The faults of the rules whose settings are all acceptable."""
    faults = []
    for rule in rules:
        if not settings.keys() >= {name.partition(".")[0] for name in rule.names}:
            continue
        text = rule.fault(*(found_below(settings, name) for name in rule.names))
        if text and rule.at_section:
            faults.append(Fault(line, "", text))
        elif text:
            faults.append(Fault(line_below(members, rule.names[0], line), rule.names[0], text))
    return faults


def found_below(settings: dict[str, Any], name: str) -> Any:
    """The value of a setting, of this section or of one below."""
    first, _, rest = name.partition(".")
    return operator.attrgetter(rest)(settings[first]) if rest else settings[first]


def line_below(members: dict[str, Value], name: str, line: int) -> int:
    """Where a setting stands, as near as the file states it."""
    first, _, rest = name.partition(".")
    if first not in members:
        return line
    member = members[first]
    return line_below(member.data or {}, rest, member.line) if rest else member.line


def number(**bounds: float) -> Read[float]:
    """A number within bounds: at_least, above, at_most, below."""
    return bounded(finite_number, bounds)


def whole_number(**bounds: int) -> Read[int]:
    """An integer within bounds: at_least, above, at_most, below."""
    return bounded(integer, bounds)


def bounded(read: Read[Any], bounds: dict[str, Any]) -> Read[Any]:
    """A reader that also compares with the bounds."""
    accepted = " and ".join(f"{name.replace('_', ' ')} {limit}" for name, limit in bounds.items())

    def read_bounded(value: Value) -> Any:
        found = read(value)
        if not all(BOUNDS[name](found, limit) for name, limit in bounds.items()):
            refuse(value, f"must be {accepted}, but got {value}.")
        return found

    return read_bounded


def finite_number(value: Value) -> float:
    """An integer or a float, but neither infinity nor NaN."""
    if isinstance(value.data, bool) or not isinstance(value.data, int | float) or not math.isfinite(value.data):
        refuse(value, f"must be a number, but got {value}{quotes_remedy(value)}.")
    return float(value.data)


def integer(value: Value) -> int:
    """An integer; 32.0 is none."""
    if isinstance(value.data, bool) or not isinstance(value.data, int):
        refuse(value, f"must be a whole number, but got {value}{quotes_remedy(value)}.")
    return value.data


def quotes_remedy(value: Value) -> str:
    """What to do about a number in quotes."""
    is_number = value.quoted and re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", value.text)
    return ", which is text; remove the quotes" if is_number else ""


def boolean(value: Value) -> bool:
    """True or false, in any of YAML's spellings."""
    if not isinstance(value.data, bool):
        refuse(value, f"must be true or false, but got {value}.")
    return value.data


def text(pattern: str, accepted: str, *, longest: int = 1024) -> Read[str]:
    """Text that matches the pattern as a whole; `accepted` says in words what does."""
    compiled = re.compile(pattern)

    def read(value: Value) -> str:
        if not isinstance(value.data, str):
            is_plain = isinstance(value.data, int | float) and str(value) == value.text
            refuse(value, f"must be text, but got {value}{'; write it in quotes' if is_plain else ''}.")
        if len(value.data) > longest:
            refuse(value, f"must be at most {longest} characters long, but has {len(value.data)}.")
        if not compiled.fullmatch(value.data):
            refuse(value, f"must be {accepted}, but got {value}.")
        return value.data

    return read


def choice(*accepted: str) -> Read[str]:
    """One of a few words; a word that YAML takes for a boolean, such as Off, is read as it is written."""
    listed = listing(accepted)

    def read(value: Value) -> str:
        if value.text in accepted:
            return value.text
        refuse(value, f"must be {listed}, but got {value}.{did_you_mean(value.text, accepted)}")

    return read


def list_of(read: Read[T], *, at_most: int) -> Read[tuple[T, ...]]:
    """A list, each item read by the other reader; it may be empty."""

    def read_list(value: Value) -> tuple[T, ...]:
        if not isinstance(value.data, list):
            refuse(value, f"must be a list, but got {value}.")
        if len(value.data) > at_most:
            refuse(value, f"must hold at most {at_most} items, but holds {len(value.data)}.")
        faults: list[Fault] = []
        found: list[T] = []
        for index, item in enumerate(value.data):
            with collecting(faults, f"[{index}]"):
                found.append(read(item))
        if faults:
            raise Unacceptable(*faults)
        return tuple(found)

    return read_list


def mapping_of(read_key: Read[str], read: Read[T], *, at_most: int = 1000) -> Read[dict[str, T]]:
    """A mapping whose keys the user chooses; both readers speak of its members."""

    def read_mapping(value: Value) -> dict[str, T]:
        members = mapping(value)
        if len(members) > at_most:
            refuse(value, f"must hold at most {at_most} members, but holds {len(members)}.")
        faults: list[Fault] = []
        found: dict[str, T] = {}
        for name, member in members.items():
            with collecting(faults):
                read_key(Value(name, member.key_line, name))
            with collecting(faults, name):
                found[name] = read(member)
        if faults:
            raise Unacceptable(*faults)
        return found

    return read_mapping


def auto_or(read: Read[T]) -> Read[T | None]:
    """The word auto, which is None, or what the other reader accepts."""
    return none_or(read, written="auto", meaning_none="auto")


def null_or(read: Read[T]) -> Read[T | None]:
    """Null, which is None, or what the other reader accepts."""
    return none_or(read, written="null", meaning_none=None)


def none_or(read: Read[T], *, written: str, meaning_none: str | None) -> Read[T | None]:
    """None for one particular value, or what the other reader accepts."""

    def read_or_none(value: Value) -> T | None:
        if value.data == meaning_none:
            return None
        try:
            return read(value)
        except Unacceptable as error:
            refuse(value, error.faults[0].text.replace("must be", f"must be {written}, or", 1))

    return read_or_none


def listing(words: tuple[str, ...]) -> str:
    """Words as in a sentence: "a, b or c"."""
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
