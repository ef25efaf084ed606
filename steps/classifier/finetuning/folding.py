"""Frozen batch norms as part of the convolutions before them, while the network learns.

A batch norm with fixed statistics is a factor and an offset for each channel, so norm(conv(x, w)) is a convolution with
other weights: conv(x, w * s) + b, where s = gamma / sqrt(variance + eps) and b = beta - mean * s (as inference engines
do once and for all; see torch.nn.utils.fusion). Here s and b are computed in each step and gradients pass through them
to w, gamma and beta, which stay the parameters that learn. What is saved is the norm's own pass over every feature map,
there and back, and the copies that clamping in place and padding would make: a third of a step's time on a processor.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame, get_same_padding
from torch import Tensor, nn

from classifier.finetuning.depthwise import conv2d

RELATIVE_TOLERANCE = 1e-3  # of the network's output, where a norm has been folded into what was not meant for it alone


@dataclass(frozen=True)
class Pair:
    """A convolution and the batch norm that alone takes what it gives."""

    convolution: nn.Conv2d
    norm: nn.BatchNorm2d

    def fold(self) -> None:
        """Both give what they gave in evaluation mode; the modules, their names and their tensors stay as they are."""
        vars(self.convolution)["forward"] = partial(convolved, self.convolution, self.norm)
        vars(self.norm)["forward"] = activation_of(self.norm)

    def unfold(self) -> None:
        """As if nothing had been."""
        for module in (self.convolution, self.norm):
            vars(module).pop("forward", None)


class Folding:
    """All pairs of a network.

    Args:
        network: In evaluation mode; its output is a tensor.
        example: (N, 3, H, W), what it takes.
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self.pairs = pairs_in(network, example)
        if self.pairs and not self._gives_the_same(network, example):
            self.pairs = []  # some map is used before its norm as well

    @torch.no_grad()
    def _gives_the_same(self, network: nn.Module, example: Tensor) -> bool:
        expected = network(example)
        self.set(True)
        try:
            found = network(example)
        finally:
            self.set(False)
        return float((found - expected).abs().max()) <= RELATIVE_TOLERANCE * float(expected.abs().max())

    def set(self, folded: bool) -> None:
        """Fold all, or none."""
        for pair in self.pairs:
            pair.fold() if folded else pair.unfold()


@torch.no_grad()
def pairs_in(network: nn.Module, example: Tensor) -> list[Pair]:
    """Convolutions whose output goes into a batch norm, where each runs once."""
    convolution_of: dict[int, nn.Conv2d] = {}
    kept: list[Tensor] = []  # so that no two outputs have the same id
    pairs: list[Pair] = []
    runs: Counter[nn.Module] = Counter()

    def convolved_by(module: nn.Module, inputs: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        runs[module] += 1
        kept.append(output)
        convolution_of[id(output)] = module

    def normalised_by(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        runs[module] += 1
        if id(inputs[0]) in convolution_of:
            pairs.append(Pair(convolution_of[id(inputs[0])], module))

    hooks = [
        *(module.register_forward_hook(convolved_by) for module in network.modules() if is_plain(module)),
        *(module.register_forward_pre_hook(normalised_by) for module in network.modules() if is_fixed(module)),
    ]
    try:
        network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in pairs if runs[pair.convolution] == runs[pair.norm] == 1]


def is_plain(module: nn.Module) -> bool:
    """Whether `convolved` knows how it computes."""
    return type(module) in (nn.Conv2d, Conv2dSame) and getattr(module, "padding_mode", "") == "zeros"


def is_fixed(module: nn.Module) -> bool:
    """Whether it is a batch norm that has statistics, a factor and an offset."""
    known = type(module) in (nn.BatchNorm2d, BatchNormAct2d)
    return known and getattr(module, "running_var", None) is not None and getattr(module, "weight", None) is not None


def convolved(convolution: nn.Conv2d, norm: nn.BatchNorm2d, images: Tensor) -> Tensor:
    """norm(convolution(images)) without the norm's activation."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    offset = norm.bias - mean * scale
    if convolution.bias is not None:
        offset = offset + convolution.bias * scale
    weight = convolution.weight * scale.view(-1, 1, 1, 1)
    padding = convolution.padding
    if isinstance(convolution, Conv2dSame):
        images, padding = padded(images, convolution), (0, 0)
    return conv2d(images, weight, offset, convolution.stride, padding, convolution.dilation, convolution.groups)


def padded(images: Tensor, convolution: nn.Conv2d) -> Tensor:
    """With TensorFlow's "same" padding, as timm's Conv2dSame does it."""
    height, width = (
        get_same_padding(*sizes)
        for sizes in zip(
            images.shape[-2:],
            convolution.kernel_size,
            convolution.stride,
            convolution.dilation,
            strict=True,
        )
    )
    if not height and not width:
        return images
    around = (width // 2, width - width // 2, height // 2, height - height // 2)
    result: Tensor = Padded.apply(images, around)  # type: ignore[no-untyped-call]
    return result


def activation_of(norm: nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
    """What is left of a norm."""
    if not isinstance(norm, BatchNormAct2d):
        return unchanged
    activation = norm.act
    clamps = isinstance(activation, nn.Hardtanh) and activation.inplace  # ReLU6 is one
    return partial(activated, norm.drop, partial(clamped, activation) if clamps else activation)


def unchanged(values: Tensor) -> Tensor:
    return values


def activated(drop: nn.Module, activation: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    dropped: Tensor = drop(values)
    return activation(dropped)


def clamped(activation: nn.Hardtanh, values: Tensor) -> Tensor:
    """In place."""
    result: Tensor = Clamped.apply(values, activation.min_val, activation.max_val)  # type: ignore[no-untyped-call]
    return result


class Clamped(torch.autograd.Function):
    """Hardtanh in place. PyTorch's own copies what it is given for its backward pass, which its output serves as well:
    both are within the bounds at the same places."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, low: float, high: float) -> Tensor:
        values.clamp_(low, high)
        ctx.mark_dirty(values)
        ctx.save_for_backward(values)
        ctx.bounds = (low, high)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (values,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], values, *ctx.bounds), None, None


class Padded(torch.autograd.Function):
    """Zeros around; backwards a view instead of PyTorch's copy."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
        left, _, top, _ = padding
        height, width = values.shape[-2:]
        ctx.part = (..., slice(top, top + height), slice(left, left + width))
        return F.pad(values, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.part], None
