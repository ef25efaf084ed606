"""`invoke` and `transform`: images to an endpoint or a batch transform job, and their answers."""

import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from pipeline.cli.call import Call
from pipeline.cli.output import print_json
from pipeline.errors import PipelineError, UsageError
from pipeline.service import transform as batch_transform
from pipeline.service.images import EXPLAINED, MOST_EXPLAINED, Tally, bar, check_out, named_images, rows_to
from pipeline.service.images import explain as draw_explanation
from pipeline.service.local_target import shown
from pipeline.service.models import approved_version
from pipeline.service.predictor import ImagePredictor, is_labelled
from pipeline.service.targets import Target


def invoke(
    call: Call, images: list[str], explain: bool = False, endpoint: str | None = None, rows_file: str | None = None
) -> int:
    """Classify images; return 1 if any of them got no answer."""
    file = check_out(rows_file)
    target = call.open_target(reads_only=True)
    paths = named_images(images)
    predictor = ImagePredictor(endpoint or call.config.deploy.endpoint_name, target)
    if explain and len(paths) > MOST_EXPLAINED:
        raise UsageError(f"--explain takes fifty requests an image: name at most {MOST_EXPLAINED}, not {len(paths)}.")
    tally, counting, rows = Tally(), Counting(sys.stderr, len(paths)), []
    with rows_to(file) as write:
        for path, answer in zip(paths, predictor.ask_each(paths), strict=True):
            row = {"image": str(path), **({"error": str(answer)} if isinstance(answer, PipelineError) else answer)}
            if explain and is_labelled(row):
                row["explanation"] = str(draw_explanation(predictor, path, row, call.home / EXPLAINED))
            write(row)
            tally.add(row)
            counting.clear()
            if "error" in row:
                print(f"{path}: {row['error']}", file=sys.stderr)
            elif not (call.as_json or file):
                print_answer(row)
            if call.as_json or file:
                rows += [row] if call.as_json else []
                counting.show(tally.images)
    counting.clear()
    if call.as_json:
        print_json(rows)
    elif file:
        print("\n".join([*tally.lines(), str(file)]))
    return 1 if tally.failed else 0


def print_answer(answer: dict[str, Any]) -> None:
    """Print label and score, and a bar for each of the top five; the answer of another model as it is."""
    if not is_labelled(answer):
        print(f"{answer['image']}: {json.dumps({key: value for key, value in answer.items() if key != 'image'})}")
        return
    doubt = "" if answer.get("confident", True) else ", not confident"
    print(f"{answer['image']}: {answer['label']} ({answer['score']:.3f}){doubt}")
    width = max(len(item["label"]) for item in answer["top"])
    for item in answer["top"]:
        print(f"  {item['label']:<{width}}  {item['score']:.3f} {bar(item['score'])}".rstrip())
    if "explanation" in answer:
        print(f"  What it depends on: {shown(Path(answer['explanation']))}")


def transform(
    call: Call, image_source: str, model: str | None = None, instances: int = 1, rows_file: str | None = None
) -> int:
    """Classify a folder or a prefix by a job; return 1 if the job failed or an image got no answer."""
    file, target, config = check_out(rows_file), call.open_target(reads_only=True), call.config
    version = approved_version(target, config.registry.model_package_group, model)
    job = batch_transform.new_job(target, config)
    images = batch_transform.put_images(target, job, image_source)
    say(f"Transform job {job.name}: {len(images)} images, model version {version.rpartition('/')[2]}")
    with batch_transform.made_model(target, config, job, version):
        batch_transform.create(target, config, job, instances)
        ended = follow_job(target, job, len(images))
        tally = Tally()
        with rows_to(file) as write:
            for row in batch_transform.rows(target, job, images):
                write(row)
                tally.add(row)
        print_transform(call, job, ended, tally, rows_file)
    return 0 if ended["TransformJobStatus"] == "Completed" and not tally.failed else 1


def follow_job(target: Target, job: batch_transform.Job, images: int) -> dict[str, Any]:
    """Return the job as described at its end; show its progress meanwhile."""
    counting = Counting(sys.stderr, images)
    try:
        return batch_transform.follow(target, job, counting.show)
    except KeyboardInterrupt:
        counting.clear()
        say(f"Transform job {job.name} is being stopped.")
        raise
    finally:
        counting.clear()


def print_transform(call: Call, job: batch_transform.Job, ended: dict[str, Any], tally: Tally, out: str | None) -> None:
    """Print the summary, and why the job failed if it did."""
    status, reason = ended["TransformJobStatus"], ended.get("FailureReason")
    if call.as_json:
        print_json(
            {
                "transform_job": job.name,
                "status": status,
                "failure_reason": reason,
                "images": tally.images,
                "without_answer": tally.failed,
                "labels": dict(tally.labels.most_common()),
                "output": job.output_uri,
                "out": out,
            }
        )
    else:
        print("\n".join([f"Transform job {job.name} {status}", *tally.lines(), out or job.output_uri]))
    if reason:
        say(f"The job failed: {reason}")


def say(line: str) -> None:
    """Print progress, which is not the result."""
    print(line, file=sys.stderr, flush=True)


REPORTS = 10  # lines of progress in all where the stream is no terminal
REDRAW_SECONDS = 0.1


class Counting:
    """`12/400 images` on a stream: redrawn in place on a terminal, a line now and then elsewhere."""

    def __init__(self, stream: TextIO, total: int) -> None:
        self.stream, self.total = stream, total
        self.live = stream.isatty()
        self.shown = 0
        self.drawn = 0.0

    def show(self, done: int) -> None:
        """So many are done."""
        if self.total == 1:
            return
        if self.live:
            self.draw(done)
        elif done * REPORTS // self.total > self.shown * REPORTS // self.total:
            print(f"{done}/{self.total} images", file=self.stream, flush=True)
            self.shown = done

    def draw(self, done: int) -> None:
        """Not more often than an eye follows."""
        if time.monotonic() - self.drawn > REDRAW_SECONDS or done == self.total:
            print(f"\r\x1b[K{done}/{self.total} images", end="", file=self.stream, flush=True)
            self.drawn = time.monotonic()

    def clear(self) -> None:
        """Make room for a line of something else."""
        if self.live and self.drawn:
            print("\r\x1b[K", end="", file=self.stream, flush=True)
