"""How results reach a person or a program: tables, JSON, one question, a browser, and scripts that write a report."""

import json
import os
import re
import subprocess
import sys
import textwrap
import webbrowser
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.errors import ServiceError
from pipeline.paths import STEPS

if TYPE_CHECKING:
    from pipeline.cli.call import Call

WIDTH = 80
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a terminal would obey
SHOWN_CHARACTERS = 1000  # of a line of a log
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")  # without one a browser would be a program of the terminal
STYLES = {
    **dict.fromkeys(("Succeeded", "Approved", "InService", "Completed"), "green"),
    **dict.fromkeys(("Failed", "Rejected"), "red"),
    **dict.fromkeys(("Executing", "PendingManualApproval", "Creating", "Updating", "Stopped", "Stopping"), "yellow"),
}


def is_live(stream: TextIO) -> bool:
    """Return whether colours and lines that change may be written."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def wrapped(text: str, width: int = WIDTH) -> list[str]:
    """Return the lines of a text; a name or an option is not parted at a hyphen."""
    return textwrap.wrap(text, width, break_on_hyphens=False)


def printable(line: str) -> str:
    """Return a job's line as a terminal may show it: no control characters, and not without end."""
    text = CONTROL.sub("\N{REPLACEMENT CHARACTER}", COLOUR.sub("", line))
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ..."


def with_places(text: str, places: Mapping[str, str]) -> str:
    """Return a job's text with what the user calls the folders that it sees."""
    for path in sorted(places, key=len, reverse=True):
        text = text.replace(path, places[path])
    return text


def print_json(document: Any) -> int:
    """Print one JSON document; return the exit status of a success."""
    print(json.dumps(document))
    return 0


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
    """Print rows below their headers, columns as wide as need be; those in `right` end at their right side."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    live = is_live(sys.stdout)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(header, justify="right" if header in right else "left", no_wrap=not live, overflow="fold")
    for row in rows:
        cells = ["-" if value is None else str(value) for value in row]
        table.add_row(*(Text(printable(cell), style=STYLES.get(cell, "")) for cell in cells))
    console = Console(width=None if live else 10_000, force_terminal=live, highlight=False)
    with console.capture() as written:
        console.print(table)
    print("\n".join(line.rstrip() for line in written.get().splitlines()))


def print_rows(call: "Call", rows: list[dict[str, Any]], columns: Mapping[str, str], nothing: str) -> int:
    """Print some columns under their headers for a person, or all as JSON; return the exit status of a success."""
    if call.as_json:
        return print_json(rows)
    if rows:
        print_table(list(columns.values()), [[row[column] or None for column in columns] for row in rows])
    else:
        print(nothing)
    return 0


def confirmed(out: TextIO, question: str = "", *, sure: bool) -> bool:
    """Return whether the user says yes, beforehand (`--yes`) or now, by the word; nobody there says no."""
    if sure:
        return True
    print(f"{question} Type yes to go on: ".lstrip(), end="", file=out, flush=True)
    return sys.stdin.readline().strip() == "yes"


def open_in_browser(address: str | Path) -> bool:
    """Show a page where there is a screen; return whether a browser took it."""
    if sys.platform.startswith("linux") and not any(map(os.environ.get, DISPLAYS)):
        return False
    try:
        return webbrowser.open(address.resolve().as_uri() if isinstance(address, Path) else address)
    except (webbrowser.Error, OSError):
        return False


def run_report_script(script: str, failure: str, **options: object) -> None:
    """Run a script of steps/ by this interpreter, in a process of its own as job code is."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    environment = {"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": str(STEPS)}  # more threads would mostly wait
    done = subprocess.run(
        [sys.executable, "-P", str(STEPS / script), *words],
        env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise ServiceError(f"{failure}: {reason}")
