"""The backbone: a timm network without its classifier, with weights from a directory and nowhere else.

Its features are what the network itself pools for its classifier, and beside them the means of the feature maps of its
last stages: those know less of ImageNet's classes, and more of images that resemble none of them.

`weights.json` beside the weights names the network, the file, its sha256 and how its tensors are ordered:
`state_dict` by timm's names, `ordered` in timm's order under names of their own.
"""

import difflib
import hashlib
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from classifier.job.failures import StepError, cause

REMEDY = "Stage the weights again"
STAGES = 3  # so many of the last stages count
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError)

Tensors = Mapping[str, Tensor]


class Weights(BaseModel):
    """weights.json."""

    backbone: str  # timm's name of the network
    file: Path
    sha256: str
    format: Literal["ordered", "state_dict"]
    mean: tuple[float, float, float]  # of the pixels that the network was trained on, scaled to 0..1
    std: tuple[float, float, float]


def read_weights(weights_dir: Path) -> Weights:
    """Read weights.json, and refuse a file of weights that is not the one it announces before it is loaded."""
    path = weights_dir / "weights.json"
    try:
        weights = Weights.model_validate_json(path.read_bytes())
        weights.file = weights_dir / weights.file
        with weights.file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise StepError(f"The weights' {error.filename} cannot be read: {error.strerror}. {REMEDY}.") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors())
        raise StepError(f"{path} is not as expected ({problems}). {REMEDY}.") from error
    if sha256 != weights.sha256:
        raise StepError(
            f"{weights.file} has sha256 {sha256}, but weights.json announces {weights.sha256}: it is damaged or was "
            f"changed. {REMEDY}."
        )
    return weights


