"""Parameters of a rule: fields of its dataclass that say which values they accept.

Values arrive from YAML, where 1e-7 is a string, or from SageMaker's RuleParameters, where everything is one. So the
text of a number, of a flag or a comma-separated list is as good as the thing itself.
"""

import math
import re
from collections.abc import Callable
from dataclasses import field, fields
from typing import Any

from watch.rules.base import ParameterError

__all__ = ["ParameterError"]

READ = "read"
FLAGS = {"true": True, "false": False}


def number(
    default: float | None, *, above: float | None = None, at_least: float | None = None, at_most: float | None = None
) -> Any:
    """A finite float within limits; None is accepted where it is the default."""
    return _parameter(default, lambda value: _within(_float(value), value, above, at_least, at_most))


def integer(default: int | None, *, at_least: int | None = None, at_most: int | None = None) -> Any:
    """A whole number within limits; None is accepted where it is the default."""
    return _parameter(default, lambda value: int(_within(_whole(value), value, None, at_least, at_most)))


def flag(default: bool) -> Any:
    """True or false."""
    return _parameter(default, _flag)


def choice(default: str | None, accepted: tuple[str, ...]) -> Any:
    """One of a few words, in any case; None is accepted where it is the default."""
    return _parameter(default, lambda value: _choice(value, accepted))


def names(default: tuple[str, ...] | None = None) -> Any:
    """A list of names, or a string of them with commas between."""
    return _parameter(default, _words)


def patterns(default: tuple[str, ...] | None = None) -> Any:
    """Like names, but of regular expressions, looked for anywhere in a tensor name, as smdebug does."""
    return _parameter(default, _patterns)


def state(factory: Callable[[], Any]) -> Any:
    """A field that is no parameter: what the rule remembers between two steps."""
    return field(init=False, repr=False, default_factory=factory)


def parameter_names(rule: type[Any]) -> list[str]:
    return [item.name for item in fields(rule) if READ in item.metadata]


def read_parameters(rule: Any) -> None:
    """Replace the parameters of a rule by what they mean.

    Raises:
        ParameterError: With a sentence for each that is not accepted.
    """
    sentences = []
    for name in parameter_names(type(rule)):
        read = type(rule).__dataclass_fields__[name].metadata[READ]
        try:
            setattr(rule, name, read(getattr(rule, name)))
        except ValueError as error:
            sentences.append(f"{name} must be {error}.")
    if sentences:
        raise ParameterError(sentences)


def _parameter(default: Any, read: Callable[[Any], Any]) -> Any:
    def read_or_none(value: Any) -> Any:
        return None if value is None and default is None else read(value)

    return field(default=default, metadata={READ: read_or_none})


def _float(value: Any) -> float:
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"a number, but got {value!r}")
    return found


def _whole(value: Any) -> float:
    try:
        found = _float(value)
    except ValueError:
        found = math.nan
    if not found.is_integer():
        raise ValueError(f"a whole number, but got {value!r}")
    return found


def _within(found: float, value: Any, above: float | None, at_least: float | None, at_most: float | None) -> float:
    if above is not None and found <= above:
        raise ValueError(f"above {above:g}, but got {value}")
    if at_least is not None and found < at_least:
        raise ValueError(f"at least {at_least:g}, but got {value}")
    if at_most is not None and found > at_most:
        raise ValueError(f"at most {at_most:g}, but got {value}")
    return found


def _flag(value: Any) -> bool:
    found = value if isinstance(value, bool) else FLAGS.get(str(value).lower())
    if found is None:
        raise ValueError(f"true or false, but got {value!r}")
    return bool(found)


def _choice(value: Any, accepted: tuple[str, ...]) -> str:
    for word in accepted:
        if str(value).lower() == word.lower():
            return word
    raise ValueError(f"one of {', '.join(accepted)}, but got {value!r}")


def _words(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"a list of strings, but got {value!r}")
    found = tuple(part.strip() for part in parts if part.strip())
    if not found:
        raise ValueError("a list of at least one string, but got none")
    return found


def _patterns(value: Any) -> tuple[str, ...]:
    found = _words(value)
    for pattern in found:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"a regular expression, but {pattern!r} is none ({error})") from error
    return found
