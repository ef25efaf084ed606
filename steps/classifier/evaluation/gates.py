"""What CheckAccuracy demands of classes, groups and the training, and the words of ModelRefused's message about it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from classifier.evaluation.groups import LEAST_IMAGES, Gap
from classifier.model.accuracy import accuracy_text

FATAL = "fatal"
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


def training_faults(demanded: str | None, statuses: Mapping[str, str], fatal: Mapping[str, str]) -> dict[str, str]:
    """Return what is wrong with the training that rules watched: a rule's name -> a sentence.

    Args:
        demanded: names of rules, which must have found no issue, or `fatal`; None: nothing is wrong.
        statuses: of all rules that watched; a model of an older version has none.
        fatal: what those found whose findings make a model worthless: a sentence each.
    """
    if demanded is None or demanded == FATAL:
        return dict(fatal) if demanded else {}
    said = {"IssuesFound": "It found an issue.", None: "It did not watch this training."}
    found = {name: statuses.get(name) for name in demanded.split(",")}
    bad = {name: status for name, status in found.items() if status != "NoIssuesFound"}
    return {name: fatal.get(name) or said.get(status, f"Its verdict is {status}.") for name, status in bad.items()}
