"""Backbones come from a directory, verified; anything else is refused before it is loaded."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from classifier.data.images import Preprocess, normalise, to_pixels
from classifier.job.failures import StepError
from classifier.model.backbone import Backbone, Weights, frozen, load_backbone, read_tensors, renamed
from pipeline.config.backbones import PACKAGED
from pipeline.service.weights import resolve

NAME = "test_resnet"
PALACE = 698  # of ImageNet's classes


def stage(directory: Path, tensors: Any, **changed: Any) -> Path:
    """Write weights.json and the weights, as the command line stages them; what is changed to None is left out."""
    file = directory / "weights.pth"
    torch.save(tensors, file)
    described = {
        "backbone": NAME,
        "file": "weights.pth",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "format": "state_dict",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
    }
    kept = {name: value for name, value in (described | changed).items() if value is not None}
    (directory / "weights.json").write_text(json.dumps(kept))
    return directory


def network(name: str = NAME, **options: Any) -> torch.nn.Module:
    torch.manual_seed(1)
    return timm.create_model(name, pretrained=False, **options).eval()


def test_features_are_the_pooled_output_and_the_means_of_the_last_three_stages(tmp_path: Path) -> None:
    name = "test_efficientnet"
    original = network(name)
    backbone = load_backbone(name, stage(tmp_path, original.state_dict(), backbone=name))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        pooled = original.forward_head(original.forward_features(images), pre_logits=True)
        maps = original.forward_intermediates(images, intermediates_only=True)[-3:]
        expected = torch.cat([pooled, *(stage.mean(dim=(2, 3)) for stage in maps)], dim=1)
        torch.testing.assert_close(backbone(images), expected)
    assert [stage.shape[1] for stage in maps] == [32, 48, 64]
    assert backbone(images).shape == (2, backbone.feature_dim) == (2, 256 + 32 + 48 + 64)
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize(("name", "width"), [(NAME, 96 + 48 + 192), ("test_mambaout", None), ("test_vit", None)])
def test_the_number_of_features_is_known_and_a_stage_that_is_the_pooled_output_counts_once(
    tmp_path: Path, name: str, width: int | None
) -> None:
    backbone = load_backbone(name, stage(tmp_path, network(name).state_dict(), backbone=name))
    assert backbone(torch.rand(1, 3, 160, 160)).shape == (1, width or backbone.feature_dim)


def test_a_network_that_shows_no_stages_gives_its_pooled_output(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = timm.create_model(NAME, pretrained=False, num_classes=0).eval()
    images = torch.rand(2, 3, 64, 64)
    expected = plain(images)
    monkeypatch.delattr(type(plain), "forward_intermediates")
    backbone = Backbone(plain)
    torch.testing.assert_close(backbone(images), expected)
    assert backbone.feature_dim == 96


def state(**changed: Any) -> dict[str, Any]:
    return network().state_dict() | changed


def ordered(swap: bool = False) -> dict[str, torch.Tensor]:
    """Tensors under other names; if `swap`, weights and variances of the batch norms stand at each other's place."""
    names = list(tensors := state())
    if swap:
        others = {"running_var": "weight", "weight": "running_var"}
        norms = [name.rpartition(".")[0] for name in names if name.endswith(".running_var")]
        places = {f"{norm}.{kind}": f"{norm}.{other}" for norm in norms for kind, other in others.items()}
        names = [places.get(name, name) for name in names]
    return {f"_layers.{number}_{name}": tensors[name] for number, name in enumerate(names)}


def test_weights_are_taken_by_order_or_name_whatever_classes_they_know(tmp_path: Path) -> None:
    expected = state()
    seven = state(**{"fc.weight": torch.zeros(7, 192), "fc.bias": torch.zeros(7)})
    none = {name: tensor for name, tensor in expected.items() if not name.startswith("fc.")}
    for tensors, kind in ((ordered(), "ordered"), (seven, "state_dict"), (none, "state_dict")):
        backbone = load_backbone(NAME, stage(tmp_path, tensors, format=kind))
        for name, tensor in backbone.network.state_dict().items():
            torch.testing.assert_close(tensor, expected[name])


@pytest.mark.parametrize("name", PACKAGED)
def test_weights_of_the_packages_see_a_palace_in_a_stored_photo(name: str) -> None:
    resolved = resolve(name, "package")
    assert resolved.manifest is not None and resolved.file is not None
    tensors = read_tensors(Weights(**{**resolved.manifest, "file": resolved.file}))
    classifier = timm.create_model(name).eval()
    classifier.load_state_dict(renamed(tensors, list(classifier.state_dict()), resolved.file))
    preprocess = Preprocess(256, 288, tuple(resolved.manifest["mean"]), tuple(resolved.manifest["std"]))
    pixels = to_pixels(Image.fromarray(load_sample_image("china.jpg")), preprocess)[None]
    with torch.no_grad():
        logits = classifier(torch.from_numpy(normalise(pixels, preprocess)))[0]
    assert int(logits.argmax()) == PALACE


def test_the_frozen_backbone_answers_as_the_backbone_for_any_number_of_images(tmp_path: Path) -> None:
    backbone = load_backbone(NAME, stage(tmp_path, network().state_dict()))
    script = frozen(backbone, torch.rand(1, 3, 64, 64))
    for count in (1, 3, 8):
        images = torch.rand(count, 3, 64, 64)
        torch.testing.assert_close(script(images), backbone(images), rtol=1e-4, atol=1e-5)


class Malicious:
    """Makes a folder `ran` when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("tensors", "described", "message"),
    [
        ({}, {"backbone": None}, r"weights\.json cannot be used .* backbone Field required .*Stage the weights again"),
        ({}, {"format": "onnx"}, r"weights\.json cannot be used .* Input should be 'ordered' or 'state_dict'"),
        ({}, {"file": "absent.pth"}, r"No such file or directory: .*absent\.pth.*Stage the weights again\.$"),
        ({}, {"sha256": "f" * 64}, r"weights\.pth is damaged or was changed: its sha256 is not weights\.json's\."),
        ({"weight": Malicious()}, {}, r"weights\.pth is not a file of tensors alone, as it has to be \("),
        ([torch.zeros(1)], {}, r"weights\.pth holds no state dict, which is a mapping of names to tensors"),
        ({}, {"backbone": "resnet18"}, "holds weights of resnet18, but the backbone is test_resnet: name the same"),
        ({"weight": torch.zeros(1)}, {"format": "ordered"}, r"holds 1 tensors, but the network has \d+\.$"),
        (ordered(swap=True), {"format": "ordered"}, r"must end in 'weight', but got '.*running_var'\.$"),
        ({"weight": torch.zeros(1)}, {}, r'does not fit the network\. .* Missing key\(s\) .*"conv1\.0\.weight"'),
        (state(**{"conv1.0.weight": torch.zeros(1, 2)}), {}, r"does not fit .* size mismatch for conv1\.0\.weight"),
        (state(**{"layer9.weight": torch.zeros(1)}), {}, r'does not fit .* Unexpected key\(s\) .*"layer9\.weight"'),
    ],
)
def test_weights_that_cannot_be_used_are_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensors: Any, described: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StepError, match=message):
        load_backbone(NAME, stage(tmp_path, tensors, **described))
    assert not Path("ran").exists()


def test_a_missing_description_and_an_unknown_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"weights\.json cannot be used .*No such file or directory.*Stage the weights"):
        load_backbone(NAME, tmp_path)
    with pytest.raises(StepError, match=r"^model\.backbone must be a network of timm's, but got 'test_resnett'\.$"):
        load_backbone("test_resnett", stage(tmp_path, {}, backbone="test_resnett"))
