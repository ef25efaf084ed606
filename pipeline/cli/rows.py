"""A list as a table for a person, or as JSON."""

import json
from typing import Any

from pipeline.cli.invocation import Arguments


def print_rows(arguments: Arguments, rows: list[dict[str, Any]], columns: tuple[str, ...], nothing: str) -> None:
    """A table of some columns, or all as JSON."""
    if arguments.json:
        print(json.dumps(rows))
        return
    if not rows:
        print(nothing)
        return
    widths = {key: max(len(key), *(len(str(row[key] or "-")) for row in rows)) for key in columns}
    print("  ".join(key.upper().ljust(width) for key, width in widths.items()).rstrip())
    for row in rows:
        print("  ".join(str(row[key] or "-").ljust(width) for key, width in widths.items()).rstrip())
