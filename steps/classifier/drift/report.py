"""drift.html: whether what the endpoint was sent is like the training's images, how that was judged, what differs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from classifier.data.images import Picture
from classifier.drift.baseline import Coordinates
from classifier.drift.distance import DRAWS, SMALL, UNUSUAL, Drift, unusual
from classifier.drift.statistics import CLASSES, FIGURES, MAJOR, MODERATE
from classifier.evaluation.report import TINY_PX, data_uri
from classifier.reports.charts import Chart, Line, chart
from classifier.reports.page import SPACE, bar_cell, counted, page, percent, section, tiles
from classifier.reports.style import EVALUATION_STYLE, PAGE_STYLE
from classifier.reports.training_style import TRAINING_STYLE

SHOWN_DOTS = 400  # of each kind
BARS = 40
MOST_BARS = 40  # of classes
MEANING = {"none": "no difference", "moderate": "a moderate difference", "major": "a major difference"}
DRIFT_STYLE = """
.chart .dot { fill-opacity: 0.5; }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); }
.charts .chart { max-width: 520px; }
.verdicts { width: 100%; } .verdicts th, .verdicts td { padding: 5px 14px 5px 0; border-top: 1px solid var(--line); }
.verdicts thead th { border: 0; color: var(--dim); font-size: 0.85rem; } .verdicts td { white-space: nowrap; }
.shares { width: 100%; } .shares th { overflow-wrap: anywhere; padding: 2px 12px 2px 0; width: 11rem; }
.shares .bar { width: auto; padding-right: 16px; } .shares .bar span { width: calc(100% - 4.2rem); }
.columns { display: grid; gap: 24px 40px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); }
@media (max-width: 640px) { .shares tr { display: grid; } .shares thead { display: none; } .shares th { width: auto; } }
"""


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


def render(report: DriftReport) -> str:
    """The page."""
    title = "Drift" if report.drift.alarm else "No drift"
    style = PAGE_STYLE + EVALUATION_STYLE + TRAINING_STYLE + DRIFT_STYLE
    parts = [headline(report, title), distances(report), gallery(report), figures(report)]
    return page(f"{title}: what the endpoint was sent", style, parts)


def headline(report: DriftReport, title: str) -> str:
    """The card at the top."""
    document, drift = report.document, report.drift
    tiled = {
        "Drift score": f"{drift.score:.2f}",
        "Captured images": f"{document['images']:,}",
        f"Unusual (expected: {100 * (1 - UNUSUAL):.0f}{SPACE}%)": percent(document["unusual_share"]),
        "Mean confidence": percent(document["mean_confidence"]),
        "Reference images": f"{document['reference_images']:,}",
    }
    comparison = "more than" if drift.alarm else "not more than"
    because = (
        f"Their embeddings differ from those of the training's images by a distance of {drift.distance:.3f}, "
        f"{comparison} the {drift.threshold:.3f} that make an alarm: a score of {drift.score:.2f}, where 1 is the "
        "threshold. "
    )
    meaning = (
        "The test accuracy no longer speaks for such images. They need not be answered wrongly: label some to find "
        "out, and train again with them."
        if drift.alarm
        else "The test accuracy still speaks for such images."
    )
    return (
        f'<header class="outcome {"bad" if drift.alarm else "good"}"><h1>Drift check '
        "<span>what the endpoint was sent, against what the model was trained on</span></h1>"
        f'<p class="verdict"><strong>{title}</strong></p><p class="because">{because}{meaning}</p>'
        f"{tiles(tiled)}{hints(report)}</header>"
    )


def hints(report: DriftReport) -> str:
    """What else differs, in words."""
    found = [
        f'<li class="error">{escape(name.capitalize())}: {MEANING[result["drift"]]} from the test split.</li>'
        for name, result in report.document["statistics"].items()
        if result["drift"] != "none"
    ]
    if not found:
        return '<p class="in-short">Confidence, brightness, contrast, saturation and classes are the usual.</p>'
    return f'<h2>What else differs</h2><ul class="findings">{"".join(found)}</ul>'


def distances(report: DriftReport) -> str:
    """How the score came about."""
    drift, document = report.drift, report.document
    by_chance = percent(1 - document["false_alarm_rate"])
    sentence = (
        f"Distance: the squared difference of the means and of the deviations of each coordinate, on average, in "
        f"deviations of the training's images (Fréchet). {DRAWS:,} times, {document['images']:,} of the captured and "
        f"the training's images together were drawn at random and compared with the rest; {by_chance} of the draws "
        "stay below "
        f"{drift.by_chance:.3f}. The threshold is that, but at least {SMALL:g}, below which a difference is small. "
        f"Images that do not differ give a false alarm in at most {percent(document['false_alarm_rate'])} of checks."
    )
    charts = (chance_chart(report), strangeness_chart(report), cloud(report), shift_chart(report))
    return section("Embeddings", f'<p>{sentence}</p><div class="charts">{"".join(map(chart, charts))}</div>')


def chance_chart(report: DriftReport) -> Chart:
    """The draws, the threshold and this check."""
    drift = report.drift
    counts, edges = np.histogram(drift.draws, bins=BARS)
    return Chart(
        title="By chance, and found",
        x_label="distance",
        y_label="draws",
        lines=[
            Line("draws", *steps(counts, edges)),
            Line(f"this check, {drift.distance:.3f}", [drift.distance], [0.0], kind="dots"),
        ],
        marks={f"alarm from {drift.threshold:.3f}": drift.threshold},
        log_x=drift.distance > 8 * drift.threshold and bool(edges[0] > 0),
    )


def strangeness_chart(report: DriftReport) -> Chart:
    """How far single images are from the centre."""
    found, bound = unusual(report.captured, report.reference)
    usual, _ = unusual(report.reference, report.reference)
    edges = np.linspace(min(found.min(), usual.min()), max(found.max(), usual.max()), BARS + 1)
    lines = [
        Line(name, *steps(100 * np.histogram(values, bins=edges)[0] / len(values), edges))
        for name, values in (("training's", usual), ("captured", found))
    ]
    return Chart(
        title="How strange single images are",
        x_label="strangeness, deviations",
        y_label="share of the images, %",
        lines=lines,
        marks={"1 of 100 of the training's is beyond": bound},
    )


def steps(heights: npt.NDArray[Any], edges: npt.NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """A histogram's outline: x and y."""
    return [float(x) for pair in pairwise(edges) for x in pair], [float(y) for y in heights for _ in range(2)]


