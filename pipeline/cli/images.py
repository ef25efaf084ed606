"""`invoke` and `transform`: images to an endpoint or a batch transform job, and their answers."""

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.cli.call import Call
from pipeline.cli.output import print_json
from pipeline.errors import PipelineError, UsageError
from pipeline.service import batch_transform
from pipeline.service.batch_transform import ENDING, Job
from pipeline.service.image_files import named_images
from pipeline.service.image_results import Counting, Row, Tally, bar, check_out, rows_to
from pipeline.service.local_target import shown
from pipeline.service.predictor import ImagePredictor, answered, in_threads, is_labelled
from pipeline.service.targets import Target


def invoke(
    call: Call, images: list[str], explain: bool = False, endpoint: str | None = None, rows_file: str | None = None
) -> int:
    """Classify images; return 1 if any of them got no answer."""
    from pipeline.service.explanation import FOLDER, MOST_IMAGES
    from pipeline.service.explanation import explain as draw_explanation

    file = check_out(rows_file)
    target = call.open_target(reads_only=True)
    paths = named_images(images)
    predictor = ImagePredictor(endpoint or call.config.deploy.endpoint_name, target)
    if explain and len(paths) > MOST_IMAGES:
        raise UsageError(f"--explain takes fifty requests an image: name at most {MOST_IMAGES}, not {len(paths)}.")
    tally, counting, rows = Tally(), Counting(sys.stderr, len(paths)), []
    with rows_to(file) as write:
        for path, answer in zip(paths, predictor.ask_each(paths), strict=True):
            row = {"image": str(path), **({"error": str(answer)} if isinstance(answer, PipelineError) else answer)}
            if explain and is_labelled(row):
                row["explanation"] = str(draw_explanation(predictor, path, row, call.home / FOLDER))
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
    """Classify a folder or a prefix by a job; return 1 if the job failed or an image got no answer.

    Raises:
        UsageError: there is no image, or no approved version.
    """
    is_folder = not image_source.startswith("s3://")
    if is_folder and not Path(image_source).is_dir():
        raise UsageError(f"--data {image_source}: there is no such folder; a folder or s3://bucket/prefix is accepted.")
    file, target, config = check_out(rows_file), call.open_target(reads_only=True), call.config
    version = batch_transform.approved_version(target, config.registry.model_package_group, model)
    job = batch_transform.new_job(target, config)
    put_folder, copy_prefix = batch_transform.put_folder, batch_transform.copy_prefix
    images = put_folder(target, job, Path(image_source)) if is_folder else copy_prefix(target, job, image_source)
    say(f"Transform job {job.name}: {len(images)} images, model version {version.rpartition('/')[2]}")
    with batch_transform.made_model(target, config, job, version):
        batch_transform.create(target, config, job, instances)
        ended = follow_job(target, job, len(images))
        tally = collect_answers(target, job, images, file)
        print_transform(call, job, ended, tally, rows_file)
    return 0 if ended["TransformJobStatus"] == "Completed" and not tally.failed else 1


def follow_job(target: Target, job: Job, images: int) -> dict[str, Any]:
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


def collect_answers(target: Target, job: Job, images: list[str], file: Path | None) -> Tally:
    """Read every answer, write its row, count it."""
    answers = set(batch_transform.objects(target, job.output_uri))
    missing = f"There is no answer; see the job's log: {target.log_of('TransformJobs', job.name)}"

    def row_of(name: str) -> Row:
        if f"{name}{ENDING}" not in answers:
            return {"image": name, "error": missing}
        return {"image": name, **answered(target.read(f"{job.output_uri}{name}{ENDING}"))}

    tally = Tally()
    target.client("s3")  # made once, then shared
    with rows_to(file) as write:
        for row in in_threads(row_of, images):
            write(row)
            tally.add(row)
    return tally


def print_transform(call: Call, job: Job, ended: dict[str, Any], tally: Tally, out: str | None) -> None:
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
