"""Figures of a classification against answers worked out by hand, and against scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from classifier.evaluation.metrics import classification_metrics

CLASSES = ["ant", "bee", "cat"]
LABELS = np.array([0, 0, 0, 0, 1, 1])
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.1, 0.9, 0.0], [0.7, 0.2, 0.1]],
    dtype=np.float32,
)  # predicts ant ant ant bee bee ant


def test_evaluation_has_the_layout_of_model_monitor() -> None:
    figures = classification_metrics(LABELS, PROBABILITIES, CLASSES)
    assert figures["accuracy"] == {"value": 4 / 6, "standard_deviation": "NaN"}
    assert figures["weighted_precision"]["value"] == pytest.approx((4 * 3 / 4 + 2 * 1 / 2) / 6)
    assert figures["macro_f1"]["value"] == pytest.approx((3 / 4 + 1 / 2) / 2), (
        "a class that never occurs does not count"
    )
    assert figures["top_5_accuracy"]["value"] == 1.0, "three classes are fewer than five"
    assert figures["confusion_matrix"] == {
        "ant": {"ant": 3, "bee": 1, "cat": 0},
        "bee": {"ant": 1, "bee": 1, "cat": 0},
        "cat": {"ant": 0, "bee": 0, "cat": 0},
    }
    assert figures["per_class"]["bee"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}


def test_log_loss_is_the_mean_of_the_true_classes_logarithms() -> None:
    expected = -np.log([0.8, 0.6, 0.5, 0.2, 0.9, 0.2]).mean()
    assert classification_metrics(LABELS, PROBABILITIES, CLASSES)["loss"]["value"] == pytest.approx(expected, rel=1e-6)


def test_log_loss_stays_finite_where_the_true_class_has_no_probability() -> None:
    found = classification_metrics(np.array([1]), np.array([[1.0, 0.0]], dtype=np.float32), ["a", "b"])
    assert found["loss"]["value"] == pytest.approx(15.942385, rel=1e-6)


def test_top_5_accuracy_counts_the_five_most_probable_classes() -> None:
    probabilities = np.array([[0.3, 0.25, 0.2, 0.1, 0.08, 0.07]] * 3, dtype=np.float32)
    found = classification_metrics(np.array([0, 4, 5]), probabilities, list("abcdef"))
    assert found["top_5_accuracy"]["value"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("class_count", [2, 7, 133])
def test_all_figures_agree_with_scikit_learn(class_count: int) -> None:
    generator = np.random.default_rng(class_count)
    labels = generator.integers(0, class_count, 400)
    logits = generator.normal(size=(400, class_count)) + 2 * np.eye(class_count)[labels]
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    exact = probabilities / probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    predicted = probabilities.argmax(axis=1)
    names = [f"class {index}" for index in range(class_count)]

    figures = classification_metrics(labels, probabilities, names)

    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(class_count), zero_division=0
    )
    for index, name in enumerate(names):
        assert figures["per_class"][name] == pytest.approx(
            {"precision": precision[index], "recall": recall[index], "f1": f1[index], "support": support[index]}
        )
    weighted = sklearn_metrics.precision_recall_fscore_support(labels, predicted, average="weighted", zero_division=0)
    found = {name: figure["value"] for name, figure in figures.items() if "value" in figure}
    del found["expected_calibration_error"]  # scikit-learn has none
    assert found == pytest.approx(
        {
            "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
            "weighted_precision": weighted[0],
            "weighted_recall": weighted[1],
            "weighted_f1": weighted[2],
            "macro_f1": sklearn_metrics.f1_score(labels, predicted, average="macro", zero_division=0),
            "top_5_accuracy": sklearn_metrics.top_k_accuracy_score(
                labels, probabilities if class_count > 2 else probabilities[:, 1], k=5, labels=range(class_count)
            )
            if class_count > 5
            else 1.0,
            "loss": sklearn_metrics.log_loss(labels, exact, labels=range(class_count)),
        },
        rel=1e-5,
    )
