"""Dropout whose mask is drawn for a whole batch, of which a process uses its rows: N processes drop what one would."""

import torch
from torch import Tensor, nn

from classifier.model.head import ClassifierHead


class SharedDropout(nn.Module):
    """(B, D) -> (B, D); drops each number with probability `p` and scales the rest, in training.

    Set `rows`, the whole batch's number of rows, and `first`, the first one of this process, before each step.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.rows, self.first = 0, 0

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or not self.p:
            return values
        drawn = torch.rand(self.rows, *values.shape[1:])[self.first : self.first + len(values)]
        kept = (drawn >= self.p).to(values.device, values.dtype)
        return values * kept / (1 - self.p)


def share_dropout(head: ClassifierHead) -> list[SharedDropout]:
    """Let a head's dropout be shared; returns its layers."""
    shared = []
    for name, module in list(head.named_children()):
        if isinstance(module, nn.Dropout):
            layer = SharedDropout(module.p)
            setattr(head, name, layer)
            shared.append(layer)
    return shared
