"""A prediction's body in each of the formats that a client may ask for."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from classifier.serving.accept import CSV, JSON, JSON_LINES, NPY, Format

TOP = 5

Rows = npt.NDArray[np.float32]  # (N, C) probabilities of N images
Writer = Callable[[Rows, Sequence[str], bool, bool], bytes]  # rows, classes, verbose, several


def write(rows: Rows, classes: Sequence[str], chosen: Format, *, several: bool) -> bytes:
    """The answer's body.

    Args:
        rows: (N, C) probabilities.
        several: Whether the request held a list: then its answer is one, whatever N is.
    """
    return WRITERS[chosen.media_type](rows, classes, chosen.verbose, several)


def ranked(row: Rows, classes: Sequence[str]) -> dict[str, Any]:
    """The best label, its score, and the TOP best, of one image's probabilities (C,)."""
    best = np.argsort(-row, kind="stable")[:TOP]
    top = [{"label": classes[index], "score": float(row[index])} for index in best]
    return {**top[0], "top": top}


def _documents(rows: Rows, classes: Sequence[str], verbose: bool) -> list[Any]:
    return [ranked(row, classes) for row in rows] if verbose else rows.tolist()


def _json(rows: Rows, classes: Sequence[str], verbose: bool, several: bool) -> bytes:
    documents = _documents(rows, classes, verbose)
    return orjson.dumps(documents if several else documents[0])


def _json_lines(rows: Rows, classes: Sequence[str], verbose: bool, several: bool) -> bytes:
    return b"".join(orjson.dumps(document) + b"\n" for document in _documents(rows, classes, verbose))


def _csv(rows: Rows, classes: Sequence[str], verbose: bool, several: bool) -> bytes:
    return "".join(",".join(map(repr, row)) + "\n" for row in rows.tolist()).encode()


def _npy(rows: Rows, classes: Sequence[str], verbose: bool, several: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, rows if several else rows[0])
    return buffer.getvalue()


WRITERS: dict[str, Writer] = {JSON: _json, CSV: _csv, JSON_LINES: _json_lines, NPY: _npy}
