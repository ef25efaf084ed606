"""drift.html: whether what the endpoint was sent is like the training's images, how that was judged, what differs."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from classifier.data.images import Picture
from classifier.data.thumbnails import thumbnail
from classifier.drift.baseline import Coordinates
from classifier.drift.distance import DRAWS, SMALL, UNUSUAL, Drift, strangeness, unusual_from
from classifier.drift.statistics import CLASSES, FIGURES, MAJOR, MODERATE
from watch.report.charts import Chart, Line, chart
from watch.report.page import render

SHOWN_DOTS = 400  # of each kind
BARS = 40
MOST_BARS = 40  # of classes
MEANING = {"none": "no difference", "moderate": "a moderate difference", "major": "a major difference"}


def report(
    document: dict[str, Any],  # drift.json
    known: dict[str, Any],  # EvaluateModel's baseline.json
    drift: Drift,
    coordinates: tuple[Coordinates, Coordinates],  # of the captured images, of the reference
    strangers: Sequence[tuple[Picture, int, float, float]],  # picture, predicted class, its probability, strangeness
) -> str:
    """Return the page."""
    results, bound = document["statistics"], unusual_from(coordinates[1])
    charts = (chance(drift), strangeness_of(coordinates, bound), cloud(coordinates), shift(document))
    bins = {name: bin_names(known["figures"][name]["bounds"], name) for name in FIGURES} | {CLASSES: known["classes"]}
    return render(
        "classifier/drift/report.html",
        thumbnail=thumbnail,
        title=f"{'Drift' if drift.alarm else 'No drift'}: what the endpoint was sent",
        document=document,
        drift=drift,
        unusual=1 - UNUSUAL,
        draws=DRAWS,
        small=SMALL,
        moderate=MODERATE,
        major=MAJOR,
        meaning=MEANING,
        charts=[chart(one) for one in charts],
        bound=bound,
        strangers=strangers,
        known=known,
        histograms=[histogram(name, bins[name], results[name]) for name in results],
    )


def chance(drift: Drift) -> Chart:
    """The draws, the threshold and this check."""
    counts, edges = np.histogram(drift.draws, bins=BARS)
    found = Line(f"this check, {drift.distance:.3f}", [drift.distance], [0.0], kind="dots")
    lines, marks = [outline("draws", counts, edges), found], {f"alarm from {drift.threshold:.3f}": drift.threshold}
    far = drift.distance > 8 * drift.threshold and bool(edges[0] > 0)
    return Chart("By chance, and found", "distance", "draws", lines, marks=marks, log_x=far)


def strangeness_of(coordinates: tuple[Coordinates, Coordinates], bound: float) -> Chart:
    """How far single images are from the centre."""
    found, usual = (strangeness(rows) for rows in coordinates)
    edges = np.histogram_bin_edges(np.concatenate([found, usual]), BARS)
    lines = [
        outline(name, 100 * np.histogram(values, bins=edges)[0] / len(values), edges)
        for name, values in (("training's", usual), ("captured", found))
    ]
    marks, y_label = {"1 of 100 of the training's is beyond": bound}, "share of the images, %"
    return Chart("How strange single images are", "strangeness, deviations", y_label, lines, marks=marks)


def outline(name: str, heights: npt.NDArray[Any], edges: npt.NDArray[np.float64]) -> Line:
    """A histogram's outline."""
    return Line(name, np.repeat(edges, 2)[1:-1].tolist(), np.repeat(heights, 2).tolist())


def cloud(coordinates: tuple[Coordinates, Coordinates]) -> Chart:
    """The two coordinates that vary most in training, of some of the images."""
    captured, reference = (rows[:: -(-len(rows) // SHOWN_DOTS)] for rows in coordinates)
    lines = [
        Line(name, rows[:, 0].tolist(), rows[:, 1].tolist(), kind="dots")
        for name, rows in (("training's", reference), ("captured", captured))
    ]
    return Chart("The first two components", "component 1, deviations", "component 2", lines)


def shift(document: dict[str, Any]) -> Chart:
    """Which coordinates have moved."""
    found = list(document["coordinates"].values())
    means, deviations = [entry["shift"] for entry in found], [entry["spread"] - 1 for entry in found]
    places, names = range(len(found)), [*(str(number + 1) for number in range(len(found) - 1)), "R"]
    lines = [Line("mean", places, means, "dots"), Line("deviation, less 1", places, deviations, "dots")]
    limits = (-1.0, 1.0) if max(map(abs, [*means, *deviations])) < 1 else ()
    x_label, y_label = "component; R is what they leave of an image", "deviations of the training's"
    return Chart("What has moved", x_label, y_label, lines, categories=names, y_limits=limits)


def bin_names(bounds: list[float], name: str) -> list[str]:
    """What each bin holds."""
    texts = [f"{bound:.3f}" if name == "confidence" else f"{bound:.1f}" for bound in bounds]
    return [f"up to {texts[0]}", *(f"{low} to {high}" for low, high in pairwise(texts)), f"above {texts[-1]}"]


def histogram(title: str, names: Sequence[str], result: dict[str, Any]) -> dict[str, Any]:
    """A table: a row for each bin with its shares; of very many classes those whose share has changed most."""
    bins = list(zip(names, result["expected"], result["found"], strict=True))
    if len(names) > MOST_BARS:
        bins = sorted(bins, key=lambda row: -abs(row[2] - row[1]))[:MOST_BARS]
    largest = max(share for _, *pair in bins for share in pair)
    return {"title": title, "bins": bins, "rest": len(names) - len(bins), "largest": largest}
