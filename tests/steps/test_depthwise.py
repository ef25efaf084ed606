"""Depthwise convolutions: wide kernels get the gradients that PyTorch gives them, by a quicker way."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from classifier.finetuning import depthwise
from classifier.finetuning.depthwise import WideDepthwise, conv2d, is_wide

CHANNELS = 32
# kernel's height and width, stride, padding, image's height and width
SHAPES = [
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


def drawn(*shape: int, seed: int) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values


def tensors(kernel: tuple[int, int], image: tuple[int, int]) -> list[Tensor]:
    """Images, weights and biases of a depthwise convolution."""
    made = [drawn(3, CHANNELS, *image, seed=1), drawn(CHANNELS, 1, *kernel, seed=2), drawn(CHANNELS, seed=3)]
    return [tensor.requires_grad_() for tensor in made]


def gradients(output: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(output, inputs, drawn(*output.shape, seed=4))


@pytest.mark.parametrize(("kernel", "stride", "padding", "image"), SHAPES)
def test_output_and_gradients_are_those_of_pytorch(kernel, stride, padding, image):
    inputs = tensors(kernel, image)
    expected = F.conv2d(*inputs, stride, padding, groups=CHANNELS)

    found = WideDepthwise.apply(*inputs, stride, padding)

    assert torch.equal(found, expected)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    right = F.conv2d(*exact, stride, padding, groups=CHANNELS)
    wanted = torch.autograd.grad(right, exact, drawn(*right.shape, seed=4).double())
    for gradient, other in zip(gradients(found, inputs), wanted, strict=True):
        torch.testing.assert_close(gradient.double(), other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def test_only_what_learns_gets_a_gradient():
    images, weight, bias = tensors((5, 5), (6, 6))
    images.requires_grad_(False)
    bias.requires_grad_(False)

    conv2d(images, weight, bias, (1, 1), (2, 2), (1, 1), CHANNELS).sum().backward()

    assert weight.grad is not None and images.grad is None and bias.grad is None


@pytest.mark.skipif(not depthwise.X86, reason="oneDNN computes gradients so on x86 only")
def test_wide_depthwise_kernels_are_taken_and_no_others():
    images, weight, _ = tensors((5, 5), (6, 6))

    assert is_wide(images, weight, (1, 1), CHANNELS)
    assert not is_wide(images, weight[..., 1:4], (1, 1), CHANNELS)  # narrow
    assert not is_wide(images, weight, (2, 2), CHANNELS)  # dilated
    assert not is_wide(images, drawn(CHANNELS, CHANNELS, 5, 5, seed=2), (1, 1), 1)  # of all channels
    assert not is_wide(images, drawn(2 * CHANNELS, 1, 5, 5, seed=2), (1, 1), CHANNELS)  # two outputs a channel
    assert not is_wide(images.double(), weight.double(), (1, 1), CHANNELS)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_wide(images, weight, (1, 1), CHANNELS)


@pytest.mark.parametrize("padding", ["same", "valid", (2, 2)])
def test_every_convolution_is_computed(padding):
    images, weight, bias = tensors((5, 5), (6, 6))
    dense = drawn(8, CHANNELS, 5, 5, seed=5)

    for kernel, groups in ((weight, CHANNELS), (dense, 1)):
        offset = bias[: len(kernel)]
        found = conv2d(images, kernel, offset, (1, 1), padding, (1, 1), groups)
        assert torch.equal(found, F.conv2d(images, kernel, offset, 1, padding, 1, groups))
