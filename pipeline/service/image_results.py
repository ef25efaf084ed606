"""What is said of many images: rows in a CSV or JSON Lines file, progress, and how often each class was the answer."""

import csv
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pipeline.errors import UsageError
from pipeline.service.predictor import is_labelled

Row = dict[str, Any]  # `image`, and the endpoint's answer or `error`
Write = Callable[[Row], None]

TOP = 5
COLUMNS = ("image", "label", "score", *(f"{name}_{rank}" for rank in range(2, TOP + 1) for name in ("label", "score")))
BAR_CHARACTERS = 40
REPORTS = 10  # lines of progress in all where the stream is no terminal
REDRAW_SECONDS = 0.1
NO_LABEL = "The answer has no label and score."


def check_out(name: str | None) -> Path | None:
    """Where rows go, before any work is done for them.

    Raises:
        UsageError: not a name of either kind, or in no folder.
    """
    if name is None:
        return None
    path = Path(name)
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--out {name}: the name must end with {' or '.join(FORMATS)}.")
    if not path.parent.is_dir():
        raise UsageError(f"--out {name}: there is no folder {path.parent}.")
    if path.is_dir():
        raise UsageError(f"--out {name}: it is a folder.")
    return path


@contextmanager
def rows_to(path: Path | None) -> Iterator[Write]:
    """A function that adds a row to the file, each at once on disk: what was done before an interruption is kept.

    Raises:
        UsageError: the file cannot be written.
    """
    if path is None:
        yield lambda row: None
        return
    with written(path):
        stream = path.open("w", encoding="utf-8", newline="", buffering=1)
    try:
        with written(path):
            add = FORMATS[path.suffix.lower()](stream)

        def write(row: Row) -> None:
            with written(path):
                add(row)

        yield write
    finally:
        with written(path):  # what is left in its buffer
            stream.close()


@contextmanager
def written(path: Path) -> Iterator[None]:
    """A block that writes to the file: what the system says against it becomes a sentence."""
    try:
        yield
    except OSError as problem:
        raise UsageError(f"--out {path}: it cannot be written ({problem.strerror}).") from problem


def csv_rows(stream: TextIO) -> Write:
    """image, label, score, the four next labels and scores, whether it is confident, error."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow((*COLUMNS, "confident", "error"))

    def write(row: Row) -> None:
        top = row["top"][:TOP] if is_labelled(row) else []
        cells = [cell for item in top for cell in (item["label"], f"{item['score']:.6f}")]
        error = row.get("error", "" if top else NO_LABEL)
        confident = str(row.get("confident", "")).lower()
        writer.writerow((row["image"], *cells, *[""] * (2 * TOP - len(cells)), confident, error))

    return write


def json_rows(stream: TextIO) -> Write:
    """One JSON object a line, the answer as it came."""
    return lambda row: print(json.dumps(row, ensure_ascii=False), file=stream)


FORMATS: dict[str, Callable[[TextIO], Write]] = {".csv": csv_rows, ".jsonl": json_rows}


class Tally:
    """How many images got which label, and how many none."""

    def __init__(self) -> None:
        self.labels: Counter[str] = Counter()
        self.images = self.failed = 0

    def add(self, row: Row) -> None:
        """Count one row."""
        self.images += 1
        self.failed += "error" in row
        if is_labelled(row):
            self.labels[row["label"]] += 1

    def lines(self) -> Iterator[str]:
        """For a person: the counts, and a bar for each class."""
        failed = f", {self.failed} without an answer" if self.failed else ""
        yield f"{self.images} image{'' if self.images == 1 else 's'}{failed}"
        width = max(map(len, self.labels), default=0)
        digits = len(str(self.images))
        for label, count in self.labels.most_common():
            yield f"  {label:<{width}}  {count:>{digits}} {bar(count / self.images)}".rstrip()


def bar(share: float) -> str:
    """A share of 1 as blocks."""
    return "█" * round(BAR_CHARACTERS * share)


class Counting:
    """`12/400 images` on a stream: redrawn in place on a terminal, a line now and then elsewhere."""

    def __init__(self, stream: TextIO, total: int) -> None:
        self.stream, self.total = stream, total
        self.live = stream.isatty()
        self.shown = 0
        self.drawn = 0.0

    def show(self, done: int) -> None:
        """So many are done."""
        if self.total == 1:
            return
        if self.live:
            self.draw(done)
        elif done * REPORTS // self.total > self.shown * REPORTS // self.total:
            print(f"{done}/{self.total} images", file=self.stream, flush=True)
            self.shown = done

    def draw(self, done: int) -> None:
        """Not more often than an eye follows."""
        if time.monotonic() - self.drawn > REDRAW_SECONDS or done == self.total:
            print(f"\r\x1b[K{done}/{self.total} images", end="", file=self.stream, flush=True)
            self.drawn = time.monotonic()

    def clear(self) -> None:
        """Make room for a line of something else."""
        if self.live and self.drawn:
            print("\r\x1b[K", end="", file=self.stream, flush=True)