class Backbone(nn.Module):
    """images (N, 3, H, W) float32, normalised -> features (N, D) float32.

    Args:
        network: timm's, without its classifier, in evaluation mode. One that cannot show its stages gives its own
            pooled output alone.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        shows_stages = hasattr(network, "forward_intermediates") and hasattr(network, "forward_head")
        self.stages = min(STAGES, len(getattr(network, "feature_info", ()))) if shows_stages else 0
        widths = self._probe()
        self.kinds = len(widths)
        self.feature_dim = sum(widths)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat(self._features(images)[: self.kinds], dim=1)

    def _features(self, images: Tensor) -> list[Tensor]:
        """The network's pooled output (N, D0), then the means of each stage's maps (N, Ds)."""
        if not self.stages:
            return [self.network(images)]
        output, maps = self.network.forward_intermediates(images, indices=self.stages)  # type: ignore[operator]
        pooled = self.network.forward_head(output)  # type: ignore[operator]
        return [pooled, *(stage.mean(dim=(2, 3)) for stage in maps)]  # stage: (N, Ds, h, w)

    @torch.no_grad()
    def _probe(self) -> list[int]:
        """The width of each kind of features; timm does not tell before an image of the usual size has been through.

        The last stage is left out where its mean is the pooled output, as in a ResNet.
        """
        size: Any = self.network.pretrained_cfg["input_size"]  # type: ignore[index]
        features = self._features(torch.randn(1, *size, generator=torch.Generator().manual_seed(0)))
        pooled, last = features[0], features[-1]
        repeated = len(features) > 1 and pooled.shape == last.shape and torch.allclose(pooled, last)
        return [kind.shape[1] for kind in (features[:-1] if repeated else features)]


def load_backbone(name: str, weights_dir: Path) -> Backbone:
    """The named network with its weights, in evaluation mode and without gradients."""
    weights = read_weights(weights_dir)
    if weights.backbone != name:
        raise StepError(
            f"{weights_dir} holds weights of {weights.backbone}, but the backbone is {name}. "
            "Name the same network in model.backbone and model.weights."
        )
    tensors = read_tensors(weights)
    network = create_network(name)
    if weights.format == "ordered":
        tensors = renamed(tensors, list(network.state_dict()), weights.file)
    adopt(network, tensors, weights.file)
    network.reset_classifier(0)  # type: ignore[operator]
    return Backbone(network.eval()).eval().requires_grad_(False)


def matching_backbone(weights_dir: Path, manifest: dict[str, Any]) -> Backbone:
    """The backbone whose embeddings the head was trained on; any other is refused."""
    expected = manifest["backbone"]
    weights = read_weights(weights_dir)
    if weights.sha256 != expected["weights_sha256"]:
        raise StepError(
            f"The weights channel holds weights with sha256 {weights.sha256}, but the embeddings were computed with "
            f"{expected['weights_sha256']}. Pass the weights that PrepareData used."
        )
    backbone = load_backbone(expected["name"], weights_dir)
    if backbone.feature_dim != expected["feature_dim"]:
        raise StepError(
            f"Backbone {expected['name']} yields {backbone.feature_dim} features, but the embeddings have "
            f"{expected['feature_dim']}. Run PrepareData again."
        )
    return backbone


def feature_dim(module: Backbone) -> int:
    """D of a backbone made by `load_backbone`."""
    return module.feature_dim


def frozen(module: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """The module for inference only: traced with `example` (N, 3, H, W) and frozen, channels last.

    Frozen networks run at about one and a half times the speed of the module itself on a CPU; any N will do.
    """
    module = module.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # sizes become constants, which is intended; and TorchScript ages
        images = example.contiguous(memory_format=torch.channels_last)
        traced: torch.jit.ScriptModule = torch.jit.trace(module, images, check_trace=False)  # type: ignore[no-untyped-call]
        script: torch.jit.ScriptModule = torch.jit.freeze(traced)
        return script


def read_tensors(weights: Weights) -> Tensors:
    """The file's tensors; loading them runs no code."""
    try:
        tensors: Any = torch.load(weights.file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise StepError(
            f"{weights.file} is not a file of tensors alone, which is all that is accepted ({cause(error)})."
        ) from error
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise StepError(f"{weights.file} holds no state dict, which is a mapping of names to tensors.")
    return tensors


def create_network(name: str) -> nn.Module:
    """timm's network with random weights and a classifier."""
    import timm  # two seconds, for those who need it only

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise StepError(f"model.backbone must be a network of timm's, but got {name!r}.{hint}")
    network: nn.Module = timm.create_model(name, pretrained=False)
    return network


def adopt(network: nn.Module, tensors: Tensors, file: Path) -> None:
    """Give the network the tensors, by timm's names; all that the features depend on must be there."""
    named: Any = network.pretrained_cfg["classifier"]  # type: ignore[index]
    classifier = tuple(f"{name}." for name in ([named] if isinstance(named, str) else named))
    known = network.state_dict()
    expected = [name for name in known if not name.startswith(classifier) and kind_of(name) != "num_batches_tracked"]
    for name in expected:
        if name not in tensors:
            raise StepError(f"{file} has no tensor {name!r}, which the network needs.")
        found, needed = tuple(tensors[name].shape), tuple(known[name].shape)
        if found != needed:
            raise StepError(f"{file}: tensor {name!r} must have shape {needed}, but has {found}.")
    unknown = sorted(name for name in tensors if name not in known and not name.startswith(classifier))
    if unknown:
        raise StepError(f"{file} holds tensor {unknown[0]!r}, which the network does not have.")
    network.load_state_dict({name: tensors[name] for name in expected}, strict=False)


def renamed(tensors: Tensors, names: Sequence[str], file: Path) -> Tensors:
    """Tensors that come in the network's order, under its names; their kinds tell whether the order is the same, where
    shapes do not: a batch norm's weight and variance have the same shape."""
    if len(tensors) != len(names):
        raise StepError(f"{file} holds {len(tensors)} tensors, but the network has {len(names)}.")
    for theirs, ours in zip(tensors, names, strict=True):
        if kind_of(theirs) != kind_of(ours):
            raise StepError(
                f"{file}: the name of a tensor that stands where the network has {ours!r} must end in "
                f"{kind_of(ours)!r}, but got {theirs!r}."
            )
    return dict(zip(names, tensors.values(), strict=True))


def kind_of(name: str) -> str:
    """What a tensor is to its layer: weight, bias, running_mean, running_var or num_batches_tracked."""
    return name.rpartition(".")[2]
