"""Which layers of the backbone learn, and how fast beside the head."""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from classifier.job.failures import StepError
from classifier.model.backbone import Backbone

SMALLEST_SCALE = 0.05  # layers that would learn more slowly are frozen, which spares their backward pass


def layer_scales(
    backbone: Backbone, finetune: str, decay: float, *, frozen_stride: int = 0
) -> list[tuple[list[Tensor], float]]:
    """Parameters that shall learn, in groups from the last layers to the first, each with its share of the rate.

    Layers are grouped as timm groups them (`group_matcher(coarse=True)`: the stem and each stage or block). The last
    group learns at the full rate, the one before at `decay` times that, and so on.

    Args:
        frozen_stride: Groups up to the last stage whose maps are at most so many times smaller than the image do not
            learn, where timm tells (`feature_info`); the last group always does.

    Raises:
        StepError: A `last_block` of a network whose blocks timm does not know.
    """
    depths = parameter_depths(backbone.network)
    groups = parameter_groups(backbone.network, depths)
    if finetune == "last_block":
        if len(groups) == 1:
            raise StepError(
                "model.finetune must be none or all with this backbone, whose blocks timm cannot tell apart, "
                "but got last_block."
            )
        return [(groups[-1], 1.0)]
    frozen = min(groups_within(backbone.network, depths, frozen_stride), len(groups) - 1)
    scaled = [(group, decay**distance) for distance, group in enumerate(reversed(groups[frozen:]))]
    return [(group, scale) for group, scale in scaled if scale >= SMALLEST_SCALE]


def parameter_depths(network: nn.Module) -> dict[str, int]:
    """The group of each of the network's parameters, from 0, first to last; 0 alone where the network does not tell."""
    matcher: Any = getattr(network, "group_matcher", None)
    names = [name for name, _ in network.named_parameters()]
    if matcher is None:
        return dict.fromkeys(names, 0)
    from timm.models import group_parameters

    found: dict[str, int] = group_parameters(network, matcher(coarse=True), reverse=True)
    order = {depth: number for number, depth in enumerate(sorted({found[name] for name in names}))}
    return {name: order[found[name]] for name in names}


def parameter_groups(network: nn.Module, depths: Mapping[str, int]) -> list[list[Tensor]]:
    """The network's parameters by depth, first to last."""
    groups: dict[int, list[Tensor]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        groups[depths[name]].append(parameter)
    return [groups[depth] for depth in sorted(groups)]


def groups_within(network: nn.Module, depths: Mapping[str, int], stride: int) -> int:
    """How many groups come before the end of the last stage of at most this stride."""
    stages: Any = getattr(network, "feature_info", ())
    early = tuple(f"{stage.get('module', '')}." for stage in stages if stage.get("reduction", math.inf) <= stride)
    return 1 + max((depth for name, depth in depths.items() if name.startswith(early)), default=-1)
