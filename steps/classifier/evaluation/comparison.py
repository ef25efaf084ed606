"""The new model beside the champion, the model in service: by how much it is better, on which images, and if by chance.

Both answer the same images, so what counts is those that only one of them has right: McNemar's exact test (1947), and
the interval of paired proportions of Agresti and Min (2005). After a change of the split the champion may have been
trained on what is a test image now, and would win by it: only images that neither has seen are compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from classifier.evaluation.metrics import HEADLINES, Labels, Probabilities
from classifier.model.accuracy import Z, wilson
from classifier.model.archive import Digests, digests

DIGITS = 6  # of a difference of accuracies: less is the floating point's
SIGNIFICANT = 0.05  # p-value
LEAST_COMPARED = 50  # images; between fewer a few points are chance, and a threshold alone says more
Rows = npt.NDArray[np.bool_]  # (N,): which test images


@dataclass(frozen=True)
class Difference:
    """The test images by which of the two models has them right."""

    images: int  # that are compared
    better: tuple[int, ...]  # rows that only the new model has right, those first of which the champion was surest
    worse: tuple[int, ...]  # rows that only the champion has right, those first of which the new model is surest
    both_wrong: int
    champion: Probabilities = field(compare=False, repr=False)  # (N, C)

    @cached_property
    def p_value(self) -> float:
        """How often chance alone would make two equally good models differ as much."""
        from scipy.stats import binomtest

        differing = len(self.better) + len(self.worse)
        return float(binomtest(len(self.better), differing).pvalue) if differing else 1.0

    @property
    def is_significant(self) -> bool:
        return self.p_value < SIGNIFICANT

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bounds of the difference of the two accuracies, -1 to 1."""
        count, more, less = self.images + 2, len(self.better) + 0.5, len(self.worse) + 0.5
        middle, reach = (more - less) / count, Z * sqrt(more + less - (more - less) ** 2 / count) / count
        return max(-1.0, middle - reach), min(1.0, middle + reach)

    def __str__(self) -> str:
        low, high = self.interval
        better, worse = len(self.better), len(self.worse)
        counts = f"{better} of {self.images:,} images only the new model has right, {worse} only this one"
        return f"{counts}, 95 %: {low:+.3f} to {high:+.3f}, McNemar p = {self.p_value:.2g}"

    def document(self) -> dict[str, Any]:
        """Return `champion.differences` of evaluation.json."""
        low, high = self.interval
        counts = {"only_new": len(self.better), "only_champion": len(self.worse), "both_wrong": self.both_wrong}
        return {**counts, "lower_bound": low, "upper_bound": high, "p_value": self.p_value}


def unseen(listing: Sequence[Mapping[str, Any]], new: Digests | None, champion: Digests | None) -> tuple[Rows, str]:
    """Return which test images (N,) neither model has seen, and a sentence if that limits what a comparison says.

    `listing` is images.jsonl. A near-duplicate, an image of the same group, of one that was seen counts as seen.
    """
    table = pd.DataFrame(listing, columns=["sha256", "split", "group"])
    known = [images for images in (new, champion) if images is not None]
    seen = np.isin(digests(table["sha256"]), np.concatenate([digests([]), *known]))
    fair = ~table["group"].isin(table["group"][seen])[table["split"] == "test"].to_numpy()
    count, words = int(fair.sum()), ""
    if count < LEAST_COMPARED:
        words = f"of {len(fair):,} test images {count:,} are new to both models, which is too few to compare them (at "
        words += f"least {LEAST_COMPARED} are needed), so AccuracyThreshold alone decides"
    elif champion is None:
        words = "the model in service does not say what it was trained on, and may have seen some of these images"
    elif count < len(fair):
        words = f"{len(fair) - count:,} of {len(fair):,} test images are left out, which one of the models has seen"
    return fair, words


def difference(labels: Labels, new: Probabilities, champion: Probabilities, fair: Rows) -> Difference:
    """Return on which of the images that are to be compared (N,) two models differ, given their answers (N, C)."""
    is_new, is_old = new.argmax(axis=1) == labels, champion.argmax(axis=1) == labels
    better, worse = np.flatnonzero(fair & is_new & ~is_old), np.flatnonzero(fair & is_old & ~is_new)
    better = better[np.argsort(-champion.max(axis=1)[better], kind="stable")]
    worse = worse[np.argsort(-new.max(axis=1)[worse], kind="stable")]
    both_wrong = int((fair & ~is_new & ~is_old).sum())
    return Difference(int(fair.sum()), tuple(better.tolist()), tuple(worse.tolist()), both_wrong, champion)


@dataclass(frozen=True)
class Comparison:
    """The new model beside the champion, the model in service, or without one; accuracies and margins are shares."""

    new: dict[str, Any]  # multiclass_classification_metrics of the new model, on the images that are compared
    margin: float  # by which its accuracy is to exceed the champion's
    champion: dict[str, Any] | None = None  # the same of the champion, if it can be compared
    model_package_arn: str | None = None  # its version; None in the moment in which it is replaced
    is_same_model: bool = False  # nothing has changed
    reason: str = ""  # why there is none to compare with, as a part of a sentence
    difference: Difference | None = None  # image by image, of a champion that is another model
    warning: str = ""  # what limits the comparison, as a part of a sentence

    def __str__(self) -> str:
        if self.champion is None:
            return f"champion=none improvement={self.improvement:.4f} ({self.reason})"
        same = ", which is this very model" if self.is_same_model else ""
        champion = f"champion={self.champion['accuracy']['value']:.4f}"
        counts = f": {self.difference}" if self.difference else ""
        return f"{champion} improvement={self.improvement:.4f} (over {self.name}{same}{counts})"

    @property
    def name(self) -> str:
        """What a person calls the champion."""
        return (self.model_package_arn or "").rpartition("model-package/")[2] or "the model in service"

    @property
    def improvement(self) -> float:
        """How much the accuracy is above the champion's; without a champion, the accuracy itself.

        Where no model would be replaced by another it is never below the margin: a first run and a run in which nothing
        has changed are no failures.
        """
        accuracy = float(self.new["accuracy"]["value"])
        if self.champion is None:
            return max(accuracy, self.margin)
        difference = round(accuracy - float(self.champion["accuracy"]["value"]), DIGITS)
        return max(difference, self.margin) if self.is_same_model else difference

    def document(self) -> dict[str, Any]:
        """Return `champion` and `improvement` of evaluation.json; their texts are for ModelRefused's message."""
        improvement = {"value": self.improvement, "margin": self.margin, "warning": self.warning}
        if self.champion is None:
            return {"champion": None, "improvement": improvement | {"champion": "no model", "reason": self.reason}}
        figures = {name: self.champion[name]["value"] for name in HEADLINES}
        champion = {"model_package_arn": self.model_package_arn, **figures, "is_same_model": self.is_same_model}
        said = f"{self.name} with accuracy {figures['accuracy']:.4f}"
        if self.difference:
            champion |= {
                "accuracy_interval": list(wilson(figures["accuracy"], self.difference.images)),
                "differences": self.difference.document(),
            }
            said += f" ({self.difference})"
            improvement |= {"accuracy": self.new["accuracy"]["value"], "images": self.difference.images}
        return {"champion": champion, "improvement": improvement | {"champion": said}}
