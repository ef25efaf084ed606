"""Slices: the accuracy of each group of images that an attribute makes, and whether groups differ by more than chance.

The largest of many differences is large by chance alone: ten groups of thirty images at 90 % differ by 17 points on
average where nothing is different. So a difference counts as found only if the test of two proportions (with Yates's
correction) finds it, at 5 % for all pairs together (Bonferroni); groups of few images are shown but not compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from classifier.model.accuracy import figure

LEAST_IMAGES = 30  # of a group that is compared: the interval of an accuracy of 0.9 is 22 points wide then
MOST_GROUPS = 20  # of an attribute, the largest; the others are one group
SIGNIFICANT = 0.05  # p-value, of all groups and attributes together
NOT_GIVEN, OTHERS = "(not given)", "(others)"
Groups = dict[str, dict[str, dict[str, float]]]  # attribute -> group -> accuracy with interval, the worst first


@dataclass(frozen=True)
class Gap:
    """The largest difference of accuracy between two groups: of those beyond chance, if there is one, else of all."""

    difference: float
    attribute: str
    lowest: str
    highest: str
    p_value: float

    @property
    def value(self) -> float:
        """What the gate looks at: 0 where it may be chance."""
        return self.difference if self.p_value < SIGNIFICANT else 0.0


def attributes_of(listing: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a column of texts for each attribute, a row for each test image; no column where none was given."""
    given = [image.get("attributes") or {} for image in listing if image["split"] == "test"]
    found = pd.DataFrame(given, index=range(len(given)))
    return found.fillna(NOT_GIVEN).replace("", NOT_GIVEN).astype(str)


def accuracy_by_group(attributes: pd.DataFrame, right: npt.NDArray[np.bool_]) -> Groups:
    """Return each group's accuracy, given which test images (N,) are answered rightly."""
    found = {}
    for name in attributes:
        largest = attributes[name].value_counts().index[:MOST_GROUPS]
        group = attributes[name].where(attributes[name].isin(largest), OTHERS)
        means = pd.Series(right).groupby(group).agg(["mean", "size"]).sort_values("mean", kind="stable")
        found[str(name)] = {str(group): figure(mean, size) for group, mean, size in means.itertuples()}
    return found


def largest_gap(groups: Groups) -> Gap | None:
    """Return it, or None if no attribute has two groups that can be compared."""
    pairs = [
        (attribute, *pair)
        for attribute, members in groups.items()
        for pair in combinations([name for name in members if members[name]["images"] >= LEAST_IMAGES], 2)
    ]
    gaps = []
    for attribute, lowest, highest in pairs:
        ends = [groups[attribute][name] for name in (lowest, highest)]
        difference, inverse = ends[1]["value"] - ends[0]["value"], sum(1 / end["images"] for end in ends)
        share = sum(end["value"] * end["images"] for end in ends) / sum(end["images"] for end in ends)
        deviation = sqrt(share * (1 - share) * inverse)
        p_value = 2 * NormalDist().cdf(min(0.0, (inverse / 2 - difference) / deviation)) if deviation > 1e-9 else 1.0
        gaps.append(Gap(difference, attribute, lowest, highest, min(1.0, p_value * len(pairs))))
    return max(gaps, key=lambda gap: (gap.value, gap.difference), default=None)
