"""The section on the heaviest operators, from PyTorch's own profiler."""

from collections.abc import Mapping
from typing import Any

from watch.read.run import Record
from watch.read.values import items, mapping, number, text
from watch.report.page import counted

SHOWN_OPERATORS = 15
LONGEST_OPERATOR = 70
MEGA = 1e6


def operators(record: Record) -> dict[str, Any]:
    """The operators that took most of the processor's or the GPU's time."""
    found = read_operators(record.operators)
    steps = items(record.operators.get("steps"))
    total = sum(seconds for _, _, seconds in found) or 1.0
    rows = [
        {
            "name": name,
            "shown": _short(name),
            "calls": calls,
            "seconds": seconds,
            "bar": seconds / found[0][2] if found[0][2] else 0,
            "share": seconds / total,
        }
        for name, calls, seconds in found[:SHOWN_OPERATORS]
    ]
    on_processor = text(record.operators.get("device"), "cpu") == "cpu"
    return {
        "operators": rows,
        "operator_unit": "processor" if on_processor else "GPU",
        "operator_steps": f"over {counted(len(steps), 'step')} " if steps else "",
    }


def read_operators(document: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """Name, calls and own seconds, the heaviest first."""
    member = "self_cpu_us" if text(document.get("device"), "cpu") == "cpu" else "self_device_us"
    entries = [mapping(entry) for entry in items(document.get("operators"))]
    found = [
        (text(entry.get("name"), "?"), int(number(entry.get("calls")) or 0), (number(entry.get(member)) or 0) / MEGA)
        for entry in entries
    ]
    return sorted(found, key=lambda operator: -operator[2])


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_OPERATOR else f"{name[:LONGEST_OPERATOR]}…"
