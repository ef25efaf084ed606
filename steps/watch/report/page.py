"""Pages of the reports: jinja2 templates beside the code that fills them, and how figures are written in them.

A page is one file that needs no network; its script adds values and zoom to charts, and can be missing.
"""

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROOT = Path(__file__).resolve().parents[2]  # the folder that holds `watch` and what else has templates
SPACE = "\N{NARROW NO-BREAK SPACE}"


def render(template: str, **values: Any) -> str:
    """Fill a template, named from the folder that holds `watch`; every text in it is escaped."""
    return environment().get_template(template).render(values)


@cache
def environment() -> Environment:
    """Return the templates with the filters that write figures."""
    loader = FileSystemLoader(ROOT)
    found = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.filters |= {"percent": percent, "duration": duration_text}
    found.filters |= {"counted": counted, "number": number_text, "json": json.dumps}
    found.filters["anchor"] = lambda name: "".join(letter if letter.isalnum() else "-" for letter in name)
    found.globals["SPACE"] = SPACE
    return found


def percent(share: float) -> str:
    """Write a share of 1 as a percentage."""
    return f"{100 * share:.1f}{SPACE}%"


def number_text(value: float) -> str:
    """Write a figure of any size in a few characters."""
    size = abs(value)
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if size >= 1e6 or size < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if size >= 1e3:
        return f"{value:,.0f}"
    return f"{value:.3g}" if size < 1 else f"{value:.4g}"


def duration_text(seconds: float) -> str:
    """Write a duration in the unit that fits."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f}{SPACE}µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g}{SPACE}ms"
    if seconds < 120:
        return f"{seconds:.3g}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if seconds < 3600:
        return f"{minutes}{SPACE}min {rest}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60}{SPACE}min"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Write `1 rule`, `2 rules`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
