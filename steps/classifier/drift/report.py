"""drift.html: whether what the endpoint was sent is like the training's images, how that was judged, what differs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from classifier.data.images import Picture
from classifier.drift.baseline import Coordinates
from classifier.drift.distance import DRAWS, SMALL, UNUSUAL, Drift, unusual
from classifier.drift.statistics import CLASSES, FIGURES, MAJOR, MODERATE
from classifier.reports.charts import Chart, Line, chart
from classifier.reports.page import SPACE, percent, render

SHOWN_DOTS = 400  # of each kind
BARS = 40
MOST_BARS = 40  # of classes
MEANING = {"none": "no difference", "moderate": "a moderate difference", "major": "a major difference"}


@dataclass(frozen=True)
class Stranger:
    """A captured image that is little like the reference."""

    picture: Picture
    label: int
    confidence: float
    strangeness: float  # root mean square of its coordinates


@dataclass(frozen=True)
class DriftReport:
    """What the page shows."""

    document: dict[str, Any]  # drift.json
    known: dict[str, Any]  # EvaluateModel's baseline.json
    drift: Drift
    captured: Coordinates
    reference: Coordinates
    strangers: Sequence[Stranger]


def report(shown: DriftReport) -> str:
    """The whole page."""
    document, drift, known = shown.document, shown.drift, shown.known
    verdict = "Drift" if drift.alarm else "No drift"
    results = document["statistics"]
    tables = [
        *(histogram(name, bin_names(known["figures"][name]["bounds"], name), results[name]) for name in FIGURES),
        histogram(CLASSES, known["classes"], results[CLASSES]),
    ]
    return render(
        "drift/report.html",
        title=f"{verdict}: what the endpoint was sent",
        verdict=verdict,
        document=document,
        drift=drift,
        figures={
            "Drift score": f"{drift.score:.2f}",
            "Captured images": f"{document['images']:,}",
            f"Unusual (expected: {100 * (1 - UNUSUAL):.0f}{SPACE}%)": percent(document["unusual_share"]),
            "Mean confidence": percent(document["mean_confidence"]),
            "Reference images": f"{document['reference_images']:,}",
        },
        differing=[(name, MEANING[found["drift"]]) for name, found in results.items() if found["drift"] != "none"],
        draws=DRAWS,
        small=SMALL,
        moderate=MODERATE,
        major=MAJOR,
        meaning=MEANING,
        charts=[chart(one) for one in (chance(drift), strangeness(shown), cloud(shown), shift(document))],
        bound=unusual(shown.captured, shown.reference)[1],
        strangers=shown.strangers,
        classes=known["classes"],
        known_images=known["images"],
        histograms=tables,
    )


def chance(drift: Drift) -> Chart:
    """The draws, the threshold and this check."""
    counts, edges = np.histogram(drift.draws, bins=BARS)
    return Chart(
        title="By chance, and found",
        x_label="distance",
        y_label="draws",
        lines=[
            Line("draws", *outline(counts, edges)),
            Line(f"this check, {drift.distance:.3f}", [drift.distance], [0.0], kind="dots"),
        ],
        marks={f"alarm from {drift.threshold:.3f}": drift.threshold},
        log_x=drift.distance > 8 * drift.threshold and bool(edges[0] > 0),
    )


def strangeness(shown: DriftReport) -> Chart:
    """How far single images are from the centre."""
    found, bound = unusual(shown.captured, shown.reference)
    usual, _ = unusual(shown.reference, shown.reference)
    edges = np.linspace(min(found.min(), usual.min()), max(found.max(), usual.max()), BARS + 1)
    lines = [
        Line(name, *outline(100 * np.histogram(values, bins=edges)[0] / len(values), edges))
        for name, values in (("training's", usual), ("captured", found))
    ]
    return Chart(
        title="How strange single images are",
        x_label="strangeness, deviations",
        y_label="share of the images, %",
        lines=lines,
        marks={"1 of 100 of the training's is beyond": bound},
    )


def outline(heights: npt.NDArray[Any], edges: npt.NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """A histogram's outline: x and y."""
    return [float(x) for pair in pairwise(edges) for x in pair], [float(y) for y in heights for _ in range(2)]


def cloud(shown: DriftReport) -> Chart:
    """The two coordinates that vary most in training."""
    lines = [
        Line(name, rows[:, 0].tolist(), rows[:, min(1, rows.shape[1] - 1)].tolist(), kind="dots")
        for name, rows in (("training's", thinned(shown.reference)), ("captured", thinned(shown.captured)))
    ]
    return Chart(
        title="The first two components", x_label="component 1, deviations", y_label="component 2", lines=lines
    )


def thinned(rows: Coordinates) -> Coordinates:
    """At most SHOWN_DOTS of them, evenly."""
    return rows[:: -(-len(rows) // SHOWN_DOTS)]


def shift(document: dict[str, Any]) -> Chart:
    """Which coordinates have moved."""
    found = list(document["coordinates"].values())
    places = [float(number) for number in range(len(found))]
    return Chart(
        title="What has moved",
        x_label="component; R is what they leave of an image",
        y_label="deviations of the training's",
        lines=[
            Line("mean", places, [entry["shift"] for entry in found], kind="dots"),
            Line("deviation, less 1", places, [entry["spread"] - 1 for entry in found], kind="dots"),
        ],
        categories=[*(str(number + 1) for number in range(len(found) - 1)), "R"],
        y_limits=(-1.0, 1.0) if all(abs(entry["shift"]) < 1 and entry["spread"] < 2 for entry in found) else (),
    )


def bin_names(bounds: list[float], name: str) -> list[str]:
    """What a bin holds."""
    texts = [f"{bound:.3f}" if name == "confidence" else f"{bound:.1f}" for bound in bounds]
    return [f"up to {texts[0]}", *(f"{low} to {high}" for low, high in pairwise(texts)), f"above {texts[-1]}"]


def histogram(title: str, names: Sequence[str], result: dict[str, Any]) -> dict[str, Any]:
    """A table: a row for each bin with its shares; of very many classes those whose share has changed most."""
    bins = list(zip(names, result["expected"], result["found"], strict=True))
    rest = len(bins) - MOST_BARS
    if rest > 0:
        bins = sorted(bins, key=lambda row: -abs(row[2] - row[1]))[:MOST_BARS]
    largest = max((share for _, *pair in bins for share in pair), default=1.0)
    return {"title": title, "bins": bins, "rest": rest, "largest": largest}
