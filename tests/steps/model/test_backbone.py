"""Backbones come from a directory, verified; anything else is refused before it is loaded."""

import hashlib
import json
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
from classifier.model.backbone import (
    Backbone,
    Weights,
    create_network,
    feature_dim,
    frozen,
    load_backbone,
    read_tensors,
    read_weights,
    renamed,
)
from pipeline.weights import resolve

NAME = "test_resnet"


def stage(directory: Path, tensors: Any, **changed: Any) -> Path:
    """Write weights.json and the weights, as the command line stages them."""
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
    (directory / "weights.json").write_text(json.dumps(described | changed))
    return directory


def network(name: str = NAME, **options: Any) -> torch.nn.Module:
    torch.manual_seed(1)
    return timm.create_model(name, pretrained=False, **options).eval()


def message_of(error: pytest.ExceptionInfo[StepError]) -> str:
    return str(error.value)


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
    assert backbone(images).shape == (2, feature_dim(backbone)) == (2, 256 + 32 + 48 + 64)
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_a_last_stage_whose_mean_is_the_pooled_output_counts_once(tmp_path: Path) -> None:
    backbone = load_backbone(NAME, stage(tmp_path, network().state_dict()))
    with torch.no_grad():
        features = backbone(torch.rand(2, 3, 64, 64))
    assert features.shape == (2, feature_dim(backbone)) == (2, 96 + 48 + 192)


def test_a_network_that_shows_no_stages_gives_its_pooled_output(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = timm.create_model(NAME, pretrained=False, num_classes=0).eval()
    images = torch.rand(2, 3, 64, 64)
    expected = plain(images)
    monkeypatch.delattr(type(plain), "forward_intermediates")
    backbone = Backbone(plain)
    torch.testing.assert_close(backbone(images), expected)
    assert feature_dim(backbone) == 96


@pytest.mark.parametrize("name", ["test_efficientnet", "test_mambaout", "test_vit"])
def test_the_number_of_features_is_known_for_other_kinds_of_networks(tmp_path: Path, name: str) -> None:
    backbone = load_backbone(name, stage(tmp_path, network(name).state_dict(), backbone=name))
    assert backbone(torch.rand(1, 3, 160, 160)).shape == (1, feature_dim(backbone))


def ordered(swap: bool = False) -> dict[str, torch.Tensor]:
    """Tensors under other names; if `swap`, weights and variances of the batch norms stand at each other's place."""
    names = list(network().state_dict())
    if swap:
        others = {"running_var": "weight", "weight": "running_var"}
        norms = [name.rpartition(".")[0] for name in names if name.endswith(".running_var")]
        places = {f"{norm}.{kind}": f"{norm}.{other}" for norm in norms for kind, other in others.items()}
        names = [places.get(name, name) for name in names]
    state = network().state_dict()
    return {f"_layers.{number}_{name}": state[name] for number, name in enumerate(names)}


def test_ordered_tensors_are_taken_in_order_under_names_of_their_own(tmp_path: Path) -> None:
    backbone = load_backbone(NAME, stage(tmp_path, ordered(), format="ordered"))
    for name, tensor in backbone.network.state_dict().items():
        torch.testing.assert_close(tensor, network().state_dict()[name])


def test_ordered_tensors_whose_kinds_come_in_another_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"must end in 'weight', but got '.*running_var'\.$"):
        load_backbone(NAME, stage(tmp_path, ordered(swap=True), format="ordered"))


@pytest.mark.parametrize(("photo", "label"), [("china.jpg", 698), ("flower.jpg", 985)])  # ImageNet: palace, daisy
def test_weights_of_the_package_classify_stored_photos_as_they_should(photo: str, label: int) -> None:
    resolved = resolve("tf_efficientnet_lite0", "package")
    assert resolved.manifest is not None and resolved.file is not None
    tensors = read_tensors(Weights(**{**resolved.manifest, "file": resolved.file}))
    classifier = create_network("tf_efficientnet_lite0").eval()
    classifier.load_state_dict(renamed(tensors, list(classifier.state_dict()), resolved.file))
    preprocess = Preprocess(224, 256, tuple(resolved.manifest["mean"]), tuple(resolved.manifest["std"]))
    pixels = to_pixels(Image.fromarray(load_sample_image(photo)), preprocess)[None]
    with torch.no_grad():
        assert int(classifier(torch.from_numpy(normalise(pixels, preprocess))).argmax()) == label


