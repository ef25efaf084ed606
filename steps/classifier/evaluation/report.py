"""report.html: what a model can and cannot tell apart, in one file that needs no network."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from classifier.data.images import Picture, decode
from classifier.data.prepared_images import PreparedImages
from classifier.data.thumbnails import thumbnail
from classifier.evaluation.abstaining import Abstaining
from classifier.evaluation.comparison import Comparison
from classifier.evaluation.gates import Gate
from classifier.evaluation.groups import LEAST_IMAGES, Gap, Groups
from classifier.evaluation.metrics import Effect, Probabilities
from classifier.model.accuracy import wilson
from classifier.model.predictor import DEFAULT_MAX_PIXELS
from classifier.training.calibration import Reliability
from classifier.training.hyperparameters import hyperparameter_facts
from watch.report.charts import Chart, Line, chart
from watch.report.page import counted, percent, render

SHOWN_MISTAKES = 24  # at most this many pictures
SHOWN_CHANGES = 12  # of those that got better, and of those that got worse
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

    picture: Picture
    name: str
    true: str
    predicted: str
    score: float  # probability of the predicted class
    true_score: float  # probability of the true class
    heat: Picture | None = None  # what the predicted class depends on, see occlusion.py


def worst_mistakes(images: PreparedImages, probabilities: Probabilities, classes: Sequence[str]) -> list[Mistake]:
    """Return the wrongly classified images that the model was most certain about, the worst first."""
    scores = probabilities.max(axis=1)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != images.labels)
    worst = wrong[np.argsort(-scores[wrong], kind="stable")][:SHOWN_MISTAKES]
    return [mistake(images, row, probabilities[row], classes) for row in worst.tolist()]


def mistake(images: PreparedImages, row: int, answer: Probabilities, classes: Sequence[str]) -> Mistake:
    """Return what a model's answer (C,) to a test image shows of it."""
    predicted, true = int(answer.argmax()), int(images.labels[row])
    return Mistake(
        picture=decode(images.read(row), max_pixels=DEFAULT_MAX_PIXELS),
        name=images.name(row),
        true=classes[true],
        predicted=classes[predicted],
        score=float(answer[predicted]),
        true_score=float(answer[true]),
    )


def changes(
    images: PreparedImages, probabilities: Probabilities, comparison: Comparison | None, classes: Sequence[str]
) -> dict[str, list[Mistake]]:
    """Return pictures of what got worse, with the new model's mistake, and better, with the champion's."""
    if comparison is None or (found := comparison.difference) is None:
        return {}
    sides = {"worse": (found.worse, probabilities), "better": (found.better, found.champion)}
    return {
        kind: [mistake(images, row, answers[row], classes) for row in rows[:SHOWN_CHANGES]]
        for kind, (rows, answers) in sides.items()
    }


def report(
    metrics: Mapping[str, Any],
    mistakes: Sequence[Mistake],
    model: Mapping[str, Any],
    manifest: Mapping[str, Any],
    *,
    calibration: Effect | None = None,
    confident: Abstaining | None = None,
    comparison: Comparison | None = None,
    changed: Mapping[str, Sequence[Mistake]] | None = None,
    groups: Groups | None = None,
    gap: Gap | None = None,
    gates: Sequence[Gate] = (),
) -> str:
    """Return the page of evaluation.json's `multiclass_classification_metrics`, model.json and manifest.json."""
    per_class, skipped = metrics["per_class"], manifest.get("skipped", [])
    accuracy, count = metrics["accuracy"]["value"], sum(scores["support"] for scores in per_class.values())
    right = round(accuracy * count)
    both = (comparison.new, comparison.champion) if comparison and comparison.champion else None
    return render(
        "classifier/evaluation/report.html",
        thumbnail=thumbnail,
        signed=signed,
        title=f"Evaluation: {percent(accuracy)} accuracy",
        metrics=metrics,
        accuracy=accuracy,
        right=right,
        test_images=count,
        selected_on=selected_on(model, manifest),
        top_5_from=TOP_5_FROM,
        comparison=comparison,
        changed=changed or {},
        groups=groups or {},
        least_images=LEAST_IMAGES,
        gap=gap,
        gates=gates,
        compared_figures=list(compared_figures(*both)) if both else [],
        compared_classes=compared_classes(*both) if both else [],
        compared_most=COMPARED_CLASSES,
        short_names=max(map(len, per_class)) <= SHORT_NAME,
        pairs=confused_pairs(metrics["confusion_matrix"]),
        mistakes=mistakes,
        classes=sorted(per_class.items(), key=lambda item: (item[1]["f1"], item[0])),
        calibration=calibration,
        confident=confident,
        diagram=diagram,
        model=model,
        manifest=manifest,
        hyperparameters=hyperparameter_facts(model["hyperparameters"]),
        skipped=skipped[:SHOWN_SKIPPED],
        skipped_count=len(skipped),
    )


