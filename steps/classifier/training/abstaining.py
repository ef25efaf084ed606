"""When a model does not know: a score from which on answers are right often enough, and sets that hold the right label.

The final training measures what both take (`measure`, the member `abstaining` of model.json) on images that whoever
answered had not seen; the precision and the coverage that are wanted are looked up later, without another training.
Nothing here loads NumPy or scipy but `measure`: the server's first process does without.
"""

import math
from typing import Any

ERROR = 0.05  # probability that a precision is promised which the model does not have
COVERED_PERCENTS = range(25, 101, 5)  # of the images, the highest scores first: where precision is measured
NEVER = 2.0  # a threshold that no score reaches
MOST_SCORES = 200  # that are kept for the sets

Measured = dict[str, Any]  # as model.json has it


def measure(probabilities: Any, labels: Any) -> Measured:
    """Return what a model's calibrated probabilities (N, C) on images with labels (N,) say about later answers.

    `operating_points`: of the images with the highest scores, how many are right, and the lower bound of the precision
    (one-sided, 95 %; Clopper and Pearson 1934). `label_scores`: scores of the right label, ascending.
    """
    import numpy as np
    from scipy.stats import beta

    scores, right, count = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, len(labels)
    order, points = np.argsort(-scores, kind="stable"), []
    for covered in sorted({math.ceil(count * percent / 100) for percent in COVERED_PERCENTS}):
        hits = int(right[order[:covered]].sum())
        bound = float(beta.ppf(ERROR, hits, covered - hits + 1)) if hits else 0.0
        threshold = float(scores[order[covered - 1]])
        points.append({"threshold": threshold, "images": covered, "right": hits, "precision_lower_bound": bound})
    ascending, kept = np.sort(probabilities[np.arange(count), labels]), min(count, MOST_SCORES)
    places = np.arange(1, kept + 1) * count // kept - 1
    return {"images": count, "operating_points": points, "label_scores": ascending[places].tolist()}


def operating_point(measured: Measured, min_precision: float) -> dict[str, Any] | None:
    """Return the point of the lowest threshold above which, with 95 % certainty, so large a share of answers is right.

    The bounds are each point's own. As precision falls with the threshold, points that promise too much hardly ever
    pass unless the first of them does: that happened in about 5 % of splits (benchmarks/abstaining.py).
    None: no point passes.
    """
    passing = [point for point in measured["operating_points"] if point["precision_lower_bound"] >= min_precision]
    return passing[-1] if passing else None


def why_not(measured: Measured, min_precision: float) -> str:
    """Return a sentence for a precision that no point has."""
    fewest, images = math.ceil(math.log(ERROR) / math.log(min_precision)), measured["images"]
    asked = f"A precision of {min_precision:g} (deploy.min_precision) cannot be promised"
    if images < fewest:
        return f"{asked} from {images} images, which takes at least {fewest}: no answer counts as confident."
    return f"{asked}: even of the highest scores too few are right, so no answer counts as confident."


def set_threshold(measured: Measured, coverage: float) -> float:
    """Return the score from which on a label belongs to the set, so that it holds the right one with that probability.

    Split conformal prediction with the score of the label (Sadinle, Lei and Wasserman 2019): it holds on average over
    images like those that were measured, whatever the model. 0, and all labels, where these are too few.
    """
    scores, images = measured["label_scores"], measured["images"]
    rank = math.floor((images + 1) * (1 - coverage) + 1e-9)
    place = rank * len(scores) // images
    return float(scores[place - 1]) if place else 0.0
