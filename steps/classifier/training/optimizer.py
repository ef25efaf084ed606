"""AdamW on a cosine schedule, by torch's own kernel.

`torch.optim.AdamW` imports torch's compiler when it is built: 1.2 s of every process, more than a trial takes. For that
alone there is this one, with the same groups.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

WARM_UP_SHARE = 0.05  # of all steps
SETTINGS: Any = {"fused": True, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False, "maximize": False}


class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019) with torch's usual betas.

    Groups are as torch's: `params`, `weight_decay` and, as timm has it, `lr_scale`; `lr` is the schedule's peak.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, total_steps: int) -> None:
        self.groups, self.lr, self.total_steps, self.step_count = groups, lr, total_steps, 0
        parameters: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
        self.moments: dict[Tensor, tuple[Tensor, ...]] = {  # means, squares and counts of steps, as the kernel wants
            one: (torch.zeros_like(one), torch.zeros_like(one), one.new_zeros(())) for one in parameters
        }

    @property
    def next_lr(self) -> float:
        """The learning rate of the coming step."""
        return scheduled_lr(self.lr, self.step_count, self.total_steps)

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters from their gradients, then clear those; without a gradient one stays as it is."""
        for group in self.groups:
            lr, decay = self.next_lr * group.get("lr_scale", 1.0), group["weight_decay"]
            if learning := [parameter for parameter in group["params"] if parameter.grad is not None]:
                gradients = [parameter.grad for parameter in learning]
                means, squares, counts = map(list, zip(*(self.moments[one] for one in learning), strict=True))
                adamw(learning, gradients, means, squares, [], counts, lr=lr, weight_decay=decay, **SETTINGS)
            for parameter in learning:
                parameter.grad = None
        self.step_count += 1

    def state(self) -> dict[str, Any]:
        """Return what the coming steps depend on, for `restore`."""
        return {"step_count": self.step_count, "moments": list(self.moments.values())}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned, which may lie on another device."""
        self.step_count = state["step_count"]
        pairs = zip(self.moments, state["moments"], strict=True)
        self.moments = {one: tuple(moment.to(one.device) for moment in moments) for one, moments in pairs}


def decay_weights(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return a module's parameters as groups: weights are decayed, biases are not."""
    named = list(module.named_parameters())
    return [
        {"params": [parameter for name, parameter in named if not name.endswith("bias")], "weight_decay": weight_decay},
        {"params": [parameter for name, parameter in named if name.endswith("bias")], "weight_decay": 0.0},
    ]


def scheduled_lr(peak: float, step: int, total_steps: int) -> float:
    """Return the rate of a step: a linear warm-up, then a cosine from `peak` down to 0 after the last step."""
    warm_up = max(1, round(WARM_UP_SHARE * total_steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total_steps - warm_up)))
