"""The backbone: a timm network without its classifier, with weights from a directory and nowhere else.

`weights.json` beside the weights names the network, the file, its sha256 and how its tensors are ordered:
`state_dict` by timm's names, `ordered` in timm's order under names of their own.
"""

import hashlib
import pickle
import warnings
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from classifier.job.failures import StepError, cause

REMEDY = "Stage the weights again"
STAGES = 3  # so many of the last stages count
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError)


class Weights(BaseModel):
    """weights.json."""

    backbone: str  # timm's name of the network
    file: Path
    sha256: str
    format: Literal["ordered", "state_dict"]
    mean: tuple[float, float, float]  # of the pixels that the network was trained on, scaled to 0..1
    std: tuple[float, float, float]


class Backbone(nn.Module):
    """images (N, 3, H, W) float32, normalised -> features (N, D) float32, D being `feature_dim`.

    They are what the network itself pools for its classifier, and beside that the means of its last stages' feature
    maps, which know less of ImageNet's classes, and more of images that resemble none of them.

    Args:
        network: timm's, without its classifier, in evaluation mode. One that cannot show its stages gives its own
            pooled output alone.
        image_size: of its images, px; what timm says unless given.
    """

    def __init__(self, network: nn.Module, image_size: int | None = None) -> None:
        super().__init__()
        self.network = network
        shows_stages = hasattr(network, "forward_intermediates") and hasattr(network, "forward_head")
        self.stages = min(STAGES, len(getattr(network, "feature_info", ()))) if shows_stages else 0
        side: Any = image_size or network.pretrained_cfg["input_size"][-1]  # type: ignore[index]
        with torch.no_grad():  # timm does not tell the widths before an image of the usual size has been through
            features = self._features(torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)))
        pooled, last = features[0], features[-1]
        if len(features) > 1 and pooled.shape == last.shape and torch.allclose(pooled, last):
            features.pop()  # as in a ResNet, the mean of the last stage is the pooled output
        self.kinds, self.feature_dim = len(features), sum(kind.shape[1] for kind in features)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat(self._features(images)[: self.kinds], dim=1)

    def _features(self, images: Tensor) -> list[Tensor]:
        """The network's pooled output (N, D0), then the means of each stage's maps (N, Ds)."""
        if not self.stages:
            return [self.network(images)]
        output, maps = self.network.forward_intermediates(images, indices=self.stages)  # type: ignore[operator]
        pooled = self.network.forward_head(output)  # type: ignore[operator]
        return [pooled, *(stage.mean(dim=(2, 3)) for stage in maps)]  # stage: (N, Ds, h, w)


def load_backbone(name: str, weights_dir: Path, image_size: int | None = None) -> Backbone:
    """The named network with its weights, in evaluation mode and without gradients.

    Args:
        image_size: Of its images, px. A transformer has to know, and is set to it; unless given, it is as timm says.
    """
    weights = read_weights(weights_dir)
    if weights.backbone != name:
        raise StepError(
            f"{weights_dir} holds weights of {weights.backbone}, but the backbone is {name}: name the same."
        )
    import timm  # two seconds, for those who need it only

    if not timm.is_model(name):
        raise StepError(f"model.backbone must be a network of timm's, but got {name!r}.")
    tensors, network = read_tensors(weights), timm.create_model(name, pretrained=False)
    if weights.format == "ordered":
        tensors = renamed(tensors, list(network.state_dict()), weights.file)
    adopt(network, tensors, weights.file)
    network.reset_classifier(0)
    try:
        if image_size and hasattr(network, "set_input_size"):  # its position embeddings are resampled
            network.set_input_size(img_size=(image_size, image_size))
        return Backbone(network.eval(), image_size).eval().requires_grad_(False)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise StepError(
            f"The backbone does not accept images of {image_size} x {image_size} px ({cause(error)}); "
            "set data.image_size_px or another model.backbone."
        ) from error


def matching_backbone(weights_dir: Path, manifest: dict[str, Any]) -> Backbone:
    """The backbone whose embeddings the head was trained on; any other is refused."""
    expected, weights = manifest["backbone"], read_weights(weights_dir)
    if weights.sha256 != expected["weights_sha256"]:
        raise StepError(
            f"The weights channel holds weights with sha256 {weights.sha256}, but the embeddings were computed with "
            f"{expected['weights_sha256']}. Pass the weights that PrepareData used."
        )
    return load_backbone(expected["name"], weights_dir, manifest["preprocess"]["image_size"])


def frozen(module: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """The module traced with `example` (N, 3, H, W), for any N, and frozen, channels last: 1.5 times as quick."""
    module = module.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # sizes become constants, which is intended; and TorchScript ages
        images = example.contiguous(memory_format=torch.channels_last)
        traced: torch.jit.ScriptModule = torch.jit.trace(module, images, check_trace=False)  # type: ignore[no-untyped-call]
        script: torch.jit.ScriptModule = torch.jit.freeze(traced)
        return script


def read_weights(weights_dir: Path) -> Weights:
    """Read weights.json, and refuse a file of weights that is not the one it announces before it is loaded."""
    path = weights_dir / "weights.json"
    try:
        weights = Weights.model_validate_json(path.read_bytes())
        weights.file = weights_dir / weights.file
        with weights.file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValidationError) as error:
        raise StepError(f"{path} cannot be used ({shorten(str(error), 500)}). {REMEDY}.") from error
    if sha256 != weights.sha256:
        raise StepError(f"{weights.file} is damaged or was changed: its sha256 is not weights.json's. {REMEDY}.")
    return weights


def read_tensors(weights: Weights) -> dict[str, Tensor]:
    """The file's tensors; loading them runs no code."""
    try:
        tensors: Any = torch.load(weights.file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise StepError(f"{weights.file} is not a file of tensors alone, as it has to be ({cause(error)}).") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise StepError(f"{weights.file} holds no state dict, which is a mapping of names to tensors.")
    return tensors


def adopt(network: nn.Module, tensors: dict[str, Tensor], file: Path) -> None:
    """Give the network the tensors, by timm's names; all must fit but the classifier's, which it keeps as they are."""
    named: Any = network.pretrained_cfg["classifier"]  # type: ignore[index]
    classifier = tuple(f"{name}." for name in ([named] if isinstance(named, str) else named))
    features = {name: tensor for name, tensor in tensors.items() if not name.startswith(classifier)}
    own = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(classifier)}
    try:
        network.load_state_dict(features | own)
    except RuntimeError as error:
        raise StepError(f"{file} does not fit the network. {shorten(str(error), 500)}") from error


def renamed(tensors: dict[str, Tensor], names: list[str], file: Path) -> dict[str, Tensor]:
    """Tensors that come in the network's order, under its names; their kinds have to be the same, for shapes do not
    tell a batch norm's weight from its variance."""
    if len(tensors) != len(names):
        raise StepError(f"{file} holds {len(tensors)} tensors, but the network has {len(names)}.")
    for theirs, ours in zip(tensors, names, strict=True):
        kind = ours.rpartition(".")[2]  # weight, bias, running_mean, running_var or num_batches_tracked
        if theirs.rpartition(".")[2] != kind:
            raise StepError(f"{file}: the tensor at the place of {ours!r} must end in {kind!r}, but got {theirs!r}.")
    return dict(zip(names, tensors.values(), strict=True))
