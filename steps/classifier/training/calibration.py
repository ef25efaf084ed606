"""Calibration: scores that mean what they say. Of the images scored 0.8, about 80 % should be classified correctly.

Networks are too sure of themselves, and those trained with label smoothing not sure enough. One number mends most of
that: the logits are divided by a temperature before the softmax, fitted on validation (Guo et al. 2017, "On
Calibration of Modern Neural Networks"). The order of the classes, and so the accuracy, stays as it is.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]  # (N, C)
Labels = npt.NDArray[np.int64]  # (N,) index into classes
Probabilities = npt.NDArray[np.floating]  # (N, C), rows sum to 1

BINS = 15  # of equal width, as in the paper
TEMPERATURES = (0.05, 20.0)
GOLDEN = (math.sqrt(5) - 1) / 2
PRECISION = 1e-6  # of the temperature's logarithm
SMALLEST_PROBABILITY = 1e-30


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


def calibrate(logits: Logits, labels: Labels) -> Calibration:
    """Fit the temperature; the same logits give the same number to the last digit."""
    temperature = fit_temperature(logits, labels)
    before, after = (reliability(softmax(logits, value), labels).error for value in (1.0, temperature))
    return Calibration(temperature, after, before)


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature of the lowest log loss, found by golden section: it has one minimum.

    One image more is counted whose label is any class, else a validation without a mistake would ask for a
    temperature of 0, and certainty.
    """
    wide, rows = logits.astype(np.float64), np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        log_probabilities = log_softmax(wide / math.exp(log_temperature))
        return float(-log_probabilities[rows, labels].sum() - log_probabilities.mean())

    low, high = map(math.log, TEMPERATURES)
    return math.exp(_minimum(loss, low, high))


def calibrated_log_loss(logits: Logits, labels: Labels) -> float:
    """Mean of -log(score of the label), natural, with the temperature fitted on these very images."""
    log_probabilities = log_softmax(logits.astype(np.float64) / fit_temperature(logits, labels))
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def _minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one minimum has it, by golden section."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > PRECISION:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = function(right)
    return (low + high) / 2


def softmax(logits: Logits, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """(N, C) logits -> probabilities."""
    return np.exp(log_softmax(logits.astype(np.float64) / temperature))


def log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N, C) logits -> logarithms of the probabilities, without overflow."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalised: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised


def uncalibrated(probabilities: Probabilities, temperature: float) -> npt.NDArray[np.float64]:
    """What the probabilities were before the temperature was applied."""
    logarithms = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST_PROBABILITY))
    return np.exp(log_softmax(logarithms * temperature))


def effect(probabilities: Probabilities, labels: Labels, temperature: float) -> Effect:
    """What the temperature does to a network's answers, which are given as they are with it."""
    before = reliability(uncalibrated(probabilities, temperature), labels)
    return Effect(temperature, reliability(probabilities, labels), before)


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
