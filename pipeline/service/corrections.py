"""data.corrections: the CSV file of corrected labels, written one row at a time; all else in it stays as it is.

The columns are `path`, as `source` in images.jsonl, or `sha256`, then `label`, then any others.
"""

import csv
import io
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import yaml

from pipeline.config.annotations import REQUIRED, fault
from pipeline.config.config import load
from pipeline.config.yaml_source import read_source
from pipeline.errors import UsageError
from pipeline.local.store.storage import replacing
from pipeline.paths import shown

USUAL_NAME, LEFT_OUT = "corrections.csv", "-"
WRITING = threading.Lock()


def corrections_file(config_file: Path, named: str | None) -> Path:
    """Return the file that pipeline.yaml names, else where the first correction makes one: beside pipeline.yaml."""
    return config_file.resolve().parent / Path(named or USUAL_NAME).expanduser()


def corrected_labels(file: Path) -> dict[str, str]:
    """Return the labels by the path or sha256 of their image; none if there is no file."""
    _, (_, header), *rows = parsed(file)
    place = header.index("label")
    return {fields[0]: fields[place].strip() for _, fields in rows if len(fields) > place}


def correct(file: Path, image: Mapping[str, str], label: str | None) -> None:
    """Give an image, as images.jsonl lists it, another label, or take its correction back with None.

    Of a row with more columns, such as an audit's suggestion, only the label changes; back to the image's `original`,
    where that is known.
    """
    with WRITING:
        (mark, _), (head, header), *rows = parsed(file)
        ending = "\r\n" if head.endswith("\r\n") else "\n"
        key, place, is_known = image[header[0]], header.index("label"), False
        pieces = [mark, head if head.endswith(("\n", "\r")) else head + ending]
        for text, fields in rows:
            if fields and fields[0] == key:
                is_known = True
                has_more = image["original"] and any(field for n, field in enumerate(fields) if n not in (0, place))
                given = [*fields, *[""] * (len(header) - len(fields))]
                given[place] = image["original"] if label is None else label
                text = row_text(given, ending) if label is not None or has_more else ""
            pieces.append(text if not text or text.endswith(("\n", "\r")) else text + ending)
        if label is not None and not is_known:
            pieces.append(row_text([{0: key, place: label}.get(n, "") for n in range(len(header))], ending))
        write_whole(file, "".join(pieces).encode())


def parsed(file: Path) -> list[tuple[str, list[str]]]:
    """Return the byte order mark, the head and the rows, each as it is written and as fields.

    A UsageError if the file cannot be read, or is none that data.corrections takes.
    """
    try:
        content = file.read_bytes() if file.exists() else b"path,label\n"
    except OSError as problem:
        raise UsageError(f"{shown(file)} cannot be read: {problem.strerror}.") from problem
    if wrong := fault(content, REQUIRED["corrections"]):
        raise UsageError(f"data.corrections: '{shown(file)}' {wrong}")
    text, taken = content.decode(), list[str]()
    mark = text[: text.startswith("\ufeff")]

    def lines() -> Iterator[str]:
        for line in io.StringIO(text.removeprefix(mark), newline=""):
            taken.append(line)
            yield line

    rows = [(mark, list[str]())]
    for fields in csv.reader(lines()):
        rows.append(("".join(taken), fields if len(rows) > 1 else [field.strip() for field in fields]))
        taken.clear()
    return rows


def row_text(fields: list[str], ending: str) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator=ending).writerow(fields)
    return stream.getvalue()


def write_whole(file: Path, content: bytes, check: Callable[[Path], None] = lambda unfinished: None) -> None:
    """Replace a file in one step once `check` has accepted what is to take its place; a link is followed."""
    file = file.resolve()
    try:
        with replacing(file) as unfinished:
            unfinished.write_bytes(content)
            if file.exists():
                unfinished.chmod(file.stat().st_mode & 0o777)
            check(unfinished)
    except OSError as problem:
        raise UsageError(f"{shown(file)} cannot be written: {problem.strerror}.") from problem


def name_in_config(config_file: Path, environment: str | None) -> None:
    """Write `corrections: corrections.csv` into the section `data` of pipeline.yaml; every other byte stays.

    A UsageError that says what to write by hand if that cannot be done without a change of anything else.
    """
    by_hand = f"write `corrections: {USUAL_NAME}` into its section data by hand."
    source, text = read_source(config_file, shown(config_file)), config_file.read_bytes().decode()
    mark, expected, ending = text[: text.startswith("\ufeff")], {**source.data}, "\r\n" if "\r\n" in text else "\n"
    text = text.removeprefix(mark).replace(ending, "\n")
    (_, section), (_, known) = source.find(("data",)), source.find(("data", "corrections"))
    if isinstance(known, yaml.ScalarNode):
        start, end, written = known.start_mark.index, known.end_mark.index, USUAL_NAME
        written = f" {written}" if text[start - 1 : start] == ":" else written
    elif isinstance(section, yaml.MappingNode) and section.value:
        start = end = section.value[0][0].start_mark.index
        column = section.value[0][0].start_mark.column
        written = f"corrections: {USUAL_NAME}" + (", " if section.flow_style else "\n" + " " * column)
    elif section is None:
        start = end = len(text)
        written = f"{'' if text.endswith(chr(10)) else chr(10)}data:\n  corrections: {USUAL_NAME}\n"
    else:
        raise UsageError(f"{shown(config_file)} has a section data that is not written to here: {by_hand}")
    expected["data"] = {**(source.data.get("data") or {}), "corrections": USUAL_NAME}

    def check(unfinished: Path) -> None:
        is_sound = read_source(unfinished, unfinished.name).data == expected
        if not is_sound or load(unfinished, environment).data.corrections != USUAL_NAME:
            raise UsageError(f"{shown(config_file)} is not changed, as it would mean something else: {by_hand}")

    changed = (text[:start] + written + text[end:]).replace("\n", ending)
    write_whole(config_file, f"{mark}{changed}".encode(), check)
