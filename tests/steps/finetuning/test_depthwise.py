"""Depthwise convolutions: wide kernels get the gradients that PyTorch gives them, by a quicker way."""

import copy
from typing import Any

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from classifier.finetuning.depthwise import X86, patch

WIDE = nn.Conv2d(32, 32, 5, padding=2, groups=32)


def drawn(*shape: int, seed: int) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.contiguous(memory_format=torch.channels_last)


def gradients(module: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Of images and parameters."""
    output = module(images := images.clone().requires_grad_())
    return torch.autograd.grad(output, [images, *module.parameters()], drawn(*output.shape, seed=4).to(output.dtype))


@pytest.mark.parametrize(
    ("kind", "kernel", "stride", "padding", "image"),
    [
        (nn.Conv2d, (5, 5), (1, 1), (2, 2), (12, 12)),
        (nn.Conv2d, (5, 5), (1, 1), (2, 2), (3, 3)),  # the image is smaller than the kernel
        (nn.Conv2d, (5, 5), (2, 2), (0, 0), (27, 27)),
        (nn.Conv2d, (5, 5), (2, 2), (2, 2), (14, 14)),  # the last column is in no window
        (nn.Conv2d, (7, 7), (1, 1), (3, 3), (7, 7)),
        (nn.Conv2d, (3, 4), (1, 1), (1, 2), (8, 8)),
        (nn.Conv2d, (1, 9), (1, 3), (0, 4), (5, 20)),
        (nn.Conv2d, (5, 6), (1, 2), (0, 1), (6, 11)),
        (Conv2dSame, (5, 5), (1, 1), 0, (13, 9)),  # TensorFlow's padding
        (Conv2dSame, (5, 5), (2, 2), 0, (13, 9)),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_those_of_pytorch(kind: Any, kernel, stride, padding, image, bias: bool) -> None:
    torch.manual_seed(0)
    before = kind(32, 32, kernel, stride, padding, groups=32, bias=bias)
    after, exact, images = copy.deepcopy(before), copy.deepcopy(before).double(), drawn(3, 32, *image, seed=1)
    patch(after)
    assert torch.equal(after(images), before(images))
    for found, wanted in zip(gradients(after, images), gradients(exact, images.double()), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize(
    ("module", "wide"),
    [
        (WIDE, X86),
        (nn.Conv2d(8, 8, (5, 3), groups=8), False),  # narrow
        (nn.Conv2d(8, 8, 5, groups=8, dilation=2), False),
        (nn.Conv2d(8, 8, 5, groups=8, padding="same"), False),
        (nn.Conv2d(8, 8, 5, groups=8, padding=2, padding_mode="reflect"), False),
        (nn.Conv2d(8, 8, 5), False),  # of all channels
        (nn.Conv2d(8, 16, 5, groups=8), False),  # two outputs a channel
        (timm.create_model("resnet10t"), False),
    ],
    ids=str,
)
def test_wide_depthwise_kernels_are_taken_and_no_others(module: nn.Module, wide: bool) -> None:
    patched = copy.deepcopy(module)
    patch(patched)
    assert any("forward" in vars(part) for part in patched.modules()) is wide


@pytest.mark.parametrize(("frozen", "learning"), [("bias", "weight"), ("weight", "bias")])
def test_what_is_frozen_gets_no_gradient_and_a_copy_learns_for_itself(frozen: str, learning: str) -> None:
    module = copy.deepcopy(WIDE)
    patch(module)
    learner = copy.deepcopy(module)
    getattr(learner, frozen).requires_grad_(False)
    learner(drawn(2, 32, 6, 6, seed=1)).sum().backward()
    assert getattr(learner, learning).grad is not None and getattr(learner, frozen).grad is None
    assert getattr(module, learning).grad is None


def test_other_precisions_are_pytorch_s_own() -> None:
    module, images = copy.deepcopy(WIDE), drawn(2, 32, 6, 6, seed=1)
    patch(module)
    for dtype in (torch.float64, torch.bfloat16):
        assert gradients(module.to(dtype), images.to(dtype))[0].dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert module.float()(images).dtype == torch.bfloat16
