"""The trained part of the network: embeddings in, logits out. The backbone in front of it stays frozen."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from failures import StepError
from parts import PartedArray

SMALLEST_STD = 1e-3  # a feature that hardly varies in the training data is not blown up
SMALLEST_MAGNITUDE = 1e-6  # a root's slope has no bound at 0, where fine-tuning would send it to the backbone
CHUNK_ROWS = 512


class ClassifierHead(nn.Module):
    """Compresses, standardises, drops out, and classifies: (N, D) float32 -> (N, C) float32 logits.

    The features of a pooled network are skewed, mostly near 0 with a few large ones; their signed square root is less
    so. With a hidden layer that was worth 0.3 (digits) and 0.7 (photos) points of accuracy in cross-validation.

    Submodules are attributes, and the ReLU's name ends in `relu`: smdebug's collections find tensors by these names
    (`.*relu_output`), and its rules rely on them.
    """

    feature_mean: Tensor  # (D,) float32, of the training embeddings; part of the state, not trained
    feature_std: Tensor  # (D,) float32

    def __init__(self, feature_dim: int, class_count: int, *, hidden_units: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
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
        magnitudes = torch.clamp(torch.abs(embeddings), min=SMALLEST_MAGNITUDE)
        features = torch.sign(embeddings) * torch.sqrt(magnitudes)  # (N, D)
        features = self.dropout((features - self.feature_mean) / self.feature_std)  # (N, D)
        if self.hidden is not None:
            features = self.hidden_dropout(self.hidden_relu(self.hidden(features)))  # (N, hidden_units)
        logits: Tensor = self.classifier(features)  # (N, C)
        return logits

    def standardise(self, embeddings: npt.NDArray[np.float16] | PartedArray) -> None:
        """Take mean and deviation of every compressed feature from embeddings (N, views, D), over the plain views."""
        total = np.zeros(embeddings.shape[2])
        squares = np.zeros(embeddings.shape[2])
        for start in range(0, len(embeddings), CHUNK_ROWS):
            plain = embeddings[start : start + CHUNK_ROWS, 0].astype(np.float64)  # (rows, D)
            chunk = np.sign(plain) * np.sqrt(np.abs(plain))
            total += chunk.sum(axis=0)
            squares += np.square(chunk).sum(axis=0)
        mean = total / len(embeddings)
        if not np.isfinite(mean).all():
            raise StepError("The training embeddings hold values that are not finite. Run PrepareData again.")
        deviation = np.sqrt(np.maximum(squares / len(embeddings) - np.square(mean), 0))
        self.feature_mean.copy_(torch.from_numpy(mean))
        self.feature_std.copy_(torch.from_numpy(np.maximum(deviation, SMALLEST_STD)))


class CalibratedHead(nn.Module):
    """A head whose logits are divided by the temperature of calibration.py, so that its softmax means what it says."""

    def __init__(self, head: nn.Module, temperature: float) -> None:
        super().__init__()
        self.head = head
        self.temperature = temperature

    def forward(self, embeddings: Tensor) -> Tensor:
        logits: Tensor = self.head(embeddings) / self.temperature  # (N, C)
        return logits
