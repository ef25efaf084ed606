"""The one question that a command asks before it changes or removes what is not easily had again."""

import sys
from typing import TextIO


def confirmed(out: TextIO, question: str = "", *, sure: bool) -> bool:
    """Whether the user says yes, beforehand (`--yes`) or now, by the word; nobody there says no."""
    if sure:
        return True
    print(f"{question} Type yes to go on: ".lstrip(), end="", file=out, flush=True)
    return sys.stdin.readline().strip() == "yes"
