"""Scores that mean what they say: of the images scored 0.8 about 80 % are classified correctly (Guo et al. 2017).

Calibration divides the logits by a temperature. Nothing here loads PyTorch, which EvaluateModel does without; scipy is
imported where it is needed, since the start of a trial does without that.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.floating]  # (N, C), logits or probabilities
Labels = npt.NDArray[np.int64]  # (N,) index into classes
BINS = 15  # of equal width, as in the paper
TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class Bin:
    """The images whose highest score lies in one stretch of 0..1; means are 0 where there are none."""

    images: int
    confidence: float  # mean of the highest scores
    accuracy: float  # share that is classified correctly


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
class Calibration:
    """A temperature, and what it did to the images that it was fitted on."""

    temperature: float
    expected_calibration_error: float
    uncalibrated_error: float  # the same without the temperature


def calibrate(logits: Scores, labels: Labels) -> Calibration:
    """Fit the temperature; the same logits give the same number to the last digit."""
    temperature = fit_temperature(logits, labels)
    before, after = (reliability(softmax(logits, value), labels).error for value in (1.0, temperature))
    return Calibration(temperature, after, before)


def fit_temperature(logits: Scores, labels: Labels) -> float:
    """Return the temperature of the lowest log loss."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        log_probabilities = log_softmax(logits, math.exp(log_temperature))
        # One image more, whose label is any class: without a mistake the best temperature would be 0, and certainty.
        return float(-log_probabilities[np.arange(len(labels)), labels].sum() - log_probabilities.mean())

    bounds = tuple(map(math.log, TEMPERATURES))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)


def log_softmax(logits: Scores, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    from scipy import special

    found: npt.NDArray[np.float64] = special.log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return found


def softmax(logits: Scores, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Return the probabilities, (N, C)."""
    return np.exp(log_softmax(logits, temperature))


def reliability(probabilities: Scores, labels: Labels) -> Reliability:
    """Sort the images into bins by their highest score."""
    confidences, right = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    numbers = np.clip(np.ceil(confidences * BINS).astype(np.int64) - 1, 0, BINS - 1)
    images = np.bincount(numbers, minlength=BINS)
    sums = (np.bincount(numbers, weights=values, minlength=BINS) for values in (confidences, right))
    confidence, accuracy = ((values / np.maximum(images, 1)).tolist() for values in sums)
    return Reliability(list(map(Bin, images.tolist(), confidence, accuracy)))
