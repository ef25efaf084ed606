"""The section on the heaviest operators, from PyTorch's own profiler."""

from collections.abc import Mapping
from html import escape
from typing import Any

from classifier.reports.page import bar_cell, counted, duration_text, percent, section
from classifier.watch.report_values import items, mapping, number, text
from classifier.watch.training_record import Record

SHOWN_OPERATORS = 15
LONGEST_OPERATOR = 70
MEGA = 1e6


def operators_section(record: Record) -> str:
    """The operators that took most of the processor's or the GPU's time."""
    operators = read_operators(record.operators)
    if not operators:
        return section("The heaviest operators", "<p>No operator was recorded.</p>", "operators")
    device = text(record.operators.get("device"), "cpu")
    steps = items(record.operators.get("steps"))
    total = sum(seconds for _, _, seconds in operators) or 1.0
    unit = "GPU" if device != "cpu" else "processor"
    measured = f"over {counted(len(steps), 'step')} " if steps else ""
    rows = "".join(
        f'<tr><th scope="row" title="{escape(name)}">{escape(_short(name))}</th><td class="number">{calls:,}</td>'
        f"{bar_cell('Own time', seconds / operators[0][2] if operators[0][2] else 0, duration_text(seconds))}"
        f'<td class="number">{percent(seconds / total)}</td></tr>'
        for name, calls, seconds in operators[:SHOWN_OPERATORS]
    )
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("Operator", "Calls", "Own time", "Share"))
    return section(
        "The heaviest operators",
        f"<p>What PyTorch spent {unit} time on, measured {measured}by its profiler. The trace, "
        "profile/torch/trace.json.gz, opens in Perfetto and TensorBoard.</p>"
        f'<div class="scroll" tabindex="0"><table class="operators"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>",
        "operators",
    )


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
