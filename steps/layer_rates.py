"""Which layers of the backbone learn, and how fast beside the head."""

from collections import defaultdict
from typing import Any

from torch import Tensor, nn

from backbone import Backbone
from failures import StepError

SMALLEST_SCALE = 0.05  # layers that would learn more slowly are frozen, which spares their backward pass


def layer_scales(backbone: Backbone, finetune: str, decay: float) -> list[tuple[list[Tensor], float]]:
    """Parameters that shall learn, in groups from the last layers to the first, each with its share of the rate.

    Layers are grouped as timm groups them (`group_matcher(coarse=True)`: the stem and each stage or block). The last
    group learns at the full rate, the one before at `decay` times that, and so on.

    Raises:
        StepError: A `last_block` of a network whose blocks timm does not know.
    """
    groups = parameter_groups(backbone.network)
    if finetune == "last_block":
        if len(groups) == 1:
            raise StepError(
                "model.finetune must be none or all with this backbone, whose blocks timm cannot tell apart, "
                "but got last_block."
            )
        return [(groups[-1], 1.0)]
    scaled = [(group, decay**distance) for distance, group in enumerate(reversed(groups))]
    return [(group, scale) for group, scale in scaled if scale >= SMALLEST_SCALE]


def parameter_groups(network: nn.Module) -> list[list[Tensor]]:
    """The network's parameters by depth, first to last; one group where the network does not tell."""
    matcher: Any = getattr(network, "group_matcher", None)
    if matcher is None:
        return [list(network.parameters())]
    from timm.models import group_parameters

    depth_of: dict[str, int] = group_parameters(network, matcher(coarse=True), reverse=True)
    groups: dict[int, list[Tensor]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        groups[depth_of[name]].append(parameter)
    return [groups[depth] for depth in sorted(groups)]
