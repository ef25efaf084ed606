"""Class weights in the loss: how much an image of a rare class counts beside one of a common class."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


def class_weights(labels: npt.NDArray[np.int64], class_count: int, balance: float) -> Tensor:
    """(C,) float32, (N / (C n_c)) ** balance: with 0 every image counts alike, with 1 every class does.

    Their mean over the training images is 1, so that losses stay comparable. A class without images weighs 1.
    """
    counts = np.bincount(labels, minlength=class_count).astype(np.float64)
    weights = np.where(counts > 0, (len(labels) / (class_count * np.maximum(counts, 1))) ** balance, 1.0)
    weights /= (weights * counts).sum() / len(labels)
    return torch.from_numpy(np.where(counts > 0, weights, 1.0).astype(np.float32))


class BalancedCrossEntropy(nn.CrossEntropyLoss):
    """The mean over a batch's images of their weighted losses.

    torch's own mean divides by the sum of the weights, which depends on what else is in the batch.
    """

    def __init__(self, weights: Tensor, label_smoothing: float) -> None:
        super().__init__(weights, label_smoothing=label_smoothing, reduction="none")

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """(N, C) logits; (N,) labels or (N, C) probabilities."""
        return super().forward(input, target).mean()
