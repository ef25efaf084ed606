"""Figures of a multiclass classification, computed from true labels and predicted probabilities with NumPy.

The names and the layout are those of SageMaker Model Monitor's model-quality statistics for multiclass problems (AWS
guide, "model-monitor-model-quality-metrics"), which the model registry displays.
What is not in that list stands beside it.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from classifier.training.calibration import Reliability, reliability, softmax

Labels = npt.NDArray[np.int64]  # (N,) index into classes
Probabilities = npt.NDArray[np.float32]  # (N, C), rows sum to 1
Counts = npt.NDArray[np.int64]  # (C, C): rows are true classes, columns predicted ones
PerClass = npt.NDArray[np.float64]  # (C,)

SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)  # what log loss takes for 0, as scikit-learn does for float32


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 of every class; 0 where a class was never predicted or never occurs."""

    precision: PerClass
    recall: PerClass
    f1: PerClass
    support: Labels  # (C,) images whose true class it is
    occurs: npt.NDArray[np.bool_]  # (C,) it was predicted or is true somewhere: only these count in macro means


def confusion_matrix(labels: Labels, predicted: Labels, class_count: int) -> Counts:
    """How often each true class (row) was predicted as each class (column)."""
    pairs = np.bincount(labels * class_count + predicted, minlength=class_count * class_count)
    return pairs.reshape(class_count, class_count)


def class_scores(confusion: Counts) -> ClassScores:
    """Per-class figures from the confusion matrix."""
    hits = np.diag(confusion).astype(np.float64)
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    return ClassScores(
        precision=_share(hits, predicted),
        recall=_share(hits, support),
        f1=_share(2 * hits, support + predicted),
        support=support,
        occurs=(support + predicted) > 0,
    )


def accuracy(confusion: Counts) -> float:
    """Share of images whose predicted class is the true one."""
    return float(np.trace(confusion) / confusion.sum())


def top_k_accuracy(labels: Labels, probabilities: Probabilities, k: int) -> float:
    """Share of images whose true class is among the k most probable ones."""
    ranked = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]  # (N, k)
    return float((ranked == labels[:, None]).any(axis=1).mean())


def log_loss(labels: Labels, probabilities: Probabilities) -> float:
    """Mean negative logarithm of the true class's probability."""
    true_class = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(true_class, SMALLEST_PROBABILITY, 1.0)).mean())


def classification_metrics(labels: Labels, probabilities: Probabilities, classes: list[str]) -> dict[str, Any]:
    """The value of `multiclass_classification_metrics` in evaluation.json."""
    confusion = confusion_matrix(labels, probabilities.argmax(axis=1), len(classes))
    scores = class_scores(confusion)
    weights = scores.support / scores.support.sum()
    figures = {
        "accuracy": accuracy(confusion),
        "weighted_precision": float(weights @ scores.precision),
        "weighted_recall": float(weights @ scores.recall),
        "weighted_f1": float(weights @ scores.f1),
        "macro_f1": float(scores.f1[scores.occurs].mean()),
        "top_5_accuracy": top_k_accuracy(labels, probabilities, 5),
        "loss": log_loss(labels, probabilities),
        "expected_calibration_error": reliability(probabilities, labels).error,
    }
    return {
        **{name: {"value": value, "standard_deviation": "NaN"} for name, value in figures.items()},
        "confusion_matrix": {
            true: dict(zip(classes, row, strict=True)) for true, row in zip(classes, confusion.tolist(), strict=True)
        },
        "per_class": {
            name: {
                "precision": float(scores.precision[index]),
                "recall": float(scores.recall[index]),
                "f1": float(scores.f1[index]),
                "support": int(scores.support[index]),
            }
            for index, name in enumerate(classes)
        },
    }


def _share(part: PerClass, whole: Labels) -> PerClass:
    """part / whole, and 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


@dataclass(frozen=True)
class Effect:
    """The network as it is deployed, and the same network without its temperature, on the same images."""

    temperature: float
    calibrated: Reliability
    uncalibrated: Reliability

    def document(self) -> dict[str, Any]:
        """`calibration` of evaluation.json."""
        return {
            "temperature": self.temperature,
            "expected_calibration_error": self.calibrated.error,
            "uncalibrated_error": self.uncalibrated.error,
            "reliability": [asdict(part) for part in self.calibrated.bins],
        }


def effect(probabilities: Probabilities, labels: Labels, temperature: float) -> Effect:
    """What the temperature does to a network's answers, which are given as they are with it."""
    before = reliability(uncalibrated(probabilities, temperature), labels)
    return Effect(temperature, reliability(probabilities, labels), before)


def uncalibrated(probabilities: Probabilities, temperature: float) -> npt.NDArray[np.float64]:
    """What the probabilities were before the temperature was applied."""
    return softmax(np.log(np.maximum(probabilities.astype(np.float64), 1e-30)), 1 / temperature)
