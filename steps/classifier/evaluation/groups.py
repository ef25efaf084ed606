"""Slices: the accuracy of each group of images that an attribute makes, and whether groups differ by more than chance.

The largest of many differences is large by chance alone: ten groups of thirty images at 90 % differ by 17 points on
average where nothing is different. So a difference counts as found where shuffling who has which answer would rarely
make one as unlikely, of any two groups of any attribute, and groups of few test images are shown but not compared.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from classifier.data.prepared_images import PreparedImages
from classifier.job.failures import StepError
from classifier.model.accuracy import figure

LEAST_IMAGES = 30  # of a group that is compared: the interval of an accuracy of 0.9 is 22 points wide then
SHUFFLES, SEED = 4000, 0
SIGNIFICANT = 0.05  # p-value, of all groups and attributes together
MOST_GROUPS = 100  # of an attribute, the largest; the others are one group
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


def read_attributes(manifest_dir: Path, images: PreparedImages) -> pd.DataFrame:
    """Return a column of texts for each attribute, a row for each test image; no column where none was given."""
    with (manifest_dir / "images.jsonl").open(encoding="utf-8") as lines:
        listed = [image for image in map(json.loads, lines) if image["split"] == "test"]
    if not any(image.get("attributes") for image in listed):
        return pd.DataFrame(index=range(len(images)))
    if [image["name"] for image in listed] != [images.name(row) for row in range(len(images))]:
        raise StepError("images.jsonl lists other test images than the shards hold. Run PrepareData again.")
    found = pd.DataFrame([image.get("attributes") or {} for image in listed], index=range(len(images)))
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
    pairs, chance = list[tuple[float, Gap]](), np.zeros(SHUFFLES)
    for number, (attribute, members) in enumerate(groups.items()):
        names = [name for name, found in members.items() if found["images"] >= LEAST_IMAGES]
        shares = np.array([members[name]["value"] for name in names])
        deviations = pair_deviations(members, names)
        np.maximum(chance, shuffled_deviations(members, names, deviations, number), out=chance)
        for low in range(len(names)):
            for high in range(low + 1, len(names)):  # sorted by accuracy
                between = float(shares[high] - shares[low])
                unlikely = between / deviations[low, high] if between else 0.0
                pairs.append((unlikely, Gap(between, attribute, names[low], names[high], 1.0)))
    judged = [
        Gap(gap.difference, gap.attribute, gap.lowest, gap.highest, float((chance >= unlikely - 1e-9).mean()))
        for unlikely, gap in pairs
    ]
    return max(judged, key=lambda gap: (gap.value, gap.difference), default=None)


def pair_deviations(members: Mapping[str, Any], names: list[str]) -> npt.NDArray[np.float64]:
    """Return the standard deviation, (G, G), that chance gives the difference of two groups' accuracies."""
    total, right = totals(members)
    inverse = 1 / np.array([members[name]["images"] for name in names])
    share = right / total
    return np.sqrt(share * (1 - share) * (inverse[:, None] + inverse))


def shuffled_deviations(
    members: Mapping[str, Any], names: list[str], deviations: npt.NDArray[np.float64], number: int
) -> npt.NDArray[np.float64]:
    """Return the largest difference in standard deviations, (SHUFFLES,), of groups that differ by chance alone."""
    total, right = totals(members)
    largest = np.zeros(SHUFFLES)
    if len(names) < 2 or right in (0, total):
        return largest
    sizes = np.array([found["images"] for found in members.values()])
    generator = np.random.default_rng((SEED, number))
    drawn = generator.multivariate_hypergeometric(sizes, right, SHUFFLES, method="marginals") / sizes
    drawn = drawn[:, [name in names for name in members]]
    for low in range(len(names) - 1):
        between = np.abs(drawn[:, low + 1 :] - drawn[:, [low]]) / deviations[low, low + 1 :]
        np.maximum(largest, between.max(axis=1), out=largest)
    return largest


def totals(members: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many images there are, and how many are answered rightly."""
    counts = [(found["images"], round(found["value"] * found["images"])) for found in members.values()]
    return sum(images for images, _ in counts), sum(right for _, right in counts)
