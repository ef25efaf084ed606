"""The operating threshold and the sets of labels: what they promise of new images, and when they promise nothing."""

import json

import numpy as np
import pytest

from classifier.training.abstaining import MOST_SCORES, measure, operating_point, set_threshold, why_not


def answers(generator: np.random.Generator, images: int, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a model that is right in about 85 % of the images, too sure of itself, and the labels."""
    labels = generator.integers(0, classes, images)
    logits = generator.normal(size=(images, classes)) * 2
    logits[np.arange(images), labels] += 5
    scores = np.exp(1.5 * logits)
    return scores / scores.sum(axis=1, keepdims=True), labels


def test_what_is_promised_holds_on_images_that_it_was_not_measured_on() -> None:
    generator = np.random.default_rng(0)
    new, labels = answers(generator, 20_000)
    best, right = new.max(axis=1), new.argmax(axis=1) == labels
    broken, shares, covered, sizes = 0, [], [], []
    for _ in range(200):
        measured = json.loads(json.dumps(measure(*answers(generator, 400))))  # as model.json keeps it
        if point := operating_point(measured, 0.95):
            confident = best >= point["threshold"]
            shares.append(confident.mean())
            broken += right[confident].mean() < 0.95
        belongs = new >= set_threshold(measured, 0.9)
        covered.append(belongs[np.arange(len(labels)), labels].mean())
        sizes.append(belongs.sum(axis=1).mean())
    assert broken / 200 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200), "in one of twenty validation splits it may"
    assert np.mean(shares) > 0.4 and len(shares) > 180, "and it is worth something"
    assert 0.895 < np.mean(covered) < 0.91 and np.mean(sizes) < 2


@pytest.mark.parametrize(
    ("images", "classes", "precision", "words"),
    [(58, 6, 0.95, "from 58 images, which takes at least 59"), (300, 6, 0.999, "at least 2995"),
     (300, 2, 0.95, "even of the highest scores too few are right"), (1, 2, 0.5, "at least 5")],
)  # fmt: skip
def test_what_cannot_be_promised_is_said(images: int, classes: int, precision: float, words: str) -> None:
    probabilities, labels = answers(np.random.default_rng(1), images, classes)
    if classes == 2:
        labels = 1 - probabilities.argmax(axis=1)  # never right
    measured = measure(probabilities, labels)
    assert operating_point(measured, precision) is None
    assert words in why_not(measured, precision)


def test_sets_hold_all_labels_where_images_are_too_few_and_thinned_scores_promise_no_less() -> None:
    probabilities, labels = answers(np.random.default_rng(2), 7)
    assert set_threshold(measure(probabilities, labels), 0.9) == 0.0
    probabilities, labels = answers(np.random.default_rng(3), 12_345)
    measured, scores = measure(probabilities, labels), np.sort(probabilities[np.arange(12_345), labels])
    assert len(measured["label_scores"]) == MOST_SCORES
    for coverage in (0.5, 0.9, 0.95, 0.99):
        exact = scores[int(12_346 * (1 - coverage)) - 1]
        assert scores[max(0, int(12_346 * (1 - coverage)) - 63)] <= set_threshold(measured, coverage) <= exact
