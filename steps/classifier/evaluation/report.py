"""report.html: what a model can and cannot tell apart, in one file that needs no network.

Sections, top to bottom: headline figures, the comparison with the model in service if there was one, confusion matrix
with the most confused classes, the most confident mistakes with their pictures, figures per class, how far the scores
can be trusted, and what was trained on what.
"""

import base64
import io
import math
from dataclasses import dataclass
from html import escape
from typing import Any

from PIL import Image

from classifier.evaluation.comparison import Comparison
from classifier.evaluation.metrics import Effect
from classifier.evaluation.report_comparison import comparison_section
from classifier.evaluation.report_reliability import reliability_section
from classifier.reports.page import HYPERPARAMETERS, bar_cell, facts, page, percent, section, tiles
from classifier.reports.style import EVALUATION_STYLE, PAGE_STYLE

SHOWN_MISTAKES = 24  # at most this many pictures
SHOWN_PAIRS = 10
THUMBNAIL_PX = 192  # longer side
TINY_PX = 64  # smaller pictures are kept as they are, and enlarged by the browser with visible pixels
SHORT_NAME = 3  # characters; such column heads need not be turned


@dataclass(frozen=True)
class Mistake:
    """One wrongly classified test image."""

    picture: Image.Image
    name: str
    true: str
    predicted: str
    score: float  # probability of the predicted class
    true_score: float  # probability of the true class


@dataclass(frozen=True)
class Evaluation:
    """All that the report shows."""

    metrics: dict[str, Any]  # multiclass_classification_metrics of evaluation.json
    classes: list[str]
    mistakes: list[Mistake]  # the worst ones, most confident first
    model: dict[str, Any]  # model.json
    manifest: dict[str, Any]  # manifest.json
    comparison: Comparison | None = None  # with the model in service, where that was asked for
    calibration: Effect | None = None  # of the temperature, where the model has one

    @property
    def test_images(self) -> int:
        return sum(scores["support"] for scores in self.metrics["per_class"].values())


def render(evaluation: Evaluation) -> str:
    """The whole page."""
    sections = [
        _headline(evaluation),
        *([comparison_section(evaluation.metrics, evaluation.comparison)] if evaluation.comparison else []),
        _confusion(evaluation),
        _mistakes(evaluation),
        _classes(evaluation),
        *([reliability_section(evaluation.calibration)] if evaluation.calibration else []),
        _provenance(evaluation),
    ]
    title = f"Evaluation: {percent(_value(evaluation, 'accuracy'))} accuracy"
    return page(title, PAGE_STYLE + EVALUATION_STYLE, sections)


def _headline(evaluation: Evaluation) -> str:
    count = evaluation.test_images
    accuracy = _value(evaluation, "accuracy")
    low, high = wilson_interval(accuracy, count)
    figures = {
        "Macro F1": f"{_value(evaluation, 'macro_f1'):.3f}",
        "Top-5 accuracy": percent(_value(evaluation, "top_5_accuracy")),
        "Log loss": f"{_value(evaluation, 'loss'):.3f}",
        "Calibration error": percent(_value(evaluation, "expected_calibration_error")),
        "Classes": str(len(evaluation.classes)),
        "Test images": f"{count:,}",
    }
    return (
        "<header><h1>Evaluation on the test split</h1>"
        f'<p class="accuracy"><strong>{percent(accuracy)}</strong> accuracy</p>'
        f"<p>{round(accuracy * count):,} of {count:,} test images are classified correctly. With this many images, the "
        f"true accuracy lies between {percent(low)} and {percent(high)} in 19 of 20 cases.</p>"
        f"{tiles(figures)}</header>"
    )


def _confusion(evaluation: Evaluation) -> str:
    matrix = evaluation.metrics["confusion_matrix"]
    heads = "".join(f'<th scope="col"><span title="{escape(name)}">{escape(name)}</span></th>' for name in matrix)
    rows = "".join(
        f'<tr><th scope="row" title="{escape(true)}">{escape(true)}</th>{_cells(true, row)}</tr>'
        for true, row in matrix.items()
    )
    short = " short" if max(map(len, matrix)) <= SHORT_NAME else ""
    return section(
        "Confusion matrix",
        "<p>Rows are the true classes, columns the predicted ones; the colour is the share of the row.</p>"
        f'<div class="beside"><div class="scroll" tabindex="0"><table class="matrix{short}"><thead><tr>'
        f'<th class="corner">true \\ predicted</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        f"{_pairs(evaluation)}</div>",
    )


def _cells(true: str, row: dict[str, int]) -> str:
    total = max(1, sum(row.values()))
    return "".join(_cell(true, predicted, count, count / total) for predicted, count in row.items())


