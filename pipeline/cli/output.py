"""How results reach a person or a program: tables, JSON, a browser, progress, and scripts that write a report."""

import json
import os
import re
import sys
import textwrap
import time
import webbrowser
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from pipeline.cli.call import Call

WIDTH = 80
UNPRINTABLE = re.compile(r"\x1b\[[0-9;]*m|([\x00-\x08\x0b-\x1f\x7f-\x9f])")  # colours, and what a terminal would obey
SHOWN_CHARACTERS = 1000  # of a line of a log
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")  # without one a browser would be a program of the terminal
STYLES = {
    **dict.fromkeys(("Succeeded", "Approved", "InService", "Completed"), "green"),
    **dict.fromkeys(("Failed", "Rejected"), "red"),
    **dict.fromkeys(("Executing", "PendingManualApproval", "Creating", "Updating", "Stopped", "Stopping"), "yellow"),
}
REPORTS = 10  # lines of progress in all where the stream is no terminal
REDRAW_SECONDS = 0.1


def is_live(stream: TextIO) -> bool:
    """Return whether colours and lines that change may be written."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def wrapped(text: str, width: int = WIDTH) -> list[str]:
    """Return the lines of a text; a name or an option is not parted at a hyphen."""
    return textwrap.wrap(text, width, break_on_hyphens=False)


def printable(line: str) -> str:
    """Return a job's line as a terminal may show it: no control characters, and not without end."""
    text = UNPRINTABLE.sub(lambda found: "\N{REPLACEMENT CHARACTER}" if found[1] else "", line)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ..."


def with_places(text: str, places: Mapping[str, str]) -> str:
    """Return a job's text with what the user calls the folders that it sees."""
    for path in sorted(places, key=len, reverse=True):
        text = text.replace(path, places[path])
    return text


def say(text: object) -> None:
    """Print a line that is not the result."""
    print(text, file=sys.stderr, flush=True)


def print_json(document: Any) -> int:
    """Print one JSON document; return the exit status of a success."""
    print(json.dumps(document))
    return 0


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows below their headers, columns as wide as need be."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    live = is_live(sys.stdout)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in headers:
        justify: Any = "right" if header.lower() == "seconds" else "left"
        table.add_column(header, justify=justify, no_wrap=not live, overflow="fold")
    for row in rows:
        cells = ["-" if value is None else str(value) for value in row]
        table.add_row(*(Text(printable(cell), style=STYLES.get(cell, "")) for cell in cells))
    console = Console(width=None if live else 10_000, force_terminal=live, highlight=False)
    with console.capture() as written:
        console.print(table)
    print("\n".join(line.rstrip() for line in written.get().splitlines()))


def print_rows(call: "Call", rows: Sequence[Any], cells: Callable[[Any], Mapping[str, Any]], nothing: str = "") -> int:
    """Print the rows as JSON, or the cells of each by column; return the exit status of a success."""
    if call.as_json:
        return print_json(rows)
    if not rows:
        print(nothing)
        return 0
    table = [cells(row) for row in rows]
    headers = [name.upper().replace("_", " ") for name in table[0]]
    print_table(headers, [[None if value == "" else value for value in row.values()] for row in table])
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


def opened(address: str | Path, *, no_open: bool) -> str:
    """Open a page in a browser unless that is not wanted; return what to print behind its address."""
    return "  (opened)" if not no_open and open_in_browser(address) else ""


class Counting:
    """`12/400 images` on a stream: redrawn in place on a terminal, a line now and then elsewhere."""

    def __init__(self, stream: TextIO, total: int) -> None:
        self.stream, self.total, self.live = stream, total, stream.isatty()
        self.shown, self.drawn_at = 0, 0.0

    def show(self, done: int) -> None:
        """So many are done."""
        if self.total == 1:
            return
        if self.live:
            if time.monotonic() - self.drawn_at > REDRAW_SECONDS or done == self.total:
                self.clear(f"{done}/{self.total} images")
        elif done * REPORTS // self.total > self.shown * REPORTS // self.total:
            print(f"{done}/{self.total} images", file=self.stream, flush=True)
            self.shown = done

    def clear(self, text: str = "") -> None:
        """Make room for a line of something else."""
        if self.live and (self.drawn_at or text):
            print(f"\r\x1b[K{text}", end="", file=self.stream, flush=True)
            self.drawn_at = time.monotonic()
