"""Figures of a multiclass classification, by scikit-learn, from true labels and predicted probabilities.

The names and the layout are those of SageMaker Model Monitor's model-quality statistics for multiclass problems (AWS
guide, "model-monitor-model-quality-metrics"), which the model registry displays.
What is not in that list stands beside it.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics

from classifier.training.results import Reliability, reliability, softmax

Labels = npt.NDArray[np.int64]  # (N,) index into classes
Probabilities = npt.NDArray[np.float32]  # (N, C), rows sum to 1

TOP = 5


def classification_metrics(labels: Labels, probabilities: Probabilities, classes: list[str]) -> dict[str, Any]:
    """The value of `multiclass_classification_metrics` in evaluation.json.

    Precision, recall and F1 are 0 where a class was never predicted or never occurs; only classes that were predicted
    or occur count in the macro mean.
    """
    every = np.arange(len(classes))
    predicted = probabilities.argmax(axis=1)
    confusion = metrics.confusion_matrix(labels, predicted, labels=every)  # rows: true classes
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=0.0
    )
    occurs = (support + confusion.sum(axis=0)) > 0
    weights = support / support.sum()
    figures = {
        "accuracy": metrics.accuracy_score(labels, predicted),
        "weighted_precision": weights @ precision,
        "weighted_recall": weights @ recall,
        "weighted_f1": weights @ f1,
        "macro_f1": f1[occurs].mean(),
        "top_5_accuracy": top_accuracy(labels, probabilities),
        "loss": metrics.log_loss(labels, probabilities, labels=every),
        "expected_calibration_error": reliability(probabilities, labels).error,
    }
    return {
        **{name: {"value": float(value), "standard_deviation": "NaN"} for name, value in figures.items()},
        "confusion_matrix": {
            true: dict(zip(classes, row, strict=True)) for true, row in zip(classes, confusion.tolist(), strict=True)
        },
        "per_class": {
            name: {
                "precision": float(precision[index]),
                "recall": float(recall[index]),
                "f1": float(f1[index]),
                "support": int(support[index]),
            }
            for index, name in enumerate(classes)
        },
    }


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


def top_accuracy(labels: Labels, probabilities: Probabilities) -> float:
    """Share of images whose true class is among the five most probable ones."""
    if probabilities.shape[1] <= TOP:
        return 1.0
    every = np.arange(probabilities.shape[1])
    return float(metrics.top_k_accuracy_score(labels, probabilities, k=TOP, labels=every))
