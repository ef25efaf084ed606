"""What evaluation.json says of confident answers, and that it says why there are none."""

import numpy as np
import pytest

from classifier.evaluation.abstaining import abstaining
from classifier.training.abstaining import measure

SCORES = np.array([0.99] * 60 + [0.6] * 40)
PROBABILITIES = np.stack([SCORES, 1 - SCORES], axis=1).astype(np.float32)
LABELS = np.array([0] * 60 + [0, 1] * 20)  # the less certain answers are a coin's


def test_coverage_and_precision_of_the_test_split_stand_beside_those_of_validation() -> None:
    test_labels = np.array([0] * 57 + [1] * 3 + [0] * 40)
    found = abstaining(measure(PROBABILITIES, LABELS), 0.95, PROBABILITIES, test_labels)
    document = found.document()
    assert document["threshold"] == pytest.approx(0.99)
    assert document["test"]["coverage"] | {"value": 0.6, "images": 100} == document["test"]["coverage"]
    assert document["test"]["precision"] | {"value": 0.95, "images": 60} == document["test"]["precision"]
    assert document["selected_on"]["precision"] == 1.0
    assert "60 of 100 test images, of which 95.0% are right (60 images, 95 %: 0.863 to 0.983)" in found.words


def test_where_nothing_is_promised_or_nothing_is_confident_the_reason_is_said() -> None:
    unknown, few = (abstaining(known, 0.99, PROBABILITIES, LABELS) for known in (None, measure(PROBABILITIES, LABELS)))
    assert unknown.threshold is few.threshold is None
    assert "train it again" in unknown.words and "at least 299" in few.words
    unsure = np.full((5, 2), 0.5, np.float32)
    found = abstaining(measure(PROBABILITIES, LABELS), 0.95, unsure, np.zeros(5, np.int64)).document()
    assert (found["test"]["coverage"]["value"], found["test"]["precision"]) == (0.0, None)
