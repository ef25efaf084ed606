"""Command lines that a page starts, each in a process of its own; its reports are what the page shows then."""

import shlex
import subprocess
import tempfile
from typing import IO

STARTED: dict[str, tuple["subprocess.Popen[bytes]", IO[bytes]]] = {}
FINE = (0, 3)  # exit status; 3 is drift that was found


def start(command: str) -> None:
    """Start a command line, unless it is running."""
    if not is_running(command):
        said = tempfile.TemporaryFile()  # noqa: SIM115  as long as the server runs
        words, quiet = shlex.split(command), subprocess.DEVNULL
        STARTED[command] = subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=said), said


def finish(command: str) -> str | None:
    """Run a command line to its end; return why it failed, if it did."""
    start(command)
    STARTED[command][0].wait()
    return failure(command)


def is_running(command: str) -> bool:
    return command in STARTED and STARTED[command][0].poll() is None


def failure(command: str) -> str | None:
    """Return the last line that a command said before it failed; None if it did not, or was not started."""
    if command not in STARTED or is_running(command) or STARTED[command][0].returncode in FINE:
        return None
    said = STARTED[command][1]
    said.seek(0)
    return said.read().decode(errors="replace").strip().rpartition("\n")[2] or "It was ended."
