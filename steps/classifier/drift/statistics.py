"""What can be told of images by simple figures, without their labels, and how far two sets of images differ in it.

Figures of an image: `confidence`, the probability of the predicted class; `brightness`, `contrast` and `saturation` of
the network's crop, 0 to 255. A baseline keeps the bounds of tenths of the test split, and how many images fell between.

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
from scipy.special import chdtri  # the whole scipy.stats takes half a second more to import

BINS = 10
MODERATE, MAJOR = 0.1, 0.25
PSEUDO_COUNT = 0.5  # in each bin, so that an empty one has a logarithm
FIGURES = ("confidence", "brightness", "contrast", "saturation")
CLASSES = "predicted class"

Values = npt.NDArray[np.float64]  # (N,)
Counts = npt.NDArray[np.int64]  # (bins,)
Figures = npt.NDArray[np.float64]  # (N, 3): brightness, contrast and saturation


def pixel_figures(pixels: npt.NDArray[np.uint8]) -> Figures:
    """Crops (N, H, W, 3) -> (N, 3): mean and deviation of the luma (ITU-R BT.601), mean of max - min of R, G, B."""
    luma = pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    spread = pixels.max(axis=3).astype(np.float64) - pixels.min(axis=3)
    return np.stack([luma.mean(axis=(1, 2)), luma.std(axis=(1, 2)), spread.mean(axis=(1, 2))], axis=1)


def baseline(probabilities: npt.NDArray[Any], figures: Figures, description: Mapping[str, Any]) -> dict[str, Any]:
    """baseline.json of probabilities (N, C) and pixel figures of the test split; `description` is model.json."""
    known = {}
    for name, values in zip(FIGURES, [probabilities.max(axis=1).astype(np.float64), *figures.T], strict=True):
        bounds = np.unique(np.quantile(values, np.arange(1, BINS) / BINS))
        known[name] = {"bounds": bounds.tolist(), "counts": binned(values, bounds).tolist()}
    return {
        "images": len(probabilities),
        "classes": list(description["classes"]),
        "preprocess": description["preprocess"],
        "predicted_counts": np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1]).tolist(),
        "figures": known,
    }


def against_baseline(known: Mapping[str, Any], confidence: Values, figures: Figures, predicted: Any) -> dict[str, Any]:
    """Each figure and the predicted classes (N,), against baseline.json: {name: what `compared` returns}."""
    found = {}
    for name, values in zip(FIGURES, [confidence, *figures.T], strict=True):
        bins = known["figures"][name]
        found[name] = compared(np.array(bins["counts"]), binned(values, np.array(bins["bounds"])))
    expected = np.array(known["predicted_counts"])
    return {**found, CLASSES: compared(expected, np.bincount(predicted, minlength=len(expected)))}


def binned(values: Values, bounds: Values) -> Counts:
    """How many values lie in each of len(bounds) + 1 bins; a bound belongs to the bin below it."""
    return np.bincount(np.searchsorted(bounds, values, side="left"), minlength=len(bounds) + 1)


def compared(expected: Counts, found: Counts) -> dict[str, Any]:
    """Two histograms over the same bins: population stability index, what chance explains, and the verdict."""
    before, after = ((counts + PSEUDO_COUNT) / (counts + PSEUDO_COUNT).sum() for counts in (expected, found))
    distance = float(((after - before) * np.log(after / before)).sum())
    freedom = len(expected) - 1
    quantile = chdtri(freedom, 0.01) if freedom else 0.0
    by_chance = float(quantile * (1 / int(expected.sum()) + 1 / int(found.sum())))
    return {
        "distance": distance,
        "by_chance": by_chance,
        "drift": level(distance, by_chance),
        "expected": before.tolist(),
        "found": after.tolist(),
    }


def level(distance: float, by_chance: float) -> str:
    """none, moderate or major."""
    if distance <= by_chance or distance < MODERATE:
        return "none"
    return "major" if distance >= MAJOR else "moderate"
