"""AdamW on a cosine schedule, by torch's own kernel.

`torch.optim.AdamW` imports torch's compiler when it is built: 1.2 s of every process, as much as `import torch`, and a
trial of the search takes about two. For that alone there is this one; it takes the same groups.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

WARM_UP_SHARE = 0.05  # of all steps


class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019) with torch's usual betas.

    Args:
        groups: As torch's: `params`, `weight_decay` and, as timm has it, `lr_scale`, a share of the rate.
        lr: The schedule's peak.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, total_steps: int) -> None:
        self.groups, self.lr, self.total_steps, self.step_count = groups, lr, total_steps, 0
        parameters: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
        self.moments = {  # mean, square, and a count of steps, which the fused kernel wants for each
            parameter: (torch.zeros_like(parameter), torch.zeros_like(parameter), parameter.new_zeros(()))
            for parameter in parameters
        }

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters from their gradients, then clear those; without a gradient one stays as it is."""
        for group in self.groups:
            learning = [parameter for parameter in group["params"] if parameter.grad is not None]
            gradients, moments = [parameter.grad for parameter in learning], [self.moments[one] for one in learning]
            means, squares, steps = ([moment[place] for moment in moments] for place in range(3))
            lr, weight_decay = self.next_lr * group.get("lr_scale", 1.0), group["weight_decay"]
            adamw(learning, gradients, means, squares, [], steps, fused=True, amsgrad=False, maximize=False,
                  beta1=0.9, beta2=0.999, eps=1e-8, lr=lr, weight_decay=weight_decay)  # fmt: skip
            for parameter in learning:
                parameter.grad = None
        self.step_count += 1

    @property
    def next_lr(self) -> float:
        """The learning rate of the coming step."""
        return scheduled_lr(self.lr, self.step_count, self.total_steps)

    def state(self) -> dict[str, Any]:
        """A copy of all that the coming steps depend on."""
        return {
            "step_count": self.step_count,
            "moments": [[tensor.clone() for tensor in moments] for moments in self.moments.values()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned, which may lie on another device."""
        self.step_count = state["step_count"]
        for ours, kept in zip(self.moments.values(), state["moments"], strict=True):
            for tensor, value in zip(ours, kept, strict=True):
                tensor.copy_(value)


def decay_matrices(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """A module's parameters as groups: matrices are decayed, biases are not."""
    parameters = list(module.parameters())
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def scheduled_lr(peak: float, step: int, total_steps: int) -> float:
    """Linear warm-up, then a cosine from `peak` down to 0 after the last step."""
    warm_up = max(1, round(WARM_UP_SHARE * total_steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total_steps - warm_up)))
