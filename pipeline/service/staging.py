"""What a definition refers to, by content: code bundles, backbone weights and data, and the compiled definition itself.

Names are derived from content, so that compiling needs no upload and an upload repeats nothing. Of a pipeline is
remembered which data it used last: it keeps them until `--data` or data.source names others.
"""

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pipeline.compile.bundle import ARCHIVE
from pipeline.compile.compiler import Compiled, Inputs, compile_pipeline
from pipeline.compile.placement import Placement
from pipeline.config import annotations
from pipeline.config.annotations import Annotations, read_annotations
from pipeline.config.config import Config, ConfigFile
from pipeline.errors import DataSourceError, DefinitionError
from pipeline.local.store.storage import replacing
from pipeline.paths import ROOT, STEPS
from pipeline.service import sources, weights
from pipeline.service.sources import SHIPPED, Source
from pipeline.service.targets import Target, memory_uri, remembered, split_uri
from pipeline.service.weights import ResolvedWeights

COMPILING = ("compile", "config", "definition")  # the packages that a definition depends on
CODE = (".py", ".json", ".html", ".css")
IS_TRACKED = ("ls-files", "--error-unmatch", "run_pipeline.py")
DESCRIBE = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


@dataclass(frozen=True)
class Project:
    """A configuration whose data source, weights and CSV files about images have been found."""

    config: Config
    source: Source
    backbone: ResolvedWeights
    annotations: Annotations
    configured: str  # the name of data.source, which another source may have taken the place of

    def data_uri(self, placement: Placement) -> str:
        source = self.source
        if source.uri:
            return source.uri
        key = SHIPPED.get(source.name) or f"{slug(Path(source.name).stem)}-{source.fingerprint[:16]}"
        return placement.uri(self.config.pipeline.name, "data", key)

    def weights_uri(self, placement: Placement) -> str:
        return weights_uri(self.config, self.backbone, placement)

    def annotations_uri(self, placement: Placement) -> str:
        return placement.uri(self.config.pipeline.name, "annotations", annotations.digest(self.annotations))


def open_project(config_path: Path, environment: str | None = None) -> Project:
    """Read pipeline.yaml and find what it names; a ConfigError tells every problem of either at once."""
    file = ConfigFile(config_path, environment)
    config, folder = file.config, config_path.resolve().parent
    source = file.check(partial(sources.resolve, config.data.source, relative_to=folder), "data.source")
    find_weights = partial(weights.resolve, config.model.backbone, config.model.weights, relative_to=folder)
    backbone = file.check(find_weights, "model.weights", "model.backbone")
    annotations = read_annotations(config.data, folder, file.check)
    file.raise_problems()
    assert source and backbone
    return Project(config, source, backbone, annotations, configured=source.name)


def choose_data(target: Target, project: Project, given: Source | None) -> tuple[Project, str]:
    """Return the project with the data that a run is to use, and a line that says which they are and why."""
    if given is not None:
        return replace(project, source=given), data_line(given, "")
    last = remembered(target, project.config.pipeline.name)
    if last.get("configured") != project.configured or last["source"] == project.configured:
        return project, data_line(project.source, " (data.source in pipeline.yaml)")
    name, uri = last["source"], last["uri"]
    if name in SHIPPED or name.startswith("s3:") or Path(name).exists():
        source, why = sources.resolve(name), ", as in the last run; --data or another data.source takes others"
    elif target.holds(uri):
        source, why = Source(name, uri=uri), ", which is gone; the last run's copy is used"
    else:
        raise DataSourceError(f"The images of the last run, {name}, are gone, and so is their copy; give --data.")
    return replace(project, source=source), data_line(source, why)


def data_line(source: Source, why: str) -> str:
    """Return the line about a run's data."""
    left_out = "".join(f"; left out: {name} {reason}" for name, reason in list(source.unreadable.items())[:1])
    more = len(source.unreadable) - 1
    return f"Data: {source.name}{why}{left_out}{f', and {more} more' if more > 0 else ''}"


def remember(target: Target, project: Project) -> None:
    """Keep which data the pipeline uses, for its next run."""
    uri, name = project.data_uri(target.placement), project.config.pipeline.name
    last = {"source": project.source.name, "uri": uri, "configured": project.configured}
    if last != remembered(target, name):
        bucket, key = split_uri(memory_uri(target, name))
        target.client("s3").put_object(Bucket=bucket, Key=key, Body=json.dumps(last, indent=1).encode())


