"""The deployed network: normalised images -> backbone -> head -> softmax, as one frozen TorchScript file.

`model.pt`, `model.json` and `code/` are what model.tar.gz holds: all that evaluation and the endpoint need.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbone import Backbone, feature_dim, frozen, load_backbone, read_weights
from failures import StepError
from head import ClassifierHead
from predictor import NETWORK_FILE, load_network

TOLERANCE = 1e-3  # largest difference of a probability between the frozen and the eager network
CODE_PATTERN = "*.py"


class Network(nn.Module):
    """(N, 3, H, W) float32 normalised images -> (N, C) float32 probabilities."""

    def __init__(self, backbone: nn.Module, head: ClassifierHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return torch.softmax(self.head(self.backbone(images)), dim=1)


def matching_backbone(weights_dir: Path, manifest: dict[str, Any]) -> Backbone:
    """The backbone whose embeddings the head was trained on; any other is refused."""
    expected = manifest["backbone"]
    backbone = load_backbone(expected["name"], weights_dir)
    found = read_weights(weights_dir).sha256
    if found != expected["weights_sha256"]:
        raise StepError(
            f"The weights channel holds weights with sha256 {found}, but the embeddings were computed with "
            f"{expected['weights_sha256']}. Pass the weights that PrepareData used."
        )
    if feature_dim(backbone) != expected["feature_dim"]:
        raise StepError(
            f"Backbone {expected['name']} yields {feature_dim(backbone)} features, but the embeddings have "
            f"{expected['feature_dim']}. Run PrepareData again."
        )
    return backbone


@torch.no_grad()
def export_network(backbone: nn.Module, head: ClassifierHead, image_size: int, model_dir: Path) -> None:
    """Freeze the whole network into model.pt, and check that it answers as its parts do."""
    network = Network(backbone, head).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 3, image_size, image_size, generator=generator).contiguous(
        memory_format=torch.channels_last
    )
    script = frozen(network, images[:1])
    script.save(str(model_dir / NETWORK_FILE))
    difference = float((load_network(model_dir)(images) - network(images)).abs().max())
    if not difference <= TOLERANCE:
        raise StepError(
            f"The exported network differs from the trained one by {difference:g} in a probability, "
            f"and {TOLERANCE:g} is accepted. Try another backbone, or another version of torch."
        )


def copy_code(directory: Path) -> None:
    """Put the steps' code into the model, so that the endpoint serves with what evaluated it."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in sorted(Path(__file__).parent.glob(CODE_PATTERN)):
        shutil.copyfile(file, directory / file.name)
