"""What can be told of images by simple figures, without their labels, and how far two sets of images differ in it.

Figures of an image: `confidence`, the probability of the predicted class; `brightness`, `contrast` and `saturation` of
the network's crop, 0 to 255. A baseline keeps, for each figure, the bounds of tenths of the test split and how many
images fell between them, and how often each class was predicted.

The distance is the population stability index, sum of (a - b) ln(a / b) over the shares a and b of the bins. By custom
(Siddiqi, Credit Risk Scorecards, 2006) below 0.1 nothing has changed and from 0.25 on much has. Two samples of one
population differ too: then the index is about (1/n + 1/m) times a chi-square variable of bins - 1 degrees of freedom
(Yurdakul and Naranjo, Journal of Risk Model Validation 14(4), 2020). So a distance counts only above what 99 of 100
such pairs of samples stay below.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri

BINS = 10
MODERATE, MAJOR = 0.1, 0.25
PSEUDO_COUNT = 0.5  # in each bin, so that an empty one has a logarithm
PIXEL_FIGURES = ("brightness", "contrast", "saturation")
FIGURES = ("confidence", *PIXEL_FIGURES)
CLASSES = "predicted class"

Values = npt.NDArray[np.float64]  # (N,)
Counts = npt.NDArray[np.int64]  # (bins,)


def pixel_figures(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Crops (N, H, W, 3) -> (N, 3): mean and deviation of the luma (ITU-R BT.601), mean of max - min of R, G, B."""
    luma = pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    spread = pixels.max(axis=3).astype(np.float64) - pixels.min(axis=3)
    return np.stack([luma.mean(axis=(1, 2)), luma.std(axis=(1, 2)), spread.mean(axis=(1, 2))], axis=1)


def baseline(
    probabilities: npt.NDArray[np.float32], figures: npt.NDArray[np.float64], description: Mapping[str, Any]
) -> dict[str, Any]:
    """baseline.json of probabilities (N, C) and pixel figures (N, 3) of the test split; `description` is model.json."""
    values = {
        "confidence": probabilities.max(axis=1).astype(np.float64),
        **dict(zip(PIXEL_FIGURES, figures.T, strict=True)),
    }
    bounds = {name: np.unique(np.quantile(found, np.arange(1, BINS) / BINS)) for name, found in values.items()}
    return {
        "images": len(probabilities),
        "classes": list(description["classes"]),
        "preprocess": description["preprocess"],
        "predicted_counts": class_counts(probabilities.argmax(axis=1), probabilities.shape[1]).tolist(),
        "figures": {
            name: {"bounds": bounds[name].tolist(), "counts": binned(values[name], bounds[name]).tolist()}
            for name in FIGURES
        },
    }


def binned(values: Values, bounds: Values) -> Counts:
    """How many values lie in each of len(bounds) + 1 bins; a bound belongs to the bin below it."""
    return np.bincount(np.searchsorted(bounds, values, side="left"), minlength=len(bounds) + 1)


def class_counts(predicted: npt.NDArray[np.int64], classes: int) -> Counts:
    """How often each class was predicted."""
    return np.bincount(predicted, minlength=classes)


def distance(expected: Counts, found: Counts) -> float:
    """Population stability index of two histograms over the same bins."""
    first, second = shares(expected), shares(found)
    return float(((second - first) * np.log(second / first)).sum())


def shares(counts: Counts) -> Values:
    """Shares of 1, none of them 0."""
    padded = counts + PSEUDO_COUNT
    result: Values = padded / padded.sum()
    return result


def chance(expected: Counts, found: Counts) -> float:
    """What 99 of 100 pairs of samples of one population stay below."""
    freedom = len(expected) - 1
    quantile = chdtri(freedom, 0.01) if freedom else 0.0
    return float(quantile * (1 / int(expected.sum()) + 1 / int(found.sum())))


def level(value: float, by_chance: float) -> str:
    """none, moderate or major."""
    if value <= by_chance or value < MODERATE:
        return "none"
    return "major" if value >= MAJOR else "moderate"


def compared(expected: Counts, found: Counts) -> dict[str, Any]:
    """Distance, what chance explains, and the verdict."""
    value, by_chance = distance(expected, found), chance(expected, found)
    return {
        "distance": value,
        "by_chance": by_chance,
        "drift": level(value, by_chance),
        "expected": shares(expected).tolist(),
        "found": shares(found).tolist(),
    }
