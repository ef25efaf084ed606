"""Two runs side by side on one page: figures, verdicts, curves, and how far apart their tensors are."""

import contextlib
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from watch.files import put
from watch.read.run import read_record
from watch.read.source import find
from watch.read.tensors import SavedTensors, TensorUnavailable
from watch.report import sections
from watch.report.charts import Chart, Line, chart
from watch.report.page import render
from watch.report.report import headline

COLLECTIONS = ("losses", "weights", "biases", "gradients")
PLACE = attrgetter("global_step", "mode", "step")
SIMILAR = 1e-3  # relative difference
Apart = dict[str, dict[float, float]]  # collection -> step of the run -> the largest relative difference


def compare(folder_a: Path, folder_b: Path, out: Path) -> Path:
    """Write compare.html into `out`, and return its path. SourceError where a folder holds no run."""
    runs = [find(folder) for folder in (folder_a, folder_b)]
    records = [read_record(run.folder) for run in runs]
    saved = [SavedTensors(run.tensors) for run in runs if run.tensors]
    apart = similar_across_runs(*saved) if len(saved) == 2 else {}
    lines = [Line(name, list(found), list(found.values())) for name, found in apart.items()]
    page = render(
        "watch/report/compare.html",
        runs=[(run.folder, record, headline(record)) for run, record in zip(runs, records, strict=True)],
        statuses=[{rule["name"]: rule["status"] for rule in record.rules} for record in records],
        charts=list(sections.losses(dict(zip("AB", records, strict=True)))),
        apart=apart,
        similar=SIMILAR,
        apart_chart=Chart("How far apart", "step", "relative difference", lines, {"similar": SIMILAR}, whole_x=True),
        sections=sections,
        chart=chart,
    )
    put(out / "compare.html", page.encode(errors="replace"))
    return out / "compare.html"


def similar_across_runs(one: SavedTensors, other: SavedTensors) -> Apart:
    """Return how far apart tensors of a name are, where both saved them. How AWS's rule does it is not documented."""
    found: Apart = {}
    others = other.new_steps(last=True)
    second = next(others, None)
    for first in one.new_steps(last=True):
        while second and second.global_step < first.global_step:
            second = next(others, None)
        if second is None or PLACE(second) != PLACE(first):
            continue
        mode, step = first.mode, first.step
        for collection in COLLECTIONS:
            names = (set(run.tensor_names(step=step, mode=mode, collection=collection)) for run in (one, other))
            for name in set.intersection(*names):
                with contextlib.suppress(TensorUnavailable):  # damaged
                    apart = difference(one.read(name, mode, step), other.read(name, mode, step))
                    steps = found.setdefault(collection, {})
                    steps[float(first.global_step)] = max(apart, steps.get(float(first.global_step), 0.0))
    return found


def difference(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Return |a - b| over the larger of |a| and |b|; 2 of arrays of different shapes, or that are not finite."""
    if a.shape != b.shape or np.array_equal(a, b):
        return 0.0 if a.shape == b.shape else 2.0
    with np.errstate(all="ignore"):
        apart = float(np.linalg.norm((a - b).ravel()) / max(np.linalg.norm(a), np.linalg.norm(b)))
    return apart if np.isfinite(apart) else 2.0
