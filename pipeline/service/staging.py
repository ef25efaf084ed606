"""What a definition refers to, by content: code bundles, backbone weights and data, and the compiled definition itself.

Names are derived from content, so that compiling needs no upload and an upload repeats nothing.
"""

import hashlib
import importlib.metadata
import json
import re
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.compile.bundle import Bundle, evaluation_bundle, prepare_bundle, training_bundle, trial_bundle
from pipeline.compile.carried_over import PLACEHOLDER, PLACEHOLDERS, carried_over_uris
from pipeline.compile.offline import offline
from pipeline.compile.placement import Placement
from pipeline.config import annotations
from pipeline.config.annotations import Annotations, read_annotations
from pipeline.config.config import Config
from pipeline.errors import DefinitionError
from pipeline.paths import ROOT
from pipeline.service import sources, weights
from pipeline.service.revision import commit_of
from pipeline.service.sources import Source, fingerprint
from pipeline.service.targets import Target
from pipeline.service.weights import ResolvedWeights

SHIPPED = {"sample": "sample-v2", "digits": "sample-v1"}  # where the data sets that come with the product are staged
COMPILING = ("compile", "config", "definition")  # the packages that a definition depends on


@dataclass(frozen=True)
class Project:
    """A configuration whose data source, weights and CSV files about images have been found."""

    config: Config
    source: Source
    backbone: ResolvedWeights
    annotations: Annotations

    def data_uri(self, placement: Placement, source: Source | None = None) -> str:
        """Where a data source is staged."""
        chosen = source or self.source
        if chosen.uri:
            return chosen.uri
        key = SHIPPED.get(chosen.kind)
        if key is None and chosen.path:
            key = f"{slug(chosen.path.stem)}-{fingerprint(chosen.path)[:16]}"
        assert key, "a source that is neither shipped nor on S3 has a path"
        return placement.uri(self.config.pipeline.name, "data", key)

    def weights_uri(self, placement: Placement) -> str:
        """Where the weights are staged."""
        if self.backbone.uri:
            return self.backbone.uri
        return placement.uri(self.config.pipeline.name, "weights", self.backbone.digest)

    def annotations_uri(self, placement: Placement) -> str:
        """Where the CSV files about images are staged."""
        return placement.uri(self.config.pipeline.name, "annotations", annotations.digest(self.annotations))

    def bundles(self) -> list[Bundle]:
        """Every job's code."""
        return [prepare_bundle(), trial_bundle(), training_bundle(), evaluation_bundle()]


def open_project(config: Config, config_path: Path) -> Project:
    """Find the data source, the weights and the CSV files that pipeline.yaml names, relative to it."""
    folder, data = config_path.resolve().parent, config.data
    return Project(
        config=config,
        source=sources.resolve(config.data.source, relative_to=folder),
        backbone=weights.resolve(config.model.backbone, config.model.weights, relative_to=folder),
        annotations=read_annotations(data.group, data.attributes, data.corrections, relative_to=folder),
    )


def definition_of(
    project: Project, placement: Placement, cache_folder: Path | None = None, *, warm_start_parent: str | None = None
) -> str:
    """The compiled, checked definition; compiled again only when something it is made of has changed.

    With a parent, a tuning job's name, its search begins with what that one has found.

    Raises:
        DefinitionError: it does not pass `checks`.
    """
    inputs = {
        "input_data_uri": project.data_uri(placement),
        "weights_uri": project.weights_uri(placement),
        "annotations_uri": project.annotations_uri(placement),
    }
    commit, bundles = commit_of(), [bundle.digest for bundle in project.bundles()]
    made_of = repr([project.config, placement, inputs, commit, bundles, compiler_digest(), warm_start_parent])
    kept = cache_folder / f"{hashlib.sha256(made_of.encode()).hexdigest()[:32]}.json" if cache_folder else None
    if kept and kept.is_file():
        return kept.read_text()
    from pipeline.definition.check import check

    with offline():
        from pipeline.compile.compiler import compile_definition  # the SDK takes two seconds to import

        definition = compile_definition(
            project.config, placement, **inputs, commit=commit, warm_start_parent=warm_start_parent
        )
    if problems := check(json.loads(definition)):
        raise DefinitionError(problems)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(f".{secrets.token_hex(4)}")
        unfinished.write_text(definition)
        unfinished.replace(kept)
    return definition


def compiler_digest() -> str:
    """Of the builders' source and the SDK's version."""
    total = hashlib.sha256(importlib.metadata.version("sagemaker").encode())
    for file in sorted(file for name in COMPILING for file in (ROOT / "pipeline" / name).glob("*.py")):
        total.update(file.read_bytes())
    return total.hexdigest()


def upload(project: Project, target: Target, source: Source | None = None) -> int:
    """Store code, weights, data, CSV files and what must not be empty, unless it is there; how many were stored."""
    name, placement = project.config.pipeline.name, target.placement
    objects = [item for bundle in project.bundles() for item in bundle.objects(name).items()]
    stored = sum(target.put(placement.uri(key), content) for key, content in objects)
    for key, uri in carried_over_uris(project.config, placement).items():
        stored += target.put(f"{uri}/{PLACEHOLDER}", PLACEHOLDERS[key])
    about = {annotations.README_NAME: annotations.README, **project.annotations}
    stored += sum(target.put(f"{project.annotations_uri(placement)}/{key}", content) for key, content in about.items())
    return stored + upload_weights(project, target) + upload_data(project, target, source or project.source)


def upload_weights(project: Project, target: Target) -> bool:
    """Store the weights directory unless it is there already."""
    uri = project.weights_uri(target.placement)
    if project.backbone.uri or target.holds(uri):
        return False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "weights"
        weights.stage(project.backbone, folder)
        return target.put_tree(uri, folder)


def upload_data(project: Project, target: Target, source: Source) -> bool:
    """Store a data source unless it is there already."""
    uri = project.data_uri(target.placement, source)
    if source.uri or target.holds(uri):
        return False
    if source.path:
        return target.put_tree(uri, source.path)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "digits"
        sources.write_digits(folder)
        return target.put_tree(uri, folder)


def slug(text: str) -> str:
    """Letters, digits and single dashes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") or "data"
