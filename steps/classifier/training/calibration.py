"""Calibration: scores that mean what they say. Of the images scored 0.8, about 80 % should be classified correctly.

Networks are too sure of themselves, and those trained with label smoothing not sure enough. One number mends most of
that: the logits are divided by a temperature before the softmax, fitted on validation (Guo et al. 2017, "On
Calibration of Modern Neural Networks"). The order of the classes, and so the accuracy, stays as it is.

scipy is imported where it is needed: a trial of the search does without it, and it takes half a second.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.floating]  # (N, C)
Labels = npt.NDArray[np.int64]  # (N,) index into classes
Probabilities = npt.NDArray[np.floating]  # (N, C), rows sum to 1

BINS = 15  # of equal width, as in the paper
TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class Bin:
    """The images whose highest score lies in one stretch of 0..1; means are 0 where there are none."""

    images: int
    confidence: float  # mean of the highest scores
    accuracy: float  # share that is classified correctly


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it did to the images that it was fitted on."""

    temperature: float
    expected_calibration_error: float
    uncalibrated_error: float  # the same without the temperature


@dataclass(frozen=True)
class Reliability:
    """How scores and accuracy go together: BINS bins of the highest score, each open below and closed above."""

    bins: list[Bin]

    @property
    def error(self) -> float:
        """Expected calibration error: by how much score and accuracy differ, on average over the images; 0 is best."""
        images = sum(part.images for part in self.bins)
        return sum(part.images * abs(part.accuracy - part.confidence) for part in self.bins) / max(1, images)


def calibrate(logits: Logits, labels: Labels) -> Calibration:
    """Fit the temperature; the same logits give the same number to the last digit."""
    temperature = fit_temperature(logits, labels)
    before, after = (reliability(softmax(logits, value), labels).error for value in (1.0, temperature))
    return Calibration(temperature, after, before)


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature of the lowest log loss.

    One image more is counted whose label is any class, else a validation without a mistake would ask for a
    temperature of 0, and certainty.
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        log_probabilities = log_softmax(logits, math.exp(log_temperature))
        return float(-log_probabilities[rows, labels].sum() - log_probabilities.mean())

    bounds = tuple(map(math.log, TEMPERATURES))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)


def calibrated_log_loss(logits: Logits, labels: Labels) -> float:
    """Mean of -log(score of the label), natural, with the temperature fitted on these very images."""
    log_probabilities = log_softmax(logits, fit_temperature(logits, labels))
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def log_softmax(logits: Logits, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """(N, C) logits -> logarithms of the probabilities."""
    from scipy import special

    found: npt.NDArray[np.float64] = special.log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return found


def softmax(logits: Logits, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """(N, C) logits -> probabilities."""
    return np.exp(log_softmax(logits, temperature))


def reliability(probabilities: Probabilities, labels: Labels) -> Reliability:
    """The bins of all images."""
    confidences = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    numbers = np.clip(np.ceil(confidences * BINS).astype(np.int64) - 1, 0, BINS - 1)
    images = np.bincount(numbers, minlength=BINS)
    confidence = np.bincount(numbers, weights=confidences, minlength=BINS) / np.maximum(images, 1)
    accuracy = np.bincount(numbers, weights=right, minlength=BINS) / np.maximum(images, 1)
    return Reliability(
        [Bin(*found) for found in zip(images.tolist(), confidence.tolist(), accuracy.tolist(), strict=True)]
    )
