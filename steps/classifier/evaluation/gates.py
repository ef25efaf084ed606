"""What CheckAccuracy demands besides the accuracy of all images, and the words of AccuracyTooLow's message.

The condition compares the numbers in evaluation.json; what it compares them with is known here, too, so that report and
message can say which demand failed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from classifier.evaluation.groups import LEAST_IMAGES, Gap
from classifier.model.accuracy import accuracy_text

FEW = 30  # images of a class, with which a recall is little more than a hint


@dataclass(frozen=True)
class Gate:
    """One demand of pipeline.yaml's section `condition`."""

    name: str  # of the setting
    is_met: bool
    words: str  # with both numbers, as a part of a sentence


def gates(
    worst: Mapping[str, Any], gap: Gap | None, min_class_recall: float | None, max_group_gap: float | None
) -> Iterator[Gate]:
    """Yield what is demanded: of `worst_class` of evaluation.json, and of the largest gap between groups."""
    if min_class_recall is not None:
        yield class_gate(worst, min_class_recall)
    if max_group_gap is not None:
        yield group_gate(gap, max_group_gap)


def class_gate(worst: Mapping[str, Any], least: float) -> Gate:
    recall, images = worst["recall"]["value"], worst["recall"]["images"]
    few = ", which are few" if images < FEW else ""
    verdict = f"{'reaches' if recall >= least else 'is below'} condition.min_class_recall = {least:g}"
    words = f"the lowest recall of a class, {worst['class']!r} with {accuracy_text(recall, images)}{few}, {verdict}"
    return Gate("min_class_recall", recall >= least, words)


def group_gate(gap: Gap | None, most: float) -> Gate:
    if gap is None:
        words = f"no attribute has two groups of at least {LEAST_IMAGES} test images, so there is no gap to compare"
        return Gate("max_group_gap", True, f"{words} with condition.max_group_gap = {most:g}")
    found = f"{gap.difference:.4f} between {gap.attribute} {gap.lowest!r} and {gap.highest!r} (p = {gap.p_value:.2g})"
    if not gap.value:
        return Gate("max_group_gap", True, f"no gap between groups is beyond chance, the largest being {found}")
    verdict = f"{'within' if gap.value <= most else 'above'} condition.max_group_gap = {most:g}"
    return Gate("max_group_gap", gap.value <= most, f"the largest gap beyond chance, {found}, is {verdict}")