def cloud(report: DriftReport) -> Chart:
    """The two coordinates that vary most in training."""
    lines = [
        Line(name, rows[:, 0].tolist(), rows[:, min(1, rows.shape[1] - 1)].tolist(), kind="dots")
        for name, rows in (("training's", thinned(report.reference)), ("captured", thinned(report.captured)))
    ]
    return Chart(
        title="The first two components", x_label="component 1, deviations", y_label="component 2", lines=lines
    )


def thinned(rows: Coordinates) -> Coordinates:
    """At most SHOWN_DOTS of them, evenly."""
    return rows[:: -(-len(rows) // SHOWN_DOTS)]


def shift_chart(report: DriftReport) -> Chart:
    """Which coordinates have moved."""
    found = list(report.document["coordinates"].values())
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


def gallery(report: DriftReport) -> str:
    """The images that are least like the training's."""
    _, bound = unusual(report.captured, report.reference)
    pictures = "".join(figure(stranger, report.known["classes"]) for stranger in report.strangers)
    return section(
        "The strangest images",
        f"<p>The captured images that are least like the training's, and what the model said to them. 99 of 100 of the "
        f"training's images have a strangeness below {bound:.2f}.</p>"
        f'<div class="mistakes">{pictures}</div>',
    )


def figure(stranger: Stranger, classes: Sequence[str]) -> str:
    """One of them."""
    pixelated = ' class="tiny"' if max(stranger.picture.size) < TINY_PX else ""
    return (
        f'<figure><img{pixelated} src="{data_uri(stranger.picture)}" alt="a captured image" loading="lazy"><figcaption>'
        f"<b>{escape(classes[stranger.label])}</b> {percent(stranger.confidence)}<br>strangeness "
        f"{stranger.strangeness:.2f}</figcaption></figure>"
    )


def figures(report: DriftReport) -> str:
    """The statistics that are compared with the test split."""
    document, known = report.document, report.known
    rows = "".join(
        f'<tr><th scope="row">{escape(name.capitalize())}</th><td>{result["distance"]:.3f}</td>'
        f"<td>{result['by_chance']:.3f}</td><td>{MEANING[result['drift']]}</td></tr>"
        for name, result in document["statistics"].items()
    )
    table = (
        f"<p>Compared with the {counted(known['images'], 'image')} of the test split, by the population stability "
        f"index: a difference is moderate from {MODERATE:g}, major from {MAJOR:g}, and counts only above what chance "
        "explains for so many images (99 of 100 samples without any difference stay below). These tell what differs; "
        "they raise no alarm.</p>"
        '<div class="scroll"><table class="verdicts"><thead><tr><th></th><th>Index</th><th>By chance</th>'
        f"<th>Verdict</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return section("Confidence, classes and simple figures", table) + (
        f'<section><div class="columns">{"".join(histograms(report))}</div></section>'
    )


def histograms(report: DriftReport) -> Iterator[str]:
    """A table for each statistic: a row for each bin, its share of the test split and of what was captured."""
    known, results = report.known, report.document["statistics"]
    for name in FIGURES:
        yield histogram(name, bin_names(known["figures"][name]["bounds"], name), results[name])
    yield histogram(CLASSES, known["classes"], results[CLASSES])


def bin_names(bounds: list[float], name: str) -> list[str]:
    """What a bin holds."""
    texts = [f"{bound:.3f}" if name == "confidence" else f"{bound:.1f}" for bound in bounds]
    between = [f"{low} to {high}" for low, high in pairwise(texts)]
    return [f"up to {texts[0]}", *between, f"above {texts[-1]}"]


def histogram(title: str, names: Sequence[str], result: dict[str, Any]) -> str:
    """One table; of very many classes those whose share has changed most."""
    bins = list(zip(names, result["expected"], result["found"], strict=True))
    rest = len(bins) - MOST_BARS
    if rest > 0:
        bins = sorted(bins, key=lambda row: -abs(row[2] - row[1]))[:MOST_BARS]
    largest = max((share for _, *pair in bins for share in pair), default=1.0)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{bar_cell("Test split", before / largest, percent(before))}'
        f"{bar_cell('Captured', after / largest, percent(after))}</tr>"
        for name, before, after in bins
    )
    note = f"<p>and {rest:,}{SPACE}more that have changed less.</p>" if rest > 0 else ""
    return (
        f"<div><h3>{escape(title.capitalize())}</h3>"
        '<table class="shares"><thead><tr><th></th><th>Test split</th><th>Captured</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>{note}</div>"
    )