def compile_project(
    project: Project, placement: Placement, cache_folder: Path | None = None, *, warm_start_parent: str | None = None
) -> Compiled:
    """Return the compiled, checked definition; compiled again only when configuration or code have changed.

    With a parent, a tuning job's name, its search begins with what that one has found. The data are but the default of
    a parameter, which is put in afterwards.
    """
    no_data = placement.uri(project.config.pipeline.name, "data", "none")
    inputs = Inputs(
        project.config,
        placement,
        input_data_uri=no_data,
        weights_uri=project.weights_uri(placement),
        annotations_uri=project.annotations_uri(placement),
        commit=commit_of(),
        warm_start_parent=warm_start_parent,
    )
    digest = hashlib.sha256(f"{inputs} {code_digest()}".encode()).hexdigest()[:32]
    kept = cache_folder / f"{digest}.json" if cache_folder else None
    if kept and kept.is_file():
        compiled = Compiled.from_json(kept.read_text())
    else:
        from pipeline.definition.check import check

        compiled = compile_pipeline(inputs)
        if problems := check(json.loads(compiled.definition)):
            raise DefinitionError(problems)
        if kept:
            with replacing(kept) as unfinished:
                unfinished.write_text(compiled.to_json())
    uri = json.dumps(project.data_uri(placement))
    return replace(compiled, definition=compiled.definition.replace(json.dumps(no_data), uri))


def definition_of(project: Project, placement: Placement) -> str:
    return compile_project(project, placement).definition


def commit_of(folder: Path = ROOT) -> str | None:
    """Return the commit that a project folder has checked out, with `-dirty` if tracked files differ.

    None without git, outside a work tree, and for a copy of the project that lies in somebody else's work tree.
    """
    answer, environment = "", {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # only looks; takes no lock from a commit
    for words in (IS_TRACKED, DESCRIBE):
        try:
            command = ["git", "-C", folder, *words]
            answer = subprocess.check_output(command, env=environment, stderr=subprocess.DEVNULL, text=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return None
    return answer.strip() or None


def code_digest() -> str:
    """Return a digest of the builders, of the jobs' code and of the SDK's version."""
    total = hashlib.sha256(importlib.metadata.version("sagemaker").encode())
    folders = [*(ROOT / "pipeline" / name for name in COMPILING), STEPS]
    for file in sorted(file for folder in folders for file in folder.rglob("*") if file.suffix in CODE):
        total.update(f"{file}\0".encode() + file.read_bytes())
    return total.hexdigest()


def upload(project: Project, target: Target, compiled: Compiled) -> int:
    """Store code, weights, data, CSV files and what must not be empty, unless it is there; how many were stored."""
    name, placement = project.config.pipeline.name, target.placement
    archives = {placement.uri(bundle.key(name), ARCHIVE): bundle.archive() for bundle in compiled.bundles}
    stored = sum(target.put(uri, content) for uri, content in archives.items())
    stored += sum(target.put(uri, text.encode()) for uri, text in compiled.placeholders.items())
    about = {annotations.README_NAME: annotations.README, **project.annotations}
    stored += sum(target.put(f"{project.annotations_uri(placement)}/{key}", content) for key, content in about.items())
    return stored + upload_weights(target, project.config, project.backbone) + upload_data(project, target)


def weights_uri(config: Config, backbone: ResolvedWeights, placement: Placement) -> str:
    return backbone.uri or placement.uri(config.pipeline.name, "weights", backbone.digest)


def upload_weights(target: Target, config: Config, backbone: ResolvedWeights) -> bool:
    """Store the weights directory unless it is there already."""
    uri = weights_uri(config, backbone, target.placement)
    if backbone.uri or target.holds(uri):
        return False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "weights"
        weights.stage(backbone, folder)
        return target.put_tree(uri, folder)


def upload_data(project: Project, target: Target) -> bool:
    """Store the data unless they are there already, with a list of the files that could not be read."""
    source, uri = project.source, project.data_uri(target.placement)
    if source.uri or (not source.path and target.holds(uri)):
        return False
    with tempfile.TemporaryDirectory() as temporary:
        if not source.path:
            sources.write_digits(Path(temporary))
        stored = target.put_tree(uri, source.path or Path(temporary))
    if source.unreadable:
        target.put(f"{uri}/{sources.UNREADABLE}", json.dumps(source.unreadable).encode())
    return stored


def slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") or "data"
