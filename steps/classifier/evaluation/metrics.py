"""What evaluation.json says of a model: figures by scikit-learn, from true labels and predicted probabilities.

The names and the layout are those of SageMaker Model Monitor's model-quality statistics for multiclass problems (AWS
guide, "model-monitor-model-quality-metrics"), which the model registry displays. What is not in that list stands
beside it.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics

from classifier.model.accuracy import figure, wilson
from classifier.training.calibration import Reliability, reliability, softmax

Labels = npt.NDArray[np.int64]  # (N,) index into classes
Probabilities = npt.NDArray[np.float32]  # (N, C), rows sum to 1

TOP = 5
SCORES = ("precision", "recall", "f1", "support")  # of a class
SHARES = ("accuracy", "top_5_accuracy")  # of the test images, with their intervals
HEADLINES = ("accuracy", "macro_f1", "top_5_accuracy", "loss")
TEXTS = ("test_images", "dataset_images", "dataset_sha256", "model_sha256", "archive_sha256")  # kept as they are


def classification_metrics(labels: Labels, probabilities: Probabilities, classes: list[str]) -> dict[str, Any]:
    """Return `multiclass_classification_metrics` of evaluation.json.

    Precision, recall and F1 are 0 where a class was never predicted or never occurs; only classes that were predicted
    or occur count in the macro mean.
    """
    every, predicted = np.arange(len(classes)), probabilities.argmax(axis=1)
    confusion = metrics.confusion_matrix(labels, predicted, labels=every)  # rows: true classes
    scores = metrics.precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0.0)
    weighted = [scores[3] / scores[3].sum() @ score for score in scores[:3]]
    many = len(classes) > TOP  # of five classes, the right one is always among the five best
    top_5 = metrics.top_k_accuracy_score(labels, probabilities, k=TOP, labels=every) if many else 1.0
    figures = {
        "accuracy": metrics.accuracy_score(labels, predicted),
        **dict(zip(("weighted_precision", "weighted_recall", "weighted_f1"), weighted, strict=True)),
        "macro_f1": metrics.f1_score(labels, predicted, average="macro", zero_division=0.0),
        "top_5_accuracy": top_5,
        "loss": metrics.log_loss(labels, probabilities, labels=every),
        "expected_calibration_error": reliability(probabilities, labels).error,
    }
    rows = zip(classes, confusion.tolist(), strict=True)
    per_class = zip(classes, *(score.tolist() for score in scores), strict=True)
    shares = {name: figure(figures[name], len(labels)) for name in SHARES}
    return {
        **{
            name: {"value": float(value), "standard_deviation": "NaN", **shares.get(name, {})}
            for name, value in figures.items()
        },
        "confusion_matrix": {true: dict(zip(classes, row, strict=True)) for true, row in rows},
        "per_class": {name: of_class(dict(zip(SCORES, found, strict=True))) for name, *found in per_class},
    }


def of_class(scores: dict[str, Any]) -> dict[str, Any]:
    """Add its recall's interval to the scores of a class."""
    return {**scores, "recall_interval": list(wilson(scores["recall"], scores["support"]))}


def worst_class(per_class: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return `worst_class` of evaluation.json: of the classes with test images the one of the lowest recall."""
    known = {name: scores for name, scores in per_class.items() if scores["support"]}
    name = min(known, key=lambda name: (known[name]["recall"], -known[name]["support"]))
    return {"class": name, "recall": figure(known[name]["recall"], known[name]["support"])}


@dataclass(frozen=True)
class Effect:
    """The network as it is deployed, and the same network without its temperature, on the same images."""

    temperature: float
    calibrated: Reliability
    uncalibrated: Reliability

    def document(self) -> dict[str, Any]:
        """Return `calibration` of evaluation.json."""
        return {
            "temperature": self.temperature,
            "expected_calibration_error": self.calibrated.error,
            "uncalibrated_error": self.uncalibrated.error,
            "reliability": [asdict(part) for part in self.calibrated.bins],
        }


def effect(probabilities: Probabilities, labels: Labels, temperature: float) -> Effect:
    """Return what the temperature does to a network's answers, which are given as they are with it."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-30))
    before = reliability(softmax(logits, 1 / temperature), labels)
    return Effect(temperature, reliability(probabilities, labels), before)


def version_metadata(document: Mapping[str, Any]) -> dict[str, str]:
    """Return `customer_metadata_properties`, made from the rest of evaluation.json: texts that the registry keeps.

    The API takes 1 to 256 letters, digits, spaces and `_.:/=+-@` (CreateModelPackage, CustomerMetadataValue); what it
    refuses becomes `_`, and what is too long ends with three dots.
    """
    figures = document["multiclass_classification_metrics"]
    values = {name: f"{figures[name]['value']:.4f}" for name in HEADLINES}
    values |= {name: str(document[name]) for name in TEXTS}
    accuracy, worst, gap = figures["accuracy"], document["worst_class"], document["group_gap"]
    values["accuracy_interval"] = f"{accuracy['lower_bound']:.4f} to {accuracy['upper_bound']:.4f}"
    values["worst_class"] = "{class}: recall {recall[value]:.4f} of {recall[images]} images".format(**worst)
    described = "{attribute}: {difference:.4f} between {lowest} and {highest}, p = {p_value:.2g}"
    values["group_gap"] = described.format(**gap) if "attribute" in gap else "none"
    values["classes"] = f"{len(document['classes'])}: {' / '.join(document['classes'])}"
    values["classes_sha256"] = hashlib.sha256("\n".join(sorted(document["classes"])).encode()).hexdigest()
    for name in ("hyperparameters", "rules"):
        values[name] = " ".join(f"{key}={value}" for key, value in sorted(document[name].items()))
    most, texts = 256, {name: re.sub(r"[^\w .:/=+\-@]", "_", value).strip() or "none" for name, value in values.items()}
    return {name: text if len(text) <= most else f"{text[: most - 3]}..." for name, text in texts.items()}
