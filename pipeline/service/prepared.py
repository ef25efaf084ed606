"""The images that an execution has prepared, as PrepareData left them on this machine."""

import io
import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.config.job_code import importable_steps
from pipeline.errors import PipelineError, ServiceError
from pipeline.service import executions
from pipeline.service.local_target import LocalTarget
from pipeline.service.status import output_of

SPLITS = ("train", "validation", "test")
SHOWN_PX = 256
Image = dict[str, Any]  # a line of images.jsonl, with the label as a word, `original` and `row`


class Prepared:
    """The outputs of a PrepareData; StepError, OSError or ValueError if they are gone or damaged."""

    def __init__(self, manifest: Path, *splits: Path) -> None:
        with importable_steps():
            from classifier.data.prepared_images import PreparedImages
        self.shards = {split: PreparedImages(folder, split) for split, folder in zip(SPLITS, splits, strict=True)}
        self.manifest: dict[str, Any] = json.loads((manifest / "manifest.json").read_bytes())
        self.images: dict[str, Image] = {}  # by name
        self.counts, rows = Counter[tuple[str, str]](), Counter[str]()  # of label and split, or "" for all of them
        before = {each["path"]: each["from"] for each in self.manifest.get("corrections", {}).get("applied", [])}
        for line in (manifest / "images.jsonl").read_text(encoding="utf-8").splitlines():
            image = json.loads(line)
            path, label, split = image["source"], self.manifest["classes"][image["label"]], image["split"]
            more = {"path": path, "label": label, "original": before.get(path, label), "row": rows[split]}
            self.images[image["name"]] = image | more
            rows[split] += 1
            self.counts.update([(label, split), (label, "")])
        self.by_path = {image["path"]: image for image in self.images.values()}

    @lru_cache(maxsize=4096)  # noqa: B019  few are open
    def thumbnail(self, name: str) -> bytes:
        """Return an image as a small JPEG; a ServiceError if there is none of that name, or not any more."""
        with importable_steps():
            from classifier.job.failures import StepError
        try:
            image = self.images[name]
            return small_jpeg(self.shards[image["split"]].read(image["row"]), SHOWN_PX)
        except (StepError, OSError, ValueError, KeyError) as problem:
            raise ServiceError(f"Image {name} is not there: {problem}") from problem


def small_jpeg(content: bytes, side_px: int) -> bytes:
    """Return an image as a JPEG that is no larger; a ValueError if it is none."""
    with importable_steps():
        from classifier.data.images import decode
        from classifier.model.predictor import DEFAULT_MAX_PIXELS
    picture, buffer = decode(content, max_pixels=DEFAULT_MAX_PIXELS), io.BytesIO()
    picture.thumbnail((side_px, side_px))
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def prepared(target: LocalTarget, execution_arn: str) -> Prepared:
    """Return what an execution has prepared; a ServiceError if it has not, or if that is gone."""
    return opened(target, execution_arn, len(executions.steps(target, execution_arn)))


@lru_cache(maxsize=4)
def opened(target: LocalTarget, execution_arn: str, started_steps: int) -> Prepared:
    """Return the same, read once for each number of steps that were started."""
    steps, name = executions.steps(target, execution_arn), execution_arn.rpartition("/")[2]
    with importable_steps():
        from classifier.job.failures import StepError
    try:
        places = [output_of(target, steps, output) for output in ("manifest", *SPLITS)]
        return Prepared(*(target.storage.path(str(place)) for place in places))
    except (StepError, OSError, ValueError, KeyError, IndexError, PipelineError) as problem:
        raise ServiceError(f"Execution {name} has prepared no images, or they are not there any more.") from problem
