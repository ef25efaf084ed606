"""Batch norms folded into convolutions: the network computes what it computed, there and back."""

import pytest
import timm
import torch
from torch import Tensor, nn

from classifier.finetuning.folding import Folding

SIDE = 64
NETWORKS = ["tf_efficientnet_lite0", "resnet18", "mobilenetv2_050", "regnetx_002"]


def network_of(name: str) -> nn.Module:
    """With norms that have something to do."""
    torch.manual_seed(0)
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=5).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.2)
    return network


def images(count: int = 2) -> Tensor:
    drawn = torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return drawn.contiguous(memory_format=torch.channels_last)


def passed(network: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and every parameter's gradient."""
    network.zero_grad()
    output = network(images())
    output.square().sum().backward()
    gradients = {name: tensor.grad.clone() for name, tensor in network.named_parameters() if tensor.grad is not None}
    return output.detach(), gradients


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_computes_the_same_output_and_gradients(name: str):
    network = network_of(name)
    expected, expected_gradients = passed(network)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}

    folding = Folding(network, images(1))
    folding.set(True)
    found, gradients = passed(network)

    assert len(folding.pairs) == norms  # nothing was left out
    torch.testing.assert_close(found, expected)
    assert gradients.keys() == expected_gradients.keys()
    for parameter, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[parameter], gradient, rtol=1e-6, atol=1e-6 * float(gradient.abs().max()))
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())


def test_an_unfolded_network_is_the_one_that_it_was():
    network = network_of("tf_efficientnet_lite0")
    expected, _ = passed(network)

    folding = Folding(network, images(1))
    assert torch.equal(passed(network)[0], expected)  # by itself it only looks
    folding.set(True)
    folding.set(False)

    assert torch.equal(passed(network)[0], expected)
    assert not any("forward" in vars(module) for module in network.modules())


class UsesMapsTwice(nn.Module):
    """Its convolution's map goes around the norm as well, as in networks with pre-activation."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.norm.running_mean.fill_(0.5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.convolution(images)
        return (maps + self.norm(maps)).mean(dim=(2, 3))


def test_a_map_that_is_used_before_its_norm_stays_as_it_is():
    network = UsesMapsTwice().double().eval()
    expected = network(images())

    folding = Folding(network, images(1))
    folding.set(True)

    assert folding.pairs == []
    assert torch.equal(network(images()), expected)


def test_a_convolution_that_runs_twice_is_left_alone():
    shared = nn.Conv2d(3, 3, 3, padding=1)
    network = nn.Sequential(shared, nn.BatchNorm2d(3), shared, nn.BatchNorm2d(3)).double().eval()

    assert Folding(network, images(1)).pairs == []


def test_a_network_without_batch_norms_has_nothing_to_fold():
    assert Folding(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double().eval(), images(1)).pairs == []
