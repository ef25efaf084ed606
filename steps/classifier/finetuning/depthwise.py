"""Depthwise convolutions on a processor, with a quicker gradient of wide kernels: 14 to 26 % of a fine-tuning step.

oneDNN, by which PyTorch convolves on x86, has code of its own for the gradient of depthwise weights, but takes it for
up to three columns only (jit_dw in its verbose log). Of a wider kernel each channel is computed as one of sixteen, all
but one of which are zeros. Here a wide kernel is cut into strips of three columns: the gradient of each is that of a
narrow convolution over images that are shifted by as much.
"""

import platform
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

STRIP = 3  # columns
IMAGES, WEIGHT = 0, 1  # of what a gradient is
X86 = platform.machine().lower() in ("x86_64", "amd64")
Sizes = tuple[int, ...]  # of height and width


def patch(network: nn.Module) -> None:
    """Let every wide depthwise convolution compute its gradients in strips; its output stays as it is."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and is_wide_depthwise(module):
            module.forward = MethodType(convolve, module)  # type: ignore[method-assign]


def is_wide_depthwise(module: nn.Conv2d) -> bool:
    """Whether oneDNN has no quick gradient for it."""
    depthwise = module.groups == module.in_channels == module.out_channels
    plain = (
        type(module) in (nn.Conv2d, Conv2dSame)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and set(module.dilation) == {1}
    )
    return X86 and depthwise and plain and module.kernel_size[1] > STRIP


def convolve(module: nn.Conv2d, images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, OH, OW), as the module does."""
    padding = module.padding
    if isinstance(module, Conv2dSame):
        images, padding = pad_same(images, module.kernel_size, module.stride), (0, 0)
    if images.device.type != "cpu" or images.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return F.conv2d(images, module.weight, module.bias, module.stride, padding, 1, module.groups)
    result: Tensor = WideDepthwise.apply(images, module.weight, module.bias, module.stride, padding)  # type: ignore[no-untyped-call]
    return result


class WideDepthwise(torch.autograd.Function):
    """(N, C, H, W), (C, 1, KH, KW) and (C,) or None -> (N, C, OH, OW), all float32."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: Sizes, padding: Sizes) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(images, weight, bias, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        images, weight = ctx.saved_tensors
        (gradient,) = gradients
        for_images, for_weight, for_bias = ctx.needs_input_grad[:3]
        return (
            plain_gradient(IMAGES, gradient, images, weight, ctx.stride, ctx.padding) if for_images else None,
            weight_gradient(gradient, images, weight, ctx.stride, ctx.padding) if for_weight else None,
            gradient.sum((0, 2, 3)) if for_bias else None,
            None,
            None,
        )


def weight_gradient(gradient: Tensor, images: Tensor, weight: Tensor, stride: Sizes, padding: Sizes) -> Tensor:
    """(C, 1, KH, KW), strip by strip; where strips overlap both say the same."""
    height, width = weight.shape[2:]
    rows, columns = padding
    above = 0 if images.shape[2] >= height else rows  # oneDNN's has to have as many rows as the kernel
    seen = (gradient.shape[3] - 1) * stride[1] + STRIP  # columns of the images that a strip passes over
    found = torch.empty_like(weight)
    for first in {*range(0, width - STRIP, STRIP), width - STRIP}:
        left = columns - first
        shifted = F.pad(images, (left, seen - images.shape[3] - left, above, above))
        strip = slice(first, first + STRIP)
        found[..., strip] = plain_gradient(WEIGHT, gradient, shifted, weight[..., strip], stride, (rows - above, 0))
    return found


def plain_gradient(of: int, gradient: Tensor, images: Tensor, weight: Tensor, stride: Sizes, padding: Sizes) -> Tensor:
    """PyTorch's, of IMAGES or WEIGHT."""
    wanted = [of == IMAGES, of == WEIGHT, False]
    found: Tensor = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight), wanted
    )[of]
    return found
