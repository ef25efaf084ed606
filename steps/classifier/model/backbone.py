"""The backbone: a timm network without its classifier, with weights from a directory and nowhere else.

Its features are what the network itself pools for its classifier, and beside them the means of the feature maps of its
last stages: those know less of ImageNet's classes, and more of images that resemble none of them.

`weights.json` beside the weights names the network, the file, its sha256 and how its tensors are ordered:
`state_dict` by timm's names, `ordered` in timm's order under names of their own.
"""

import difflib
import hashlib
import json
import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from classifier.job.failures import StepError, cause

REMEDY = "Stage the weights again"
STAGES = 3  # so many of the last stages count
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError)

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Weights:
    """weights.json."""

    backbone: str  # timm's name of the network
    file: Path
    sha256: str
    format: str  # a key of FORMATS
    mean: tuple[float, float, float]  # of the pixels that the network was trained on, scaled to 0..1
    std: tuple[float, float, float]


def read_weights(weights_dir: Path) -> Weights:
    """weights.json; a file of weights that is not the one it announces is refused before it is loaded."""
    path = weights_dir / "weights.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        mean, std = ((float(red), float(green), float(blue)) for red, green, blue in (stored["mean"], stored["std"]))
        weights = Weights(
            stored["backbone"], weights_dir / stored["file"], stored["sha256"], stored["format"], mean, std
        )
    except OSError as error:
        raise StepError(f"{weights_dir} holds no readable weights.json. {REMEDY}.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise StepError(
            f"{path} is not as expected ({error!r}); backbone, file, sha256, format, mean and std are. {REMEDY}."
        ) from error
    if weights.format not in FORMATS:
        raise StepError(f"{path}: format must be {' or '.join(FORMATS)}, but got {weights.format!r}.")
    verify(weights)
    return weights


def verify(weights: Weights) -> None:
    """Compare the file with its sha256."""
    try:
        with weights.file.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StepError(f"The weights {weights.file} cannot be read: {error.strerror}. {REMEDY}.") from error
    if sha256 != weights.sha256:
        raise StepError(
            f"{weights.file} has sha256 {sha256}, but weights.json announces {weights.sha256}: it is damaged or was "
            f"changed. {REMEDY}."
        )


class Backbone(nn.Module):
    """images (N, 3, H, W) float32, normalised -> features (N, D) float32.

    Args:
        network: timm's, without its classifier, in evaluation mode. One that cannot show its stages gives its own
            pooled output alone.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.stages = min(STAGES, len(getattr(network, "feature_info", ()))) if shows_stages(network) else 0
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


def shows_stages(network: nn.Module) -> bool:
    """Whether the network is one of timm's that hand out the feature maps of their stages."""
    return hasattr(network, "forward_intermediates") and hasattr(network, "forward_head")


def load_backbone(name: str, weights_dir: Path) -> Backbone:
    """images (N, 3, H, W) float32, normalised -> features (N, D) float32; in evaluation mode, without gradients."""
    weights = read_weights(weights_dir)
    if weights.backbone != name:
        raise StepError(
            f"{weights_dir} holds weights of {weights.backbone}, but the backbone is {name}. "
            "Name the same network in model.backbone and model.weights."
        )
    tensors = read_tensors(weights)
    module = create_network(name)
    adopt(module, FORMATS[weights.format](tensors, module.state_dict(), weights.file), weights.file)
    module.reset_classifier(0)  # type: ignore[operator]
    return Backbone(module.eval()).eval().requires_grad_(False)


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


def read_tensors(weights: Weights) -> dict[str, Tensor]:
    """The file's tensors; loading them runs no code."""
    try:
        tensors: Any = torch.load(weights.file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise StepError(
            f"{weights.file} is not a file of tensors alone, which is all that is accepted ({cause(error)})."
        ) from error
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise StepError(f"{weights.file} holds no state dict, which is a mapping of names to tensors.")
    return dict(tensors)


def create_network(name: str) -> nn.Module:
    """timm's network with random weights and a classifier."""
    import timm  # two seconds, for those who need it only

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise StepError(f"model.backbone must be a network of timm's, but got {name!r}.{hint}")
    network: nn.Module = timm.create_model(name, pretrained=False)
    return network


def adopt(module: nn.Module, tensors: Tensors, file: Path) -> None:
    """Give the module the tensors; all that the features depend on must be there."""
    classifier = classifier_prefixes(module)
    expected = {
        name: tensor
        for name, tensor in module.state_dict().items()
        if not name.startswith(classifier) and not name.endswith("num_batches_tracked")
    }
    for name, tensor in expected.items():
        if name not in tensors:
            raise StepError(f"{file} has no tensor {name!r}, which the network needs.")
        if tensors[name].shape != tensor.shape:
            raise StepError(
                f"{file}: tensor {name!r} must have shape {tuple(tensor.shape)}, but has {tuple(tensors[name].shape)}."
            )
    unknown = sorted(name for name in tensors if name not in module.state_dict() and not name.startswith(classifier))
    if unknown:
        raise StepError(f"{file} holds tensor {unknown[0]!r}, which the network does not have.")
    module.load_state_dict({name: tensors[name] for name in expected}, strict=False)


def classifier_prefixes(module: nn.Module) -> tuple[str, ...]:
    """Beginnings of the names of the classifier's tensors."""
    named: Any = module.pretrained_cfg["classifier"]  # type: ignore[index]
    return tuple(f"{name}." for name in ([named] if isinstance(named, str) else named))


def by_name(tensors: Tensors, expected: Tensors, file: Path) -> Tensors:
    """Format `state_dict`: the names are timm's."""
    return tensors


def by_order(tensors: Tensors, expected: Tensors, file: Path) -> Tensors:
    """Format `ordered`: the n-th tensor is the network's n-th; their shapes show whether that holds."""
    if len(tensors) != len(expected):
        raise StepError(f"{file} holds {len(tensors)} tensors, but the network has {len(expected)}.")
    pairs = list(zip(tensors.items(), expected.items(), strict=True))
    for (name, tensor), (expected_name, expected_tensor) in pairs:
        if tensor.shape != expected_tensor.shape:
            raise StepError(
                f"{file}: tensor {name!r} must have shape {tuple(expected_tensor.shape)} to be {expected_name!r}, "
                f"but has {tuple(tensor.shape)}."
            )
    return {expected_name: tensor for (_, tensor), (expected_name, _) in pairs}


FORMATS: dict[str, Callable[[Tensors, Tensors, Path], Tensors]] = {"ordered": by_order, "state_dict": by_name}
