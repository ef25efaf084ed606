"""Depthwise convolutions: wide kernels get the gradients that PyTorch gives them, by a quicker way."""

import copy

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from classifier.finetuning.depthwise import X86, patch

CHANNELS = 32
SHAPES = [  # kernel's height and width, stride, padding, image's height and width
    ((5, 5), (1, 1), (2, 2), (12, 12)),
    ((5, 5), (1, 1), (2, 2), (3, 3)),  # the image is smaller than the kernel
    ((5, 5), (1, 1), (2, 2), (1, 1)),
    ((5, 5), (2, 2), (0, 0), (27, 27)),
    ((5, 5), (2, 2), (2, 2), (14, 14)),  # the last column is in no window
    ((5, 5), (2, 2), (2, 2), (9, 4)),
    ((7, 7), (1, 1), (3, 3), (7, 7)),
    ((3, 4), (1, 1), (1, 2), (8, 8)),
    ((1, 9), (1, 3), (0, 4), (5, 20)),
    ((5, 6), (1, 2), (0, 1), (6, 11)),
]
WIDE = nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2, groups=CHANNELS)


def drawn(*shape: int, seed: int) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values


def passed(module: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The output; the gradients of images and parameters."""
    images = images.clone().requires_grad_()
    output = module(images)
    inputs = [images, *(parameter for parameter in module.parameters() if parameter.requires_grad)]
    return output, list(torch.autograd.grad(output, inputs, drawn(*output.shape, seed=4).to(output.dtype)))


def assert_patched_as_before(module: nn.Module, images: Tensor) -> None:
    before, after, exact = module, copy.deepcopy(module), copy.deepcopy(module).double()
    patch(after)
    assert torch.equal(after(images), before(images))
    for found, wanted in zip(passed(after, images)[1], passed(exact, images.double())[1], strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize(("kernel", "stride", "padding", "image"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_those_of_pytorch(kernel, stride, padding, image, bias):
    torch.manual_seed(0)
    module = nn.Conv2d(CHANNELS, CHANNELS, kernel, stride, padding, groups=CHANNELS, bias=bias)
    assert_patched_as_before(module, drawn(3, CHANNELS, *image, seed=1))


@pytest.mark.parametrize("stride", [1, 2])
def test_tensorflow_s_padding_is_kept(stride):
    torch.manual_seed(0)
    assert_patched_as_before(Conv2dSame(8, 8, 5, stride, groups=8, bias=False), drawn(2, 8, 13, 9, seed=1))


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
def test_wide_depthwise_kernels_are_taken_and_no_others(module, wide):
    patched = copy.deepcopy(module)
    patch(patched)
    assert any("forward" in vars(part) for part in patched.modules()) is wide


def test_what_is_frozen_gets_no_gradient_and_a_copy_learns_for_itself():
    module = copy.deepcopy(WIDE)
    patch(module)
    module.bias.requires_grad_(False)
    learner = copy.deepcopy(module)
    learner(drawn(2, CHANNELS, 6, 6, seed=1)).sum().backward()
    assert learner.weight.grad is not None and learner.bias.grad is None
    assert module.weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_pytorch_s_own(dtype):
    module = copy.deepcopy(WIDE).to(dtype)
    patch(module)
    output, _ = passed(module, drawn(2, CHANNELS, 6, 6, seed=1).to(dtype))
    assert output.dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert passed(copy.deepcopy(WIDE), drawn(2, CHANNELS, 6, 6, seed=1))[0].dtype == torch.bfloat16
