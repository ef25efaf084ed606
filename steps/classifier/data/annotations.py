"""What the user's CSV files say of images: groups.csv, attributes.csv and corrections.csv of the channel `annotations`.

The first column is `path`, as `source` in manifest/images.jsonl, or `sha256`, which means all copies of an image.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from classifier.data.dataset import printable
from classifier.job.failures import StepError, cause

SETTINGS = {"groups": "data.group.file", "attributes": "data.attributes", "corrections": "data.corrections"}
LINE = ":line"  # a column of what is read: where it stands in the file


def read_annotations(
    folder: Path | None, name: str, images: pd.DataFrame, skipped: Collection[str] = ()
) -> pd.DataFrame | None:
    """Return a file's columns, text, for the images in it, with their index; None if the file was not given.

    Rows about `skipped` files have no effect. Raises a StepError with the line of the first row that is not acceptable.
    """
    if folder is None or not (file := folder / f"{name}.csv").is_file():
        return None
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            return read_rows(csv.reader(stream), SETTINGS[name], images, skipped)
    except (UnicodeDecodeError, csv.Error) as error:
        raise StepError(f"{SETTINGS[name]} names a file that is not CSV in UTF-8: {cause(error)}.") from error


def read_rows(reader: Any, setting: str, images: pd.DataFrame, skipped: Collection[str]) -> pd.DataFrame:
    key, *columns = [name.strip() for name in next(reader, [""])]
    if key not in ("path", "sha256"):
        raise StepError(f"{setting}, line 1: the first column must be path or sha256, but is {key!r}.")
    places, rows = defaultdict[str, list[int]](list), dict[int, tuple[int, list[str]]]()
    for index, text in images[key].map(printable).items():
        places[text].append(index)
    for named, *fields in filter(None, reader):
        where, values = f"{setting}, line {reader.line_num}", [field.strip() for field in fields]
        if len(values) != len(columns):
            raise StepError(f"{where}: the row must have {len(columns) + 1} fields, but has {len(values) + 1}.")
        if named not in places and named not in skipped:
            example = printable(images[key].iloc[0])
            raise StepError(f"{where}: no image of the data set has the {key} {named!r}; accepted is e.g. {example!r}.")
        for index in places.get(named, []):
            line, earlier = rows.setdefault(index, (reader.line_num, values))
            if earlier != values:
                raise StepError(f"{where}: {named!r} must have one row, but line {line} says otherwise of it.")
    found = pd.DataFrame([values for _, values in rows.values()], list(rows), columns, dtype=object)
    return found.assign(**{LINE: [line for line, _ in rows.values()]})


def attributes_of(images: pd.DataFrame, given: pd.DataFrame) -> "pd.Series[Any]":
    """Return for each image {column: text}; the text is empty where the file has no row of it."""
    kept = given.drop(columns=[LINE, "path", "sha256"], errors="ignore").reindex(images.index, fill_value="")
    return pd.Series(kept.to_dict("records"), images.index, dtype=object)


def groups_of(
    images: pd.DataFrame, given: pd.DataFrame | None, *, folder: int | None, pattern: str | None
) -> "pd.Series[int]":
    """Return for each image the number of its group; copies of an image bring their groups together."""
    names = pd.Series("", images.index, dtype=object)
    if given is not None:
        names.update(given["group"])
    elif folder is not None:
        names = images["below"].map(lambda below: dict(enumerate(below.split("/"), 1)).get(folder, ""))
    elif pattern is not None:
        names = images["path"].map(re.compile(pattern).search).map(lambda match: (match and match[1]) or "")
    if (folder is not None or pattern is not None) and (names == "").all():
        named = f"{{folder: {folder}}}" if folder is not None else f"{{pattern: {pattern!r}}}"
        example = printable(images["path"].iloc[0])
        raise StepError(f"data.group: {named} finds no group in any path, of which one is {example!r}.")
    return pd.Series(joined(images["sha256"], names.where(names != "", None)), images.index)


def joined(*keys: "pd.Series[Any]") -> Any:
    """Return (N,) int: the same number for rows that share a key's value, directly or through others; None is none."""
    count, links = len(keys[0]), list[Any]()
    for key in keys:
        codes = pd.factorize(key)[0]
        first = pd.Series(np.arange(count)).groupby(codes).transform("first").to_numpy()
        links.append(np.where(codes < 0, np.arange(count), first))
    start, end = np.tile(np.arange(count), len(keys)), np.concatenate(links)
    graph = coo_array((np.ones(len(start), np.int8), (start, end)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)
