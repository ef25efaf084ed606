"""Many images on the command line: which are named, rows of their answers, counts, and what an answer depends on."""

import csv
import glob
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.config.job_code import importable_steps
from pipeline.errors import PipelineError, UsageError
from pipeline.service.predictor import ImagePredictor, is_labelled, read_image
from pipeline.service.sources import files

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Row = dict[str, Any]  # `image`, and the endpoint's answer or `error`
Write = Callable[[Row], None]

SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
TOP = 5
COLUMNS = ("image", "label", "score", *(f"{name}_{rank}" for rank in range(2, TOP + 1) for name in ("label", "score")))
BAR_CHARACTERS = 40
EXPLAINED = "reports/explained"  # below the home
MOST_EXPLAINED = 20  # images at once: each takes fifty requests
SIDE_PX = 384  # of what is sent, at most, and drawn: no smaller than most networks see
LONGEST_NAME = 100


def named_images(words: Iterable[str]) -> list[Path]:
    """Return the images that files, folders and patterns name, each once; a UsageError for a word that names none."""
    return list(dict.fromkeys(path for word in words for path in images_of(word)))


def images_of(word: str) -> list[Path]:
    """Return what one word names; a file may have any name, of folders the image files count."""
    path = Path(word)
    if path.is_dir():
        return [path / relative for relative in folder_images(path)]
    if path.exists():
        return [path]
    if not glob.has_magic(word):
        raise UsageError(f"No such image: {word}")
    matches = glob.glob(word, recursive=True)  # noqa: PTH207  unlike Path.glob it takes absolute patterns
    found = sorted(match for match in map(Path, matches) if match.is_file())
    if not found:
        raise UsageError(f"No file matches {word}")
    return found


def folder_images(folder: Path) -> list[str]:
    """Return the visible image files below a folder, by suffix, as paths from there; a UsageError if there is none."""
    found = [file.relative for file in files(folder) if is_image_name(file.relative) and not file.reason]
    if not found:
        raise UsageError(f"{folder} holds no image; looked for: {', '.join(SUFFIXES)}")
    return found


def is_image_name(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def check_out(name: str | None) -> Path | None:
    """Return where rows go, before any work is done for them; a UsageError if none can go there."""
    if name is None:
        return None
    path, problem = Path(name), ""
    if path.suffix.lower() not in FORMATS:
        problem = f"the name must end with {' or '.join(FORMATS)}"
    elif not path.parent.is_dir():
        problem = f"there is no folder {path.parent}"
    elif path.is_dir():
        problem = "it is a folder"
    if problem:
        raise UsageError(f"--out {name}: {problem}.")
    return path


@contextmanager
def rows_to(path: Path | None) -> Iterator[Write]:
    """Yield a function that adds a row to the file, at once on disk: what was done before an interruption is kept."""
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
    """Raise a UsageError for what the system says against writing the file."""
    try:
        yield
    except OSError as problem:
        raise UsageError(f"--out {path}: it cannot be written ({problem.strerror}).") from problem


def csv_rows(stream: TextIO) -> Write:
    """Return a function that writes image, label, score, the next labels and scores, whether it is confident, error."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow((*COLUMNS, "confident", "error"))

    def write(row: Row) -> None:
        top = row["top"][:TOP] if is_labelled(row) else []
        cells = [cell for item in top for cell in (item["label"], f"{item['score']:.6f}")]
        error = row.get("error", "" if top else "The answer has no label and score.")
        confident = str(row.get("confident", "")).lower()
        writer.writerow((row["image"], *cells, *[""] * (2 * TOP - len(cells)), confident, error))

    return write


def json_rows(stream: TextIO) -> Write:
    """Return a function that writes an answer as it came, one JSON object a line."""
    return lambda row: print(json.dumps(row, ensure_ascii=False), file=stream)


FORMATS: dict[str, Callable[[TextIO], Write]] = {".csv": csv_rows, ".jsonl": json_rows}


class Tally:
    """How many images got which label, and how many none."""

    def __init__(self) -> None:
        self.labels: Counter[str] = Counter()
        self.images = self.failed = 0

    def add(self, row: Row) -> None:
        self.images += 1
        self.failed += "error" in row
        if is_labelled(row):
            self.labels[row["label"]] += 1

    def lines(self) -> Iterator[str]:
        """Yield the counts for a person, with a bar for each class."""
        failed = f", {self.failed} without an answer" if self.failed else ""
        yield f"{self.images} image{'' if self.images == 1 else 's'}{failed}"
        width, digits = max(map(len, self.labels), default=0), len(str(self.images))
        for label, count in self.labels.most_common():
            yield f"  {label:<{width}}  {count:>{digits}} {bar(count / self.images)}".rstrip()


def bar(share: float) -> str:
    return "█" * round(BAR_CHARACTERS * share)


def explain(predictor: ImagePredictor, image: Path, answer: Mapping[str, Any], folder: Path) -> Path:
    """Write the image's centre, which the network sees, beside what the answer depends on in it; return the file.

    The endpoint is asked about copies of the image with a part covered each: any model that names labels can be.
    """
    with importable_steps():
        from classifier.data.images import ImageError, centre_crop, decode
        from classifier.evaluation.occlusion import occlusion_heat, overlay
        from classifier.model.predictor import DEFAULT_MAX_PIXELS
    import numpy as np
    from PIL import Image

    try:
        picture = decode(read_image(image), max_pixels=DEFAULT_MAX_PIXELS)
    except ImageError as problem:
        raise UsageError(f"{image} cannot be explained: {problem}") from problem
    square = centre_crop(picture, min(picture.size), min(picture.size))
    square.thumbnail((SIDE_PX, SIDE_PX))

    def probabilities(pictures: "npt.NDArray[np.uint8]") -> "npt.NDArray[np.float32]":
        answers = predictor.ask_each(map(Image.fromarray, pictures))
        return np.array([[probability(found, answer["label"])] for found in answers], dtype=np.float32)

    heat = occlusion_heat(np.asarray(square), probabilities)
    drawn = square.resize((SIDE_PX, SIDE_PX), Image.Resampling.NEAREST)  # a tiny image with its pixels
    both = Image.new("RGB", (2 * SIDE_PX, SIDE_PX))
    both.paste(drawn)
    both.paste(overlay(drawn, heat), (SIDE_PX, 0))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / (re.sub(r"[^\w.-]+", "-", str(image)).strip("-")[-LONGEST_NAME:] + ".png")
    both.save(file)
    return file


def probability(answer: dict[str, Any] | PipelineError, label: str) -> float:
    """Return a label's score in an answer; one that is not among its best has at most the last of them."""
    if isinstance(answer, PipelineError):
        raise answer
    scores = {item["label"]: float(item["score"]) for item in answer["top"]} if is_labelled(answer) else {}
    return scores.get(label, min(scores.values(), default=0.0))
