"""Figures of a classification against answers worked out by hand, and the texts that the registry keeps of them."""

import hashlib
import re

import numpy as np
import pytest
from scipy.stats import binomtest

from classifier.evaluation.metrics import classification_metrics, version_metadata, worst_class
from classifier.model.accuracy import figure, wilson

CLASSES = ["ant", "bee", "cat"]
LABELS = np.array([0, 0, 0, 0, 1, 1])
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.1, 0.9, 0.0], [0.7, 0.2, 0.1]],
    dtype=np.float32,
)  # predicts ant ant ant bee bee ant


def test_evaluation_has_the_layout_of_model_monitor() -> None:
    figures = classification_metrics(LABELS, PROBABILITIES, CLASSES)
    interval = {"lower_bound": pytest.approx(0.2999934), "upper_bound": pytest.approx(0.9032277), "images": 6}
    assert figures["accuracy"] == {"value": 4 / 6, "standard_deviation": "NaN", **interval}
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
    bee = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert figures["per_class"]["bee"] == {**bee, "recall_interval": [*map(pytest.approx, (0.0945312, 0.9054688))]}
    assert worst_class(figures["per_class"])["class"] == "bee", "cat has no images"


@pytest.mark.parametrize(("right", "images"), [(0, 5), (5, 5), (263, 268), (1, 1), (50_000, 100_000)])
def test_intervals_are_those_of_scipy(right: int, images: int) -> None:
    expected = binomtest(right, images).proportion_ci(0.95, method="wilson")
    assert wilson(right / images, images) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_log_loss_is_the_mean_of_the_true_classes_logarithms_and_stays_finite() -> None:
    expected = -np.log([0.8, 0.6, 0.5, 0.2, 0.9, 0.2]).mean()
    assert classification_metrics(LABELS, PROBABILITIES, CLASSES)["loss"]["value"] == pytest.approx(expected, rel=1e-6)
    found = classification_metrics(np.array([1]), np.array([[1.0, 0.0]], dtype=np.float32), ["a", "b"])
    assert found["loss"]["value"] == pytest.approx(15.942385, rel=1e-6)


def test_top_5_accuracy_counts_the_five_most_probable_classes() -> None:
    probabilities = np.array([[0.3, 0.25, 0.2, 0.1, 0.08, 0.07]] * 3, dtype=np.float32)
    found = classification_metrics(np.array([0, 4, 5]), probabilities, list("abcdef"))
    assert found["top_5_accuracy"]["value"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("class_count", [2, 7, 40])
def test_weighted_figures_are_the_classes_by_their_images(class_count: int) -> None:
    generator = np.random.default_rng(class_count)
    labels = generator.integers(0, class_count, 400)
    logits = generator.normal(size=(400, class_count)) + 2 * np.eye(class_count)[labels]
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    found = classification_metrics(labels, probabilities, [f"class {index}" for index in range(class_count)])
    classes = found["per_class"].values()
    assert sum(scores["support"] for scores in classes) == 400
    for name in ("precision", "recall", "f1"):
        expected = sum(scores[name] * scores["support"] for scores in classes) / 400
        assert found[f"weighted_{name}"]["value"] == pytest.approx(expected)
    assert found["weighted_recall"]["value"] == pytest.approx(found["accuracy"]["value"])
    assert found["macro_f1"]["value"] == pytest.approx(np.mean([scores["f1"] for scores in classes]))


FIGURES = {"accuracy": 0.96268, "macro_f1": 0.9, "top_5_accuracy": 1.0, "loss": 0.25}
DOCUMENT = {
    "multiclass_classification_metrics": {name: figure(value, 268) for name, value in FIGURES.items()},
    "worst_class": {"class": "hat", "recall": figure(0.5, 8)},
    "group_gap": {"value": 0.0},
    "test_images": 268,
    "dataset_images": 1797,
    "classes": ["hat's", "cap"],
    "dataset_sha256": "0" * 64,
    "model_sha256": "1" * 64,
    "archive_sha256": "2" * 64,
    "hyperparameters": {"lr": 1e-05, "batch_size": 32},
    "rules": {"Overfit": "NoIssuesFound", "LossNotDecreasing": "IssuesFound"},
}


def test_figures_data_hyperparameters_and_rules_become_the_version_s_metadata() -> None:
    assert version_metadata(DOCUMENT) == {
        "accuracy": "0.9627",
        "macro_f1": "0.9000",
        "top_5_accuracy": "1.0000",
        "loss": "0.2500",
        "test_images": "268",
        "accuracy_interval": "0.9327 to 0.9796",
        "worst_class": "hat: recall 0.5000 of 8 images",
        "group_gap": "none",
        "dataset_images": "1797",
        "classes": "2: hat_s / cap",
        "classes_sha256": hashlib.sha256(b"cap\nhat's").hexdigest(),
        "dataset_sha256": "0" * 64,
        "model_sha256": "1" * 64,
        "archive_sha256": "2" * 64,
        "hyperparameters": "batch_size=32 lr=1e-05",
        "rules": "LossNotDecreasing=IssuesFound Overfit=NoIssuesFound",
    }


def test_metadata_is_what_the_registry_s_api_takes() -> None:
    assert version_metadata({**DOCUMENT, "rules": {}})["rules"] == "none", "the API takes no empty text"
    value = version_metadata({**DOCUMENT, "rules": {f"Rule{n}": 'odd, "quoted"\n' for n in range(50)}})["rules"]
    assert value.startswith("Rule0=odd_ _quoted__ Rule1=")
    assert (len(value), value[-3:]) == (256, "...")
    assert re.fullmatch(r"[\w .:/=+\-@]{1,256}", value)
