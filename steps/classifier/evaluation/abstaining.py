"""What the operating threshold is worth on the test split: how many answers are confident, and how many are right."""

from dataclasses import dataclass
from typing import Any

from classifier.evaluation.metrics import Labels, Probabilities
from classifier.model.accuracy import figure, interval_text
from classifier.training.abstaining import Measured, operating_point, why_not


@dataclass(frozen=True)
class Abstaining:
    """The answers of a wanted precision, or why there are none."""

    min_precision: float
    threshold: float | None
    coverage: dict[str, float] | None  # share of the test images with a confident answer
    precision: dict[str, float] | None  # share of those that is right; None: there are none
    selected_on: dict[str, float] | None  # the same where the threshold was chosen
    words: str  # a sentence

    def document(self) -> dict[str, Any]:
        """Return `abstaining` of evaluation.json."""
        test = {"coverage": self.coverage, "precision": self.precision}
        chosen = {"min_precision": self.min_precision, "threshold": self.threshold, "words": self.words}
        return {**chosen, "test": test, "selected_on": self.selected_on}


def abstaining(
    measured: Measured | None, min_precision: float, probabilities: Probabilities, labels: Labels
) -> Abstaining:
    """Look the threshold up as the endpoint does, and apply it to the test images."""
    if measured is None or (point := operating_point(measured, min_precision)) is None:
        old = "The model keeps no measured scores, so no answer counts as confident: train it again."
        return Abstaining(min_precision, None, None, None, None, why_not(measured, min_precision) if measured else old)
    confident = probabilities.max(axis=1) >= point["threshold"]
    right, count = (probabilities.argmax(axis=1) == labels)[confident], int(confident.sum())
    precision = figure(float(right.mean()), count) if count else None
    selected_on = {
        "coverage": point["images"] / measured["images"],
        "precision": point["right"] / point["images"],
        "precision_lower_bound": point["precision_lower_bound"],
        "images": measured["images"],
    }
    words = (
        f"Confident from a score of {point['threshold']:.4f}: {count} of {len(labels)} test images, "
        + (f"of which {right.mean():.1%} are right ({interval_text(float(right.mean()), count)})" if count else "none")
        + f"; {min_precision:.1%} were wanted. Where the threshold was chosen, "
        f"{selected_on['precision']:.1%} of {point['images']} are right."
    )
    coverage = figure(count / len(labels), len(labels))
    return Abstaining(min_precision, float(point["threshold"]), coverage, precision, selected_on, words)
