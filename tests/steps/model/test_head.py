"""The classifier head: its normalisation, its shapes, and the names that smdebug relies on."""

import numpy as np
import pytest
import torch
from torch import nn

from classifier.job.failures import StepError
from classifier.model.head import ClassifierHead, compressed


@pytest.mark.parametrize(
    ("hidden_units", "parameters", "relus"),
    [(0, ["classifier"], []), (4, ["hidden", "classifier"], ["hidden_relu"])],  # smdebug finds them by name
)
def test_head_is_linear_or_has_a_hidden_layer(hidden_units: int, parameters: list[str], relus: list[str]) -> None:
    head = ClassifierHead(6, 3, hidden_units=hidden_units)
    assert [name for name, _ in head.named_parameters()] == [
        f"{p}.{kind}" for p in parameters for kind in ("weight", "bias")
    ]
    assert [name for name, module in head.named_modules() if isinstance(module, nn.ReLU)] == relus
    assert head(torch.zeros(5, 6)).shape == (5, 3)


def test_a_copy_answers_as_the_head_does_without_its_hooks() -> None:
    head = ClassifierHead(4, 2, components=3, members=2, hidden_units=3, dropout=0.5).eval()
    head.fit_features(np.random.default_rng(0).normal(size=(50, 1, 4)).astype(np.float16))
    seen: list[object] = []
    head.register_forward_hook(lambda *call: seen.append(call))
    embeddings = torch.randn(3, 4)
    assert torch.equal(head.copy().eval()(embeddings), head(embeddings))
    assert len(seen) == 1


def test_features_are_measured_on_the_compressed_plain_views_with_a_floor() -> None:
    embeddings = np.random.default_rng(0).normal(3, (1, 2, 30, 200), size=(5000, 2, 4)).astype(np.float16)
    embeddings[:, 1] = 1000  # another view
    head = ClassifierHead(4, 2)
    head.fit_features(embeddings)
    plain = embeddings[:, 0].astype(np.float64)
    roots = np.sign(plain) * (np.sqrt(np.abs(plain) + 0.01) - np.sqrt(0.01))
    deviations = roots.std(axis=0)
    floor = 2 * np.sort(deviations)[1]  # the lower one of the two in the middle
    assert deviations[2] > floor
    assert head.feature_mean.tolist() == pytest.approx(roots.mean(axis=0).tolist(), rel=1e-6)
    assert head.feature_std.tolist() == pytest.approx([floor, floor, *deviations[2:]], rel=1e-6)
    head.fit_features(np.ones((4, 1, 4), dtype=np.float16))  # nothing varies
    assert head.feature_std.tolist() == pytest.approx([1e-3] * 4)


def test_head_answers_with_the_mean_of_its_members_probabilities() -> None:
    head = ClassifierHead(6, 3, components=4, members=5, hidden_units=7).eval()
    head.fit_features(np.random.default_rng(0).normal(size=(50, 2, 6)).astype(np.float16))
    embeddings = torch.randn(8, 6)
    members = head(head.project(embeddings).unsqueeze(1).expand(8, 5, 4))  # (8, 5, 3), of the same images
    assert len({tuple(row) for row in members[0].tolist()}) == 5
    assert torch.allclose(head(embeddings).softmax(dim=1), members.softmax(dim=2).mean(dim=1), atol=1e-6)


def test_components_keep_most_of_what_varies() -> None:
    generator = np.random.default_rng(0)
    embeddings = (generator.normal(size=(400, 1, 3)) @ generator.normal(size=(3, 20))).astype(np.float16)
    head = ClassifierHead(20, 2, components=3)
    head.fit_features(embeddings)
    standardised = (
        compressed(torch.from_numpy(embeddings[:, 0].astype(np.float32))) - head.feature_mean
    ) / head.feature_std
    components = standardised @ head.projection
    assert float(components.var(dim=0).mean()) == pytest.approx(1, rel=0.05)
    directions = head.projection / head.projection.norm(dim=0)
    assert float((standardised @ directions).var(dim=0).sum() / standardised.var(dim=0).sum()) > 0.8


def test_no_feature_sends_a_large_gradient_to_the_backbone() -> None:
    embeddings = torch.tensor([0.0, 1e-12, -1e-7, 1e-5, -0.01, 1.0, 1e6], requires_grad=True)
    compressed(embeddings).sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.min() > 0
    assert embeddings.grad.max() <= 5


def test_embeddings_that_are_not_finite_are_refused() -> None:
    with pytest.raises(StepError, match=r"^The training embeddings hold values that are not finite\. Run PrepareData"):
        ClassifierHead(3, 2).fit_features(np.full((2, 1, 3), np.inf, dtype=np.float16))