def test_another_number_of_classes_in_the_weights_does_not_matter(tmp_path: Path) -> None:
    original = network(num_classes=7)
    backbone = load_backbone(NAME, stage(tmp_path, original.state_dict()))
    torch.testing.assert_close(backbone.network.state_dict()["conv1.0.weight"], original.state_dict()["conv1.0.weight"])


def test_weights_without_a_classifier_are_accepted(tmp_path: Path) -> None:
    load_backbone(NAME, stage(tmp_path, network(num_classes=0).state_dict()))


def test_the_frozen_backbone_answers_as_the_backbone_for_any_number_of_images(tmp_path: Path) -> None:
    backbone = load_backbone(NAME, stage(tmp_path, network().state_dict()))
    script = frozen(backbone, torch.rand(1, 3, 64, 64))
    for count in (1, 3, 8):
        images = torch.rand(count, 3, 64, 64)
        torch.testing.assert_close(script(images), backbone(images), rtol=1e-4, atol=1e-5)


def test_weights_json_is_read(tmp_path: Path) -> None:
    weights = read_weights(stage(tmp_path, {}))
    assert (weights.backbone, weights.mean, weights.std) == (NAME, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    stage(tmp_path, network().state_dict(), sha256="f" * 64)
    found = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    with pytest.raises(StepError) as error:
        load_backbone(NAME, tmp_path)
    assert message_of(error) == (
        f"{tmp_path}/weights.pth has sha256 {found}, but weights.json announces {'f' * 64}: it is damaged or was "
        "changed. Stage the weights again."
    )


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    stage(tmp_path, {"weight": Malicious(tmp_path / "ran")})
    with pytest.raises(
        StepError, match=r"weights.pth is not a file of tensors alone, which is all that is accepted \("
    ):
        load_backbone(NAME, tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, r"weights.json cannot be read: No such file or directory"),
        ({"mean": [0, 0, 0], "std": [1, 1, 1]}, r"weights.json is not as expected \(backbone: Field required; "),
        ({"format": "onnx"}, r"format: Input should be 'ordered' or 'state_dict'"),
        ({"mean": [0.5]}, r"mean"),
        ({"file": "absent.pth"}, r"absent.pth cannot be read: No such file or directory"),
    ],
    ids=str,
)
def test_a_missing_or_incomplete_description_is_refused(tmp_path: Path, content, found: str) -> None:
    if content is not None:
        stage(tmp_path, {}, **content)
        if "mean" in content and "std" in content:
            (tmp_path / "weights.json").write_text(json.dumps(content))
    with pytest.raises(StepError, match=rf"{found}.*Stage the weights again\.$"):
        load_backbone(NAME, tmp_path)


@pytest.mark.parametrize(
    ("changed", "asked", "message"),
    [
        (
            {},
            "resnet18",
            "{dir} holds weights of test_resnet, but the backbone is resnet18. Name the same network in model.backbone "
            "and model.weights.",
        ),
        (
            {"backbone": "test_resnett"},
            "test_resnett",
            "model.backbone must be a network of timm's, but got 'test_resnett'. Did you mean 'test_resnet'?",
        ),
        (
            {"format": "ordered"},
            NAME,
            "{dir}/weights.pth holds 1 tensors, but the network has {tensors}.",
        ),
        ({}, NAME, "{dir}/weights.pth has no tensor 'conv1.0.weight', which the network needs."),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, changed: dict[str, Any], asked: str, message: str) -> None:
    stage(tmp_path, {"weight": torch.zeros(1)}, **changed)
    with pytest.raises(StepError) as error:
        load_backbone(asked, tmp_path)
    assert message_of(error) == message.format(dir=tmp_path, tensors=len(network().state_dict()))


@pytest.mark.parametrize("format", ["state_dict", "ordered"])
def test_tensors_of_another_shape_are_refused(tmp_path: Path, format: str) -> None:
    stage(tmp_path, network().state_dict() | {"conv1.0.weight": torch.zeros(1, 2)}, format=format)
    with pytest.raises(StepError, match=r"tensor 'conv1.0.weight' must have shape \(.*\), but has \(1, 2\)\.$"):
        load_backbone(NAME, tmp_path)


def test_tensors_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError) as error:
        load_backbone(NAME, stage(tmp_path, network().state_dict() | {"layer9.weight": torch.zeros(1)}))
    assert message_of(error) == f"{tmp_path}/weights.pth holds tensor 'layer9.weight', which the network does not have."


def test_a_list_instead_of_a_state_dict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError) as error:
        load_backbone(NAME, stage(tmp_path, [torch.zeros(1)]))
    assert message_of(error) == (f"{tmp_path}/weights.pth holds no state dict, which is a mapping of names to tensors.")
