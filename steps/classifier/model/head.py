"""The trained part of the network: embeddings in, logits out. The backbone in front of it stays frozen."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from classifier.job.failures import StepError

COMPONENTS = 256  # principal components that the members see: as accurate as all features, in a fifth of the time
FEWEST_COMPONENTS = 32
IMAGES_PER_COMPONENT = 4  # with more components than this, unseen images differ from those that components come from
FITTED_ROWS = 2048  # images that the components are computed from, at most
STD_FLOOR = 2.0  # times the features' median deviation: what varies little in training is not blown up
SMALLEST_STD = 1e-3  # where half of the features do not vary at all
ROOT_OFFSET = 0.01  # a plain root's slope has no bound at 0, where fine-tuning would send it to the backbone
SMALLEST_PROBABILITY = 1e-12
CHUNK_ROWS = 512


class MemberLinear(nn.Module):
    """A linear layer for each member: (B, M, features) -> (B, M, outputs), initialised as `nn.Linear` is."""

    def __init__(self, members: int, features: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(features)
        self.weight = nn.Parameter(torch.empty(members, outputs, features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, outputs).uniform_(-bound, bound))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = torch.bmm(inputs.transpose(0, 1), self.weight.transpose(1, 2)).transpose(0, 1) + self.bias
        return outputs


class ClassifierHead(nn.Module):
    """The average of M small networks, its members: (N, D) float32 embeddings -> (N, C) float32 logits.

    All members see the same principal components of the compressed, standardised embeddings. Pooled features are
    skewed, their signed square root is less so: worth 0.3 (digits) and 0.7 (photos) points of accuracy. The logits
    are the logarithms of the members' mean probabilities. smdebug finds tensors by the submodules' names, such as
    `.*relu_output`.
    """

    feature_mean: Tensor  # (D,) float32, of the training embeddings; part of the state, not trained
    feature_std: Tensor  # (D,) float32, deviations with a floor
    projection: Tensor  # (D, P) float32, principal components, scaled to a mean variance of 1

    def __init__(
        self,
        feature_dim: int,
        class_count: int,
        *,
        components: int | None = None,
        members: int = 1,
        hidden_units: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        components = components or min(COMPONENTS, feature_dim)
        self.members, self.class_count, self.hidden_units = members, class_count, hidden_units
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_std", torch.ones(feature_dim))
        self.register_buffer("projection", torch.eye(feature_dim, components))
        self.dropout = nn.Dropout(dropout)
        self.hidden: MemberLinear | None = None
        if hidden_units:
            self.hidden = MemberLinear(members, components, hidden_units)
            self.hidden_relu = nn.ReLU()
            self.hidden_dropout = nn.Dropout(dropout)
        self.classifier = MemberLinear(members, hidden_units or components, class_count)

    def forward(self, inputs: Tensor) -> Tensor:
        """Embeddings (N, D) -> logits (N, C) of the average, or, in training, (B, M, P), what `project` made of each
        member's own images, -> (B, M, C), each member's logits of them."""
        if inputs.ndim == 3:
            return self.member_logits(inputs)
        components = self.project(inputs)  # (N, P)
        logits = self.member_logits(torch.stack([components] * self.members, dim=1))
        if self.members == 1:
            return logits[:, 0]
        return torch.log(torch.softmax(logits, dim=2).mean(dim=1) + SMALLEST_PROBABILITY)

    def project(self, embeddings: Tensor) -> Tensor:
        """(N, D) -> (N, P)."""
        return ((compressed(embeddings) - self.feature_mean) / self.feature_std) @ self.projection

    def member_logits(self, components: Tensor) -> Tensor:
        """(B, M, P) -> (B, M, C)."""
        features = self.dropout(components)
        if self.hidden is not None:
            flat = self.hidden(features).flatten(1)  # (B, M * hidden_units): a channel for each unit, as rules expect
            features = self.hidden_dropout(self.hidden_relu(flat)).reshape(-1, self.members, self.hidden_units)
        logits: Tensor = self.classifier(features)
        return logits

    def fit_features(self, embeddings: Any) -> None:
        """Take mean, scale and components of the compressed features from the plain views of (N, views, D) float16.

        The scale is the deviation, but at least twice the median one: with a feature that is 0 on nearly every image
        brought to 1, the smallest change to the backbone would be a large one for the head.
        """
        total, squares = torch.zeros(2, embeddings.shape[2], dtype=torch.float64)
        for start in range(0, len(embeddings), CHUNK_ROWS):  # which may be larger than the memory
            plain = embeddings[start : start + CHUNK_ROWS, 0].astype(np.float64)  # (rows, D)
            chunk = compressed(torch.from_numpy(plain))
            total += chunk.sum(dim=0)
            squares += chunk.square().sum(dim=0)
        mean = total / len(embeddings)
        if not mean.isfinite().all():
            raise StepError("The training embeddings hold values that are not finite. Run PrepareData again.")
        deviations = (squares / len(embeddings) - mean.square()).clamp(min=0).sqrt()
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(deviations.clamp(min=max(SMALLEST_STD, STD_FLOOR * float(deviations.median()))))
        rows = np.linspace(0, len(embeddings) - 1, min(FITTED_ROWS, len(embeddings))).astype(np.int64)
        plain = torch.from_numpy(embeddings[rows, 0].astype(np.float32))
        standardised = (compressed(plain) - self.feature_mean) / self.feature_std
        self.projection.copy_(principal_components(standardised, self.projection.shape[1]))

    def copy(self) -> "ClassifierHead":
        """The same head without the debugger's hooks, which `copy.deepcopy` would take along."""
        found = ClassifierHead(
            *(len(self.feature_mean), self.class_count),
            components=self.projection.shape[1],
            members=self.members,
            hidden_units=self.hidden_units,
            dropout=self.dropout.p,
        )
        found.load_state_dict(self.state_dict())
        return found


def component_count(feature_dim: int, images: int) -> int:
    """Return how many components as many training images allow."""
    return min(COMPONENTS, max(FEWEST_COMPONENTS, images // IMAGES_PER_COMPONENT), images, feature_dim)


def principal_components(features: Tensor, count: int) -> Tensor:
    """Return so many components of (N, D) features, (D, count), scaled to a mean variance of 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the approximation begins with random directions
        _, deviations, components = torch.pca_lowrank(features, count, center=False, niter=2)
    scale = float((deviations.square().sum() / (len(features) * count)).sqrt())
    return components / max(scale, SMALLEST_STD)


def compressed(embeddings: Tensor) -> Tensor:
    """sign(x) * (sqrt(|x| + o) - sqrt(o)) of each element; it passes on at most 5 times the gradient that it gets."""
    return embeddings / (torch.sqrt(torch.abs(embeddings) + ROOT_OFFSET) + math.sqrt(ROOT_OFFSET))
