"""Calibration: the temperature that validation asks for, and the calibration error."""

import numpy as np
import pytest
import torch

from classifier.evaluation.metrics import effect
from classifier.model.export import Network
from classifier.training.calibration import TEMPERATURES, calibrate, fit_temperature, reliability, softmax
from classifier.training.results import Validation


def drawn(images: int, temperature: float, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a network that is too sure of itself by the temperature: labels are drawn from logits / temperature."""
    generator = np.random.default_rng(0)
    logits = (2.0 * generator.standard_normal((images, classes))).astype(np.float32)
    chances = softmax(logits).cumsum(axis=1)
    labels = (generator.random((images, 1)) > chances).sum(axis=1)
    return (logits * temperature).astype(np.float32), labels.astype(np.int64)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature: float) -> None:
    logits, labels = drawn(20_000, temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.03)


def test_no_other_temperature_has_a_lower_log_loss_than_that_which_stages_are_compared_by() -> None:
    logits, labels = map(torch.from_numpy, drawn(3_000, 2.0))
    found = fit_temperature(logits.numpy(), labels.numpy())
    losses = {
        factor: float(torch.nn.functional.cross_entropy(logits.double() / (found * factor), labels))
        for factor in (0.9, 0.99, 1.0, 1.01, 1.1)
    }
    assert min(losses, key=losses.__getitem__) == 1.0
    for factor in (1, 10):  # how large the logits are tells nothing
        assert Validation(0.0, factor * logits, labels).calibrated_log_loss == pytest.approx(losses[1.0], rel=1e-4)


def test_calibration_lowers_the_error_and_repeats_itself_to_the_last_digit() -> None:
    logits, labels = drawn(5_000, 3.0)
    first, again = calibrate(logits, labels), calibrate(logits, labels)
    assert first == again
    assert first.uncalibrated_error > 0.1 > 0.02 > first.expected_calibration_error


def test_a_validation_without_a_mistake_does_not_ask_for_certainty() -> None:
    labels = np.arange(60) % 3
    logits = (4 * np.eye(3)[labels]).astype(np.float32)
    temperature = fit_temperature(logits, labels)
    assert TEMPERATURES[0] < temperature < 1
    assert 0.97 < softmax(logits, temperature).max() < 0.9999


def test_the_first_class_stays_the_first_and_huge_logits_do_no_harm() -> None:
    logits = np.array([[1e30, 0.0, -1e30], [0.1, 0.2, 0.15]], np.float32)
    network = Network(torch.nn.Identity(), torch.nn.Identity(), 0.3)
    assert network(torch.from_numpy(logits)).argmax(dim=1).tolist() == [0, 1]
    assert np.isfinite(fit_temperature(logits, np.array([2, 1])))


def test_error_is_the_one_worked_out_by_hand_and_scores_on_the_edges_have_a_bin() -> None:
    probabilities = np.array([[0.9, 0.1], [0.91, 0.09], [0.3, 0.7], [0.45, 0.55]])
    found = reliability(probabilities, np.array([0, 1, 1, 1]))  # right: yes, no, yes, yes
    filled = {number: part for number, part in enumerate(found.bins) if part.images}
    assert {number: part.images for number, part in filled.items()} == {8: 1, 10: 1, 13: 2}
    assert (filled[13].confidence, filled[13].accuracy) == (pytest.approx(0.905), 0.5)
    assert found.error == pytest.approx((2 * 0.405 + 0.3 + 0.45) / 4)
    edges = np.array([[1.0, 0.0], [0.5, 0.5]], np.float32)
    assert sum(part.images for part in reliability(edges, np.array([0, 0])).bins) == 2


def test_temperature_is_taken_out_of_probabilities_again() -> None:
    logits, labels = drawn(200, 2.5)
    deployed = softmax(logits, 2.5).astype(np.float32)
    found = effect(deployed, labels, 2.5)
    assert found.uncalibrated.error == pytest.approx(reliability(softmax(logits), labels).error, abs=1e-4)
    assert found.document()["expected_calibration_error"] == found.calibrated.error
