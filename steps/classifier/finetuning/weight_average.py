"""An exponential moving average of the weights in training (Polyak and Juditsky 1992): steadier, and mostly better."""

from collections.abc import Sequence

import torch
from torch import Tensor

WARM_UP_STEPS = 10  # the average of a short history must not remember the start for long


class WeightAverage:
    """Averages of tensors, which can be exchanged with the tensors themselves.

    Args:
        tensors: What training changes: float parameters and statistics.
        decay: Share of the average that stays at a step; at first less, as (1 + t) / (10 + t) in TensorFlow's.
    """

    def __init__(self, tensors: Sequence[Tensor], decay: float) -> None:
        self.tensors, self.decay = list(tensors), decay
        self.steps = 0
        self.exchanged = False
        self.averages = [tensor.detach().clone() for tensor in self.tensors]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the tensors as they are."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (WARM_UP_STEPS + self.steps))
        torch._foreach_lerp_(self.averages, [tensor.detach() for tensor in self.tensors], 1 - decay)

    @torch.no_grad()
    def exchange(self, exchanged: bool) -> None:
        """Let the network hold the averages, or its own weights again."""
        if self.exchanged != exchanged:
            for tensor, average in zip(self.tensors, self.averages, strict=True):
                kept = tensor.detach().clone()
                tensor.copy_(average)
                average.copy_(kept)
            self.exchanged = exchanged
