"""The classifier head: its normalisation, its shapes, and the names that smdebug relies on."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from classifier.job.failures import StepError
from classifier.model.head import SMALLEST_STD, ClassifierHead, compressed


def test_head_without_hidden_units_is_linear() -> None:
    head = ClassifierHead(6, 3)
    assert [name for name, _ in head.named_parameters()] == ["classifier.weight", "classifier.bias"]
    assert head(torch.zeros(5, 6)).shape == (5, 3)


def test_hidden_layer_has_a_relu_that_smdebug_finds_by_name() -> None:
    head = ClassifierHead(6, 3, hidden_units=4)
    relus = [name for name, module in head.named_modules() if isinstance(module, nn.ReLU)]
    assert relus == ["hidden_relu"]
    assert head(torch.zeros(5, 6)).shape == (5, 3)


def test_standardise_measures_the_compressed_plain_views() -> None:
    embeddings = np.array([[[4.0, -9.0], [100.0, 100.0]], [[16.0, -9.0], [100.0, 100.0]]], dtype=np.float16)
    head = ClassifierHead(2, 3)
    head.standardise(embeddings)
    low, middle, high = (math.sqrt(value + 0.01) - math.sqrt(0.01) for value in (4.0, 9.0, 16.0))
    assert head.feature_mean.tolist() == pytest.approx([(low + high) / 2, -middle])
    assert head.feature_std.tolist() == pytest.approx([(high - low) / 2, SMALLEST_STD])


def test_normalisation_travels_with_the_state() -> None:
    head = ClassifierHead(4, 2)
    head.standardise(np.random.default_rng(0).normal(size=(50, 1, 4)).astype(np.float16))
    copy = ClassifierHead(4, 2)
    copy.load_state_dict(head.state_dict())
    embeddings = torch.randn(3, 4)
    assert torch.equal(head(embeddings), copy(embeddings))


def test_standardise_in_chunks_equals_standardise_at_once() -> None:
    embeddings = np.random.default_rng(0).normal(3, (1, 2, 30, 200), size=(5000, 1, 4)).astype(np.float16)
    head = ClassifierHead(4, 2)
    head.standardise(embeddings)
    plain = embeddings[:, 0].astype(np.float64)
    roots = np.sign(plain) * (np.sqrt(np.abs(plain) + 0.01) - np.sqrt(0.01))
    deviations = roots.std(axis=0)
    floor = 2 * np.sort(deviations)[1]  # the lower one of the two in the middle
    assert deviations[2] > floor
    assert head.feature_mean.tolist() == pytest.approx(roots.mean(axis=0).tolist(), rel=1e-6)
    assert head.feature_std.tolist() == pytest.approx([floor, floor, *deviations[2:]], rel=1e-6)


def test_what_hardly_varies_is_not_blown_up_whatever_the_features_scale() -> None:
    generator = np.random.default_rng(0)
    embeddings = generator.normal(0, (0.001, 1, 1, 1, 1), size=(500, 1, 5))
    head = ClassifierHead(5, 2)
    head.standardise(embeddings.astype(np.float16))
    roots = compressed(torch.from_numpy(embeddings[:, 0]))
    standardised = (roots - head.feature_mean) / head.feature_std
    assert 0.01 < standardised[:, 1:].std(dim=0).min() < 1
    assert standardised[:, 0].std() < 0.05 * standardised[:, 1].std()


def test_no_feature_sends_a_large_gradient_to_the_backbone() -> None:
    embeddings = torch.tensor([0.0, 1e-12, -1e-7, 1e-5, -0.01, 1.0, 1e6], requires_grad=True)
    compressed(embeddings).sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.min() > 0
    assert embeddings.grad.max() <= 5


def test_embeddings_that_are_not_finite_are_refused() -> None:
    embeddings = np.full((2, 1, 3), np.inf, dtype=np.float16)
    with pytest.raises(StepError) as caught:
        ClassifierHead(3, 2).standardise(embeddings)
    assert str(caught.value) == "The training embeddings hold values that are not finite. Run PrepareData again."
