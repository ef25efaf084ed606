"""data.corrections: the CSV file of corrected labels that pipeline.yaml names, written one image at a time.

The columns are `path`, as `source` in images.jsonl, or `sha256`, then `label`, and any others, which stay.
"""

import codecs
import csv
import io
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from pipeline.config.annotations import read_annotation
from pipeline.config.config import load
from pipeline.config.yaml_source import read_source
from pipeline.errors import ConfigError, UsageError
from pipeline.local.store.storage import replacing
from pipeline.paths import shown

USUAL_NAME, LEFT_OUT = "corrections.csv", ("", "-")
WRITING = threading.Lock()


def corrections_file(config_file: Path, named: str | None) -> Path:
    """Return the file that pipeline.yaml names, else the one that the first correction makes, beside pipeline.yaml."""
    return config_file.resolve().parent / Path(named or USUAL_NAME).expanduser()


def read_corrections(file: Path) -> list[list[str]]:
    """Return header and rows, or a header alone before there is a file; a UsageError for another kind of file."""
    try:
        content = read_annotation("corrections", file.name, file.parent) if file.exists() else b"path,label\n"
        header, *rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    except (OSError, csv.Error) as problem:
        raise UsageError(f"data.corrections: '{shown(file)}' cannot be read: {problem}.") from problem
    return [[name.strip() for name in header], *filter(None, rows)]


def correct(file: Path, image: Mapping[str, str], label: str | None) -> None:
    """Give an image, as images.jsonl lists it, another label, or with None its `original` one again.

    Of a row with more columns, such as an audit's suggestion, only the label changes, if the original is known.
    """
    with WRITING:
        header, *rows = read_corrections(file)
        key, place = image[header[0]], header.index("label")
        found = [row for row in rows if row[0] == key] or [[{0: key}.get(n, "") for n in range(len(header))]]
        for row in found:
            row += [""] * (len(header) - len(row))
            row[place] = image["original"] if label is None else label
            rows += [row] if row not in rows else []
            is_bare = not any(cell for n, cell in enumerate(row) if n not in (0, place))
            if label is None and (is_bare or not image["original"]):
                rows.remove(row)
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        write_whole(file, text.getvalue())


def name_in_config(config_file: Path, environment: str | None) -> None:
    """Write `corrections: corrections.csv` into the section `data` of pipeline.yaml; every other character stays.

    A UsageError that says what to write by hand if that would not be sound.
    """
    source, text = read_source(config_file, shown(config_file)), config_file.read_text(encoding="utf-8-sig")
    section, known = (source.find(place)[1] for place in (("data",), ("data", "corrections")))
    if isinstance(known, yaml.ScalarNode):
        start, end, written = known.start_mark.index, known.end_mark.index, f" {USUAL_NAME}"
        start -= text[start - 1] == " "
    elif isinstance(section, yaml.MappingNode) and section.value:
        first = section.value[0][0].start_mark
        start, end = first.index, first.index
        written = f"corrections: {USUAL_NAME}" + (", " if section.flow_style else "\n" + " " * first.column)
    else:
        start, end, written = len(text), len(text), f"\ndata:\n  corrections: {USUAL_NAME}\n"
    expected = {**source.data, "data": {**(source.data.get("data") or {}), "corrections": USUAL_NAME}}

    def check(unfinished: Path) -> None:
        is_sound = read_source(unfinished, unfinished.name).data == expected
        if not is_sound or load(unfinished, environment).data.corrections != USUAL_NAME:
            raise ConfigError([])

    try:
        write_whole(config_file, text[:start] + written + text[end:], check)
    except ConfigError as problem:
        sentence = f"{shown(config_file)} is not changed, as it would mean something else: write by hand"
        raise UsageError(f"{sentence} `corrections: {USUAL_NAME}` into its section data.") from problem


def write_whole(file: Path, text: str, check: Callable[[Path], None] = lambda unfinished: None) -> None:
    """Replace a file in one step once `check` has accepted what is to take its place.

    A link is followed, and mode, line ends and byte order mark stay.
    """
    file = file.resolve()
    try:
        before = file.read_bytes() if file.exists() else b""
        text = re.sub(r"\r?\n", "\r\n", text) if b"\r\n" in before else text
        with replacing(file) as unfinished:
            mark = "\ufeff" if before.startswith(codecs.BOM_UTF8) else ""
            unfinished.write_text(mark + text, encoding="utf-8", newline="")
            if before:
                unfinished.chmod(file.stat().st_mode & 0o777)
            check(unfinished)
    except OSError as problem:
        raise UsageError(f"{shown(file)} cannot be written: {problem.strerror}.") from problem
