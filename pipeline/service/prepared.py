"""The images that an execution has prepared: what manifest.json and images.jsonl say of them, and one by one."""

import io
import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pipeline.config.job_code import importable_steps
from pipeline.errors import ServiceError
from pipeline.service import executions
from pipeline.service.local_target import LocalTarget
from pipeline.service.status import output_of

SPLITS = ("train", "validation", "test")
SHOWN_PX = 256
Image = dict[str, Any]  # a line of images.jsonl: name, source, sha256, split, ...


@dataclass(frozen=True, eq=False)
class Prepared:
    """PrepareData's outputs on this machine."""

    folders: dict[str, Path]  # manifest, train, validation, test

    @cached_property
    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folders["manifest"] / "manifest.json").read_bytes())
        return found

    @cached_property
    def images(self) -> dict[str, Image]:
        """Each image by its name: with its `path`, its `row` in its split, its `label`, and that before corrections."""
        classes, rows, found = self.manifest["classes"], Counter[str](), dict[str, Image]()
        before = {each["path"]: each["from"] for each in self.manifest.get("corrections", {}).get("applied", [])}
        for line in (self.folders["manifest"] / "images.jsonl").read_text(encoding="utf-8").splitlines():
            image = json.loads(line)
            label, path, row = classes[image["label"]], image["source"], rows[image["split"]]
            original = before.get(path, label)
            found[image["name"]] = {**image, "path": path, "row": row, "label": label, "original": original}
            rows[image["split"]] += 1
        return found

    @cached_property
    def by_path(self) -> dict[str, Image]:
        return {image["path"]: image for image in self.images.values()}

    @cached_property
    def shards(self) -> dict[str, Any]:
        with importable_steps():
            from classifier.data.prepared_images import PreparedImages
        return {split: PreparedImages(self.folders[split], split) for split in SPLITS}

    @lru_cache(maxsize=4096)  # noqa: B019  few are open
    def thumbnail(self, name: str) -> bytes:
        """Return an image as a small JPEG; a ServiceError if it is not there or damaged."""
        with importable_steps():
            from classifier.data.images import decode
            from classifier.job.failures import StepError
        buffer = io.BytesIO()
        try:
            image = self.images[name]
            picture = decode(self.shards[image["split"]].read(image["row"]), max_pixels=100_000_000)
        except (OSError, ValueError, KeyError, IndexError, StepError) as problem:
            raise ServiceError(f"Image {name} is not there any more, or damaged: {problem}") from problem
        picture.thumbnail((SHOWN_PX, SHOWN_PX))
        picture.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()


def prepared(target: LocalTarget, execution_arn: str) -> Prepared | None:
    """Return what an execution has prepared; None if it has not, or if it is gone."""
    try:
        folders = folders_of(target, execution_arn, len(executions.steps(target, execution_arn)))
        return opened(folders, (folders[0] / "images.jsonl").stat().st_mtime_ns) if folders else None
    except (ServiceError, OSError, ValueError, KeyError, IndexError):
        return None


@lru_cache(maxsize=64)
def folders_of(target: LocalTarget, execution_arn: str, steps: int) -> tuple[Path, ...]:
    """Return the folders of the manifest and of each split; none before they are there."""
    uris = [output_of(target, executions.steps(target, execution_arn), name) for name in ("manifest", *SPLITS)]
    return tuple(target.storage.path(uri) for uri in uris if uri) if all(uris) else ()


@lru_cache(maxsize=2)
def opened(folders: tuple[Path, ...], changed: int) -> Prepared:
    found = Prepared(dict(zip(("manifest", *SPLITS), folders, strict=True)))
    len(found.images)  # read now, so that what is damaged counts as gone
    return found
