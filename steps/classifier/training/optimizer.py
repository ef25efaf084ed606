"""AdamW with a cosine schedule, by torch's functional API.

`torch.optim.AdamW` imports torch's compiler when it is built (0.8 s, as long as `import torch` itself), and a tuning
trial lasts about two seconds. The kernel called here is the same one.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETAS = (0.9, 0.999)
EPSILON = 1e-8
WARM_UP_SHARE = 0.05  # of all steps


class RatedParameters:
    """Parameters that learn at a share of the learning rate; those that need no gradient are left out."""

    def __init__(self, parameters: Iterable[Tensor], scale: float = 1.0) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.scale = scale


class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019) on matrices; biases are not decayed.

    Args:
        rated: Which parameters learn, and how fast beside `lr`.
        lr: The schedule's peak.
    """

    def __init__(self, rated: Iterable[RatedParameters], *, lr: float, weight_decay: float, total_steps: int) -> None:
        self.lr = lr
        self.total_steps = total_steps
        self.step_count = 0
        self._groups = [group for some in rated for group in _groups(some, weight_decay)]

    @property
    def next_lr(self) -> float:
        """The learning rate of the coming step."""
        return scheduled_lr(self.lr, self.step_count, self.total_steps)

    def step(self) -> None:
        """Update the parameters from their gradients, then clear those."""
        lr = self.next_lr
        for group in self._groups:
            group.step(lr * group.scale)
        self.step_count += 1

    def state(self) -> dict[str, Any]:
        """A copy of all that the coming steps depend on."""
        return {"step_count": self.step_count, "groups": [group.state() for group in self._groups]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.step_count = state["step_count"]
        for group, kept in zip(self._groups, state["groups"], strict=True):
            group.restore(kept)


def _groups(rated: RatedParameters, weight_decay: float) -> list["_Group"]:
    matrices = [parameter for parameter in rated.parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in rated.parameters if parameter.ndim <= 1]
    return [_Group(matrices, weight_decay, rated.scale), _Group(vectors, 0.0, rated.scale)]


class _Group:
    """Parameters with one weight decay and one rate, and their moments."""

    def __init__(self, parameters: list[Tensor], weight_decay: float, scale: float) -> None:
        self.parameters = parameters
        self.weight_decay = weight_decay
        self.scale = scale
        self.means = [torch.zeros_like(parameter) for parameter in parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in parameters]
        self.steps = [torch.zeros((), device=parameter.device) for parameter in parameters]  # as the fused kernel wants

    def state(self) -> dict[str, list[Tensor]]:
        moments = {"means": self.means, "squares": self.squares, "steps": self.steps}
        return {name: [tensor.clone() for tensor in tensors] for name, tensors in moments.items()}

    def restore(self, state: dict[str, list[Tensor]]) -> None:
        """Into the tensors that are there: what was kept may lie on another device."""
        for name, ours in (("means", self.means), ("squares", self.squares), ("steps", self.steps)):
            for tensor, kept in zip(ours, state[name], strict=True):
                tensor.copy_(kept)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        adamw(
            self.parameters,
            gradients,
            self.means,
            self.squares,
            [],
            self.steps,
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=lr,
            weight_decay=self.weight_decay,
            eps=EPSILON,
            maximize=False,
        )
        for parameter in self.parameters:
            parameter.grad = None


def scheduled_lr(peak: float, step: int, total_steps: int) -> float:
    """Linear warm-up, then a cosine from `peak` down to 0 after the last step."""
    warm_up = max(1, round(WARM_UP_SHARE * total_steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total_steps - warm_up)))
