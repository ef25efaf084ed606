"""report.html: what a model can and cannot tell apart, in one file that needs no network.

Sections, top to bottom: headline figures, the comparison with the model in service if there was one, confusion matrix
with the most confused classes, the most confident mistakes with their pictures, figures per class, how far the scores
can be trusted, and what was trained on what.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from scipy.stats import binomtest

from classifier.evaluation.comparison import Comparison
from classifier.evaluation.metrics import Effect
from classifier.reports.charts import Chart, Line, chart
from classifier.reports.page import hyperparameter_facts, percent, render, signed
from classifier.training.results import Reliability

SHOWN_MISTAKES = 24  # at most this many pictures
SHOWN_PAIRS = 10
SHOWN_SKIPPED = 50
SHORT_NAME = 3  # characters; such column heads need not be turned
COMPARED_CLASSES = 10  # at most, those whose F1 differs most
SMALLEST_SHOWN = 0.0005  # a smaller difference reads as none with three decimals
TOP_5_FROM = 6  # classes; of five or fewer, the right one is always among the five best
COMPARED_FIGURES = {  # name: title, whether it is a share, whether more is better
    "accuracy": ("Accuracy", True, True),
    "macro_f1": ("Macro F1", False, True),
    "top_5_accuracy": ("Top-5 accuracy", True, True),
    "loss": ("Log loss", False, False),
}


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

    def value(self, name: str) -> float:
        return float(self.metrics[name]["value"])


def report(evaluation: Evaluation) -> str:
    """The whole page."""
    per_class = evaluation.metrics["per_class"]
    count = sum(scores["support"] for scores in per_class.values())
    accuracy = evaluation.value("accuracy")
    right = round(accuracy * count)
    interval = binomtest(right, count).proportion_ci(0.95, method="wilson")
    calibration = evaluation.calibration
    skipped = evaluation.manifest.get("skipped", [])
    return render(
        "evaluation/report.html",
        title=f"Evaluation: {percent(accuracy)} accuracy",
        accuracy=accuracy,
        right=right,
        wrong=count - right,
        test_images=count,
        interval=(interval.low, interval.high),
        figures=headline_figures(evaluation, count),
        comparison=evaluation.comparison,
        **compared(evaluation.metrics, evaluation.comparison),
        confusion=evaluation.metrics["confusion_matrix"],
        short_names=max(map(len, evaluation.classes)) <= SHORT_NAME,
        pairs=confused_pairs(evaluation.metrics["confusion_matrix"]),
        mistakes=evaluation.mistakes,
        classes=sorted(per_class.items(), key=lambda item: (item[1]["f1"], item[0])),
        calibration=calibration,
        reliability=[
            diagram("As trained", calibration.uncalibrated),
            diagram("As deployed", calibration.calibrated),
        ]
        if calibration
        else [],
        trained=trained_facts(evaluation.model),
        data=data_facts(evaluation.manifest),
        skipped=[(file.get("path", ""), file.get("reason", "")) for file in skipped[:SHOWN_SKIPPED]],
        skipped_count=len(skipped),
    )


def headline_figures(evaluation: Evaluation, count: int) -> dict[str, str]:
    """The tiles at the top."""
    figures = {
        "Macro F1": f"{evaluation.value('macro_f1'):.3f}",
        "Top-5 accuracy": percent(evaluation.value("top_5_accuracy")),
        "Log loss": f"{evaluation.value('loss'):.3f}",
        "Calibration error": percent(evaluation.value("expected_calibration_error")),
        "Classes": str(len(evaluation.classes)),
        "Test images": f"{count:,}",
    }
    if len(evaluation.classes) < TOP_5_FROM:
        del figures["Top-5 accuracy"]
    return figures


def confused_pairs(matrix: Mapping[str, Mapping[str, int]]) -> list[tuple[int, str, str, int]]:
    """Count, true class, predicted class and images of the true class; the most frequent first."""
    pairs = [
        (count, true, predicted, sum(row.values()))
        for true, row in matrix.items()
        for predicted, count in row.items()
        if count and true != predicted
    ]
    pairs.sort(key=lambda pair: (-pair[0], -pair[0] / pair[3], pair[1], pair[2]))
    return pairs[:SHOWN_PAIRS]


def compared(metrics: Mapping[str, Any], comparison: Comparison | None) -> dict[str, Any]:
    """Rows of the two tables that set the model in service beside this one."""
    if comparison is None or comparison.metrics is None:
        return {"compared_figures": [], "compared_classes": [], "differing": 0}
    old = comparison.metrics
    figures = [
        compared_figure(name, metrics[name]["value"], old[name]["value"])
        for name in COMPARED_FIGURES
        if name != "top_5_accuracy" or len(metrics["per_class"]) >= TOP_5_FROM
    ]
    f1 = {name: (scores["f1"], old["per_class"][name]["f1"]) for name, scores in metrics["per_class"].items()}
    differing = [name for name, (new, before) in f1.items() if abs(new - before) >= SMALLEST_SHOWN]
    differing.sort(key=lambda name: (-abs(f1[name][0] - f1[name][1]), name))
    classes = []
    for name in differing[:COMPARED_CLASSES]:
        new, before = f1[name]
        widest = abs(f1[differing[0]][0] - f1[differing[0]][1])
        start, end = sorted((50.0, 50 + 50 * (new - before) / widest))  # percent of the bar's width, from its middle
        row = {"name": name, "support": metrics["per_class"][name]["support"], "new": new, "old": before}
        classes.append({**row, "difference": new - before, "kind": kind(new - before), "start": start, "end": end})
    return {"compared_figures": figures, "compared_classes": classes, "differing": len(differing)}


def compared_figure(name: str, new: float, old: float) -> dict[str, str]:
    """One row of the table of figures."""
    title, is_share, more_is_better = COMPARED_FIGURES[name]
    written = percent if is_share else "{:.3f}".format
    difference = f"{signed(100 * (new - old), 1)} points" if is_share else signed(new - old, 3)
    better = kind((new - old) if more_is_better else (old - new))
    return {"title": title, "new": written(new), "old": written(old), "difference": difference, "kind": better}


def kind(gained: float) -> str:
    """The CSS class of a difference: better, worse or alike."""
    return "alike" if abs(gained) < SMALLEST_SHOWN else "better" if gained > 0 else "worse"


def diagram(title: str, found: Reliability) -> str:
    """Reliability diagram: how often the model is right when it says how sure it is."""
    bins = [part for part in found.bins if part.images]
    return chart(
        Chart(
            title=f"{title}: expected calibration error {percent(found.error)}",
            x_label="score, %",
            y_label="right, %",
            lines=[
                Line("as it should be", [0, 100], [0, 100]),
                Line(
                    "found",
                    [100 * part.confidence for part in bins],
                    [100 * part.accuracy for part in bins],
                    kind="dots",
                    titles=[f"{part.images:,} images: {percent(part.accuracy)} right" for part in bins],
                ),
            ],
            y_limits=(0, 100),
            log_y=False,
        )
    )


def trained_facts(model: Mapping[str, Any]) -> dict[str, str]:
    """What was trained."""
    size, validation = model["preprocess"]["image_size"], model["validation"]
    part = "frozen" if model["hyperparameters"].get("finetune", "none") == "none" else "fine-tuned"
    return {
        "Backbone": f"{model['backbone']}, {part}, at {size} × {size} px",
        "Kept epoch": f"{validation['epoch']}, with validation accuracy {percent(validation['validation_accuracy'])}",
        **hyperparameter_facts(model["hyperparameters"]),
    }


def data_facts(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What it was trained on."""
    counts = {split: sum(classes.values()) for split, classes in manifest["counts"].items()}
    return {
        **{f"{split.capitalize()} images": f"{count:,}" for split, count in counts.items()},
        "Augmented views": str(manifest.get("augmented_views", 0)),
        "Skipped files": f"{len(manifest.get('skipped', [])):,}",
        "Duplicates dropped": f"{len(manifest.get('duplicates', [])):,}",
        "Data set SHA-256": manifest["dataset_sha256"],
    }