def selected_on(model: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """Return the validation accuracy, which is no estimate of what the model will reach: it was chosen by it."""
    images = sum(manifest["counts"].get("validation", {}).values())
    accuracy = model["validation"]["validation_accuracy"]
    low, high = wilson(accuracy, images)
    return f"{percent(accuracy)} (selected on; {counted(images, 'image')}, 95 %: {percent(low)} to {percent(high)})"


def confused_pairs(matrix: Mapping[str, Mapping[str, int]]) -> list[tuple[int, str, str, int]]:
    """Return count, true class, predicted class and images of the true class; the most frequent first."""
    pairs = [
        (count, true, predicted, sum(row.values()))
        for true, row in matrix.items()
        for predicted, count in row.items()
        if count and true != predicted
    ]
    return sorted(pairs, key=lambda pair: (-pair[0], -pair[0] / pair[3], pair[1], pair[2]))[:SHOWN_PAIRS]


def compared_figures(metrics: Mapping[str, Any], champion: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Yield the rows of the table that sets the champion's figures beside this model's."""
    for name, (title, is_share, more_is_better) in COMPARED_FIGURES.items():
        if name != "top_5_accuracy" or len(metrics["per_class"]) >= TOP_5_FROM:
            new, old = metrics[name]["value"], champion[name]["value"]
            new_text, old_text = (percent(value) if is_share else f"{value:.3f}" for value in (new, old))
            difference = f"{signed(100 * (new - old), 1)} points" if is_share else signed(new - old, 3)
            better = kind(new - old if more_is_better else old - new)
            yield {"title": title, "new": new_text, "old": old_text, "difference": difference, "kind": better}


def compared_classes(metrics: Mapping[str, Any], champion: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the classes whose F1 differs from the champion's, with the bar of each, those that differ most first."""
    rows = []
    for name, scores in metrics["per_class"].items():
        new, old = scores["f1"], champion["per_class"][name]["f1"]
        row = {"name": name, "support": scores["support"], "new": new, "old": old, "difference": new - old}
        if kind(new - old) != "alike":
            rows.append({**row, "kind": kind(new - old)})
    rows.sort(key=lambda row: (-abs(row["difference"]), row["name"]))
    for row in rows:  # percent of the bar's width, from its middle
        row["start"], row["end"] = sorted((50.0, 50 + 50 * row["difference"] / abs(rows[0]["difference"])))
    return rows


def signed(value: float, decimals: int) -> str:
    """Write a number with its sign, and none for what rounds to 0."""
    text = f"{abs(value):.{decimals}f}"
    return ("" if not float(text) else "+" if value > 0 else "\N{MINUS SIGN}") + text


def kind(gained: float) -> str:
    """Return the CSS class of a difference: better, worse or alike."""
    return "alike" if abs(gained) < SMALLEST_SHOWN else "better" if gained > 0 else "worse"


def diagram(title: str, found: Reliability) -> str:
    """Return a reliability diagram: how often the model is right when it says how sure it is."""
    bins = [part for part in found.bins if part.images]
    confidences, accuracies = ([100 * getattr(part, name) for part in bins] for name in ("confidence", "accuracy"))
    titles = [f"{part.images:,} images: {percent(part.accuracy)} right" for part in bins]
    lines = [Line("as it should be", [0, 100], [0, 100]), Line("found", confidences, accuracies, "dots", titles)]
    title = f"{title}: expected calibration error {percent(found.error)}"
    return chart(Chart(title, "score, %", "right, %", lines, y_limits=(0, 100), log_y=False))
