"""Command lines that a page starts, each in a process of its own; what they write is what the page shows then."""

import shlex
import subprocess
import tempfile
from typing import IO, Any

STARTED: dict[str, tuple["subprocess.Popen[bytes]", IO[bytes]]] = {}
FINE = (0, 3)  # exit status; 3 is drift that was found


def start(command: str, *, apart: bool = False) -> "subprocess.Popen[bytes]":
    """Start a command line, unless it is running; `apart` from the terminal, whose Ctrl-C does not reach it then."""
    if not is_running(command):
        said, quiet = tempfile.TemporaryFile(), subprocess.DEVNULL  # noqa: SIM115  kept
        streams: Any = {"stdin": quiet, "stdout": quiet, "stderr": said}
        STARTED[command] = subprocess.Popen(shlex.split(command), **streams, start_new_session=apart), said
    return STARTED[command][0]


def is_running(command: str) -> bool:
    return command in STARTED and STARTED[command][0].poll() is None


def running() -> int:
    """Return how many commands are at work."""
    return sum(map(is_running, list(STARTED)))


def failure(command: str) -> str | None:
    """Return the last line that a command said before it failed, if it was started and has."""
    if command not in STARTED or STARTED[command][0].poll() in (None, *FINE):
        return None
    said = STARTED[command][1]
    said.seek(0)
    return said.read().decode(errors="replace").strip().rpartition("\n")[2] or "It was ended."
