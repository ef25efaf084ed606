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

    The features of a pooled network are skewed, mostly near 0 with a few large ones; their signed square root is less
    so. With a hidden layer that was worth 0.3 (digits) and 0.7 (photos) points of accuracy in cross-validation.

    Features are divided by their deviation, but by no less than twice their median deviation: to bring one to 1 that
    is 0 on nearly every image would make the smallest change to the backbone a large one for the head.

    Submodules are attributes, and the ReLU's name ends in `relu`: smdebug's collections find tensors by these names
    (`.*relu_output`), and its rules rely on them.
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
        """Take mean and scale of every compressed feature from an array (N, views, D) float16, over the plain views."""
        total, squares = torch.zeros(2, embeddings.shape[2], dtype=torch.float64)
        for start in range(0, len(embeddings), CHUNK_ROWS):
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
    """sign(x) * (sqrt(|x| + o) - sqrt(o)) of each element, as x / (sqrt(|x| + o) + sqrt(o)).

    That is smooth: a feature near 0 passes on at most 5 times the gradient that it gets.
    """
    return embeddings / (torch.sqrt(torch.abs(embeddings) + ROOT_OFFSET) + math.sqrt(ROOT_OFFSET))


class CalibratedHead(nn.Module):
    """A head whose logits are divided by the temperature of calibration, so that its softmax means what it says."""

    def __init__(self, head: nn.Module, temperature: float) -> None:
        super().__init__()
        self.head = head
        self.temperature = temperature

    def forward(self, embeddings: Tensor) -> Tensor:
        logits: Tensor = self.head(embeddings) / self.temperature  # (N, C)
        return logits
