"""The trained part of the network: embeddings in, logits out. The backbone in front of it stays frozen."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from classifier.job.failures import StepError

STD_FLOOR = 2.0  # times the features' median deviation: what varies little in training is not blown up
SMALLEST_STD = 1e-3  # where half of the features do not vary at all
ROOT_OFFSET = 0.01  # a plain root's slope has no bound at 0, where fine-tuning would send it to the backbone
CHUNK_ROWS = 512


class ClassifierHead(nn.Module):
    """Compresses, standardises, drops out, and classifies: (N, D) float32 -> (N, C) float32 logits.

    Pooled features are skewed, their signed square root is less so: worth 0.3 (digits) and 0.7 (photos) points of
    accuracy with a hidden layer. smdebug finds tensors by the submodules' names, such as `.*relu_output`.
    """

    feature_mean: Tensor  # (D,) float32, of the training embeddings; part of the state, not trained
    feature_std: Tensor  # (D,) float32, deviations with a floor

    def __init__(self, feature_dim: int, class_count: int, *, hidden_units: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"hidden_units": hidden_units, "dropout": dropout}
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_std", torch.ones(feature_dim))
        self.dropout = nn.Dropout(dropout)
        self.hidden: nn.Linear | None = None
        if hidden_units:
            self.hidden = nn.Linear(feature_dim, hidden_units)
            self.hidden_relu = nn.ReLU()
            self.hidden_dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_units or feature_dim, class_count)

    def forward(self, embeddings: Tensor) -> Tensor:
        features = self.dropout((compressed(embeddings) - self.feature_mean) / self.feature_std)  # (N, D)
        if self.hidden is not None:
            features = self.hidden_dropout(self.hidden_relu(self.hidden(features)))  # (N, hidden_units)
        logits: Tensor = self.classifier(features)  # (N, C)
        return logits

    def standardise(self, embeddings: Any) -> None:
        """Take mean and scale of every compressed feature from the plain views of an array (N, views, D) float16.

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

    def copy(self) -> "ClassifierHead":
        """The same head without the debugger's hooks, which `copy.deepcopy` would take along."""
        found = ClassifierHead(len(self.feature_mean), self.classifier.out_features, **self.settings)
        found.load_state_dict(self.state_dict())
        return found


def compressed(embeddings: Tensor) -> Tensor:
    """sign(x) * (sqrt(|x| + o) - sqrt(o)) of each element; it passes on at most 5 times the gradient that it gets."""
    return embeddings / (torch.sqrt(torch.abs(embeddings) + ROOT_OFFSET) + math.sqrt(ROOT_OFFSET))
