"""Depthwise convolutions on a processor, with a quicker gradient of wide kernels: 14 to 26 % of a fine-tuning step.

oneDNN, by which PyTorch convolves on x86, has code of its own for the gradient of depthwise weights, for up to three
columns (jit_dw in its verbose log); of a wider kernel each channel is computed as one of sixteen, the others being
zeros. Here the gradient of each strip of three columns is that of a narrow convolution over images shifted by as much.
"""

import platform
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

STRIP = 3  # columns
X86 = platform.machine().lower() in ("x86_64", "amd64")
Sizes = tuple[int, ...]  # of height and width


def patch(network: nn.Module) -> None:
    """Let every wide depthwise convolution compute its weights' gradient in strips; all else stays as it is."""
    for module in network.modules():
        if X86 and type(module) in (nn.Conv2d, Conv2dSame) and is_wide_depthwise(module):
            module.forward = MethodType(convolve, module)


def is_wide_depthwise(module: Any) -> bool:
    """Whether oneDNN has no quick gradient for a convolution, which is a usual one otherwise."""
    is_plain = module.padding_mode == "zeros" and not isinstance(module.padding, str) and set(module.dilation) == {1}
    is_depthwise = module.groups == module.in_channels == module.out_channels
    return is_plain and is_depthwise and module.kernel_size[1] > STRIP


def convolve(module: nn.Conv2d, images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, OH, OW), as the module does."""
    padding: Any = module.padding
    if isinstance(module, Conv2dSame):
        images, padding = pad_same(images, module.kernel_size, module.stride), (0, 0)
    weight, others = module.weight, (module.bias, module.stride, padding, 1, module.groups)
    is_plain = images.device.type == "cpu" and images.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not (is_plain and weight.requires_grad and torch.is_grad_enabled()):
        return F.conv2d(images, weight, *others)
    output = F.conv2d(images, weight.detach(), *others)
    result: Tensor = WithWeightGradient.apply(output, images.detach(), weight, module.stride, padding)  # type: ignore[no-untyped-call]
    return result


class WithWeightGradient(torch.autograd.Function):
    """The output of a convolution as it is, through which its weight (C, 1, KH, KW) gets a gradient, strip by strip."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, images: Tensor, weight: Tensor, stride: Sizes, padding: Sizes) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (images, weight) = gradients, ctx.saved_tensors
        (rows, columns), (height, width) = ctx.padding, weight.shape[2:]
        above = 0 if images.shape[2] >= height else rows  # oneDNN's has to have as many rows as the kernel
        seen = (gradient.shape[3] - 1) * ctx.stride[1] + STRIP  # columns of the images that a strip passes over
        found, narrow = torch.empty_like(weight), (len(weight), 1, height, STRIP)
        for first in {*range(0, width - STRIP, STRIP), width - STRIP}:  # where strips overlap both say the same
            left = columns - first
            shifted = F.pad(images, (left, seen - images.shape[3] - left, above, above))
            strip: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
                shifted, narrow, gradient, ctx.stride, (rows - above, 0), 1, len(weight)
            )
            found[..., first : first + STRIP] = strip
        return gradient, None, found, None, None
