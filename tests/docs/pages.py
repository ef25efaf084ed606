"""The documentation as data: pages, their fenced blocks, and the commands in these."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return a page's fenced blocks in these languages, or in any, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page.name, text.count("\n", 0, found.start()) + 2, *found.groups())
        for found in FENCE.finditer(text)
        if not languages or found[1] in languages
    ]


def commands(text: str) -> list[list[str]]:
    """Return the words of each shell line of a block, without its remark."""
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def benchmark_lines(page: Path) -> list[list[str]]:
    """Return the words of each command of a benchmark that a page names, within its sentences and tables too."""
    found = re.findall(r"`(python benchmarks/[^`]+)`((?:; `--[^`]+`)*)", page.read_text(encoding="utf-8"))
    return [shlex.split(" ".join((line, *re.findall("`([^`]+)`", more)))) for line, more in found]