def _cell(true: str, predicted: str, count: int, share: float) -> str:
    kind = ' class="hit"' if true == predicted else ""
    if not count:
        return f"<td{kind}></td>"
    title = escape(f"{true} taken for {predicted}: {count} ({percent(share)})")
    return f'<td{kind} style="--share:{share:.2f}" title="{title}">{count}</td>'


def _pairs(evaluation: Evaluation) -> str:
    confused = [
        (count, true, predicted, sum(row.values()))
        for true, row in evaluation.metrics["confusion_matrix"].items()
        for predicted, count in row.items()
        if count and true != predicted
    ]
    confused.sort(key=lambda pair: (-pair[0], -pair[0] / pair[3], pair[1], pair[2]))
    if not confused:
        return ""
    items = "".join(
        f"<li><b>{escape(true)}</b> taken for <b>{escape(predicted)}</b>: {count} of {total}</li>"
        for count, true, predicted, total in confused[:SHOWN_PAIRS]
    )
    return f'<div class="pairs"><h3>Most confused classes</h3><ol>{items}</ol></div>'


def _mistakes(evaluation: Evaluation) -> str:
    if not evaluation.mistakes:
        return section("Mistakes", "<p>None: every test image is classified correctly.</p>")
    shown = len(evaluation.mistakes)
    total = evaluation.test_images - round(_value(evaluation, "accuracy") * evaluation.test_images)
    which = "All" if shown == total else f"{shown} of"
    return section(
        "Worst mistakes",
        f"<p>{which} {total} mistakes, the most confident first: what the model said, and what it should have said.</p>"
        f'<div class="mistakes">{"".join(_figure(mistake) for mistake in evaluation.mistakes)}</div>',
    )


def _figure(mistake: Mistake) -> str:
    pixelated = ' class="tiny"' if max(mistake.picture.size) < TINY_PX else ""
    return (
        f'<figure><img{pixelated} src="{data_uri(mistake.picture)}" alt="{escape(mistake.name)}" '
        f'title="{escape(mistake.name)}" loading="lazy"><figcaption>'
        f'<span class="wrong">{escape(mistake.predicted)}</span> {percent(mistake.score)}<br>'
        f'<span class="right">{escape(mistake.true)}</span> {percent(mistake.true_score)}'
        "</figcaption></figure>"
    )


def _classes(evaluation: Evaluation) -> str:
    per_class = evaluation.metrics["per_class"]
    ordered = sorted(per_class, key=lambda name: (per_class[name]["f1"], name))
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("Class", "Images", "Precision", "Recall", "F1"))
    rows = "".join(_class_row(name, per_class[name]) for name in ordered)
    return section(
        "Classes",
        "<p>The class that the model finds hardest comes first.</p>"
        f'<div class="scroll" tabindex="0"><table class="classes"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>",
    )


def _class_row(name: str, scores: dict[str, float]) -> str:
    bars = "".join(
        bar_cell(label, scores[key], f"{scores[key]:.2f}")
        for label, key in (("Precision", "precision"), ("Recall", "recall"), ("F1", "f1"))
    )
    return f'<tr><th scope="row">{escape(name)}</th><td class="support">{scores["support"]:,}</td>{bars}</tr>'


def _provenance(evaluation: Evaluation) -> str:
    model, manifest = evaluation.model, evaluation.manifest
    size = model["preprocess"]["image_size"]
    validation = model["validation"]
    trained = {
        "Backbone": f"{model['backbone']}, frozen, at {size} × {size} px",
        "Kept epoch": f"{validation['epoch']}, with validation accuracy {percent(validation['validation_accuracy'])}",
        **{
            HYPERPARAMETERS[name]: str(value)
            for name, value in model["hyperparameters"].items()
            if name in HYPERPARAMETERS
        },
    }
    counts = {split: sum(classes.values()) for split, classes in manifest["counts"].items()}
    data = {
        **{f"{split.capitalize()} images": f"{count:,}" for split, count in counts.items()},
        "Augmented views": str(manifest.get("augmented_views", 0)),
        "Skipped files": f"{len(manifest.get('skipped', [])):,}",
        "Duplicates dropped": f"{len(manifest.get('duplicates', [])):,}",
        "Data set SHA-256": manifest["dataset_sha256"],
    }
    return section("What was trained", f'<div class="facts">{facts("Model", trained)}{facts("Data", data)}</div>')


def _value(evaluation: Evaluation, name: str) -> float:
    return float(evaluation.metrics[name]["value"])


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Bounds of a binomial share (Wilson 1927); z = 1.96 is 95 % confidence."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def data_uri(picture: Image.Image) -> str:
    """A small copy of the picture as a data URI: JPEG, or PNG if it is tiny."""
    buffer = io.BytesIO()
    if max(picture.size) < TINY_PX:
        picture.save(buffer, "PNG")
        kind = "png"
    else:
        small = picture.copy()
        small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        small.save(buffer, "JPEG", quality=82)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
