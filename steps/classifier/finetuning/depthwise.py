"""Depthwise convolutions on a processor, with a quicker gradient of wide kernels.

oneDNN, by which PyTorch convolves on x86, has code of its own for the gradient of depthwise weights, but takes it for
up to three columns only (jit_dw in its verbose log). Of a wider kernel each channel is computed as one of sixteen, all
but one of which are zeros. Here a wide kernel is cut into strips of three columns: the gradient of each is that of a
narrow convolution over images that are shifted by as much.
"""

import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

STRIP = 3  # columns
IMAGES, WEIGHT = 0, 1  # of what a gradient is
X86 = platform.machine().lower() in ("x86_64", "amd64")
Sizes = tuple[int, ...]  # of height and width


def conv2d(
    images: Tensor, weight: Tensor, bias: Tensor, stride: Sizes, padding: Sizes | str, dilation: Sizes, groups: int
) -> Tensor:
    """What torch.nn.functional.conv2d gives, with the same gradients within rounding.

    Args:
        images: (N, C, H, W).
        weight: (O, C / groups, KH, KW).
        bias: (O,).
    """
    if isinstance(padding, str) or not is_wide(images, weight, dilation, groups):
        return F.conv2d(images, weight, bias, stride, padding, dilation, groups)
    result: Tensor = WideDepthwise.apply(images, weight, bias, stride, padding)  # type: ignore[no-untyped-call]
    return result


def is_wide(images: Tensor, weight: Tensor, dilation: Sizes, groups: int) -> bool:
    """Whether it is a depthwise convolution for which oneDNN has no quick gradient."""
    return (
        weight.shape[3] > STRIP
        and groups == images.shape[1] == weight.shape[0]
        and set(dilation) == {1}
        and images.device.type == "cpu"
        and images.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and X86
    )


class WideDepthwise(torch.autograd.Function):
    """(N, C, H, W), (C, 1, KH, KW) and (C,) -> (N, C, OH, OW), all float32."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, stride: Sizes, padding: Sizes) -> Tensor:
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
