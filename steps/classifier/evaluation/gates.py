"""What CheckAccuracy demands of classes and groups, and the words of AccuracyTooLow's message about it."""

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


def gates(worst: Mapping[str, Any], gap: Gap | None, min_recall: float | None, max_gap: float | None) -> Iterator[Gate]:
    """Yield what is demanded: of `worst_class` of evaluation.json, and of the largest gap between groups."""
    if min_recall is not None:
        recall, images = worst["recall"]["value"], worst["recall"]["images"]
        words = f"the lowest recall of a class, {worst['class']!r} with {accuracy_text(recall, images)}"
        words += f"{', which are few' if images < FEW else ''}, {'reaches' if recall >= min_recall else 'is below'}"
        yield Gate("min_class_recall", recall >= min_recall, f"{words} condition.min_class_recall = {min_recall:g}")
    if max_gap is not None:
        is_met = gap is None or gap.value <= max_gap
        words = f"no attribute has two groups of at least {LEAST_IMAGES} test images to compare"
        if gap:
            found = f"{gap.difference:.4f} between {gap.attribute} {gap.lowest!r} and {gap.highest!r}"
            kind = f"{'beyond' if gap.value else 'within'} chance (p = {gap.p_value:.2g})"
            words = f"the largest gap between groups, {found}, {kind}, is {'accepted' if is_met else 'too large'}"
        yield Gate("max_group_gap", is_met, f"{words}; condition.max_group_gap = {max_gap:g}")
