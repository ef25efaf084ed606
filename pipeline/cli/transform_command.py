"""`transform`: a folder or an S3 prefix of images, classified by a batch transform job of an approved model version."""

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.cli.invocation import Arguments, chosen_target, loaded
from pipeline.errors import UsageError
from pipeline.service import batch_transform
from pipeline.service.batch_transform import ENDING, Job
from pipeline.service.image_results import Counting, Row, Tally, check_out, rows_to
from pipeline.service.predictor import answered, in_threads
from pipeline.service.targets import Target


def transform(arguments: Arguments) -> int:
    """The command; 1 if the job failed or an image got no answer.

    Raises:
        UsageError: there is no image, or no approved version.
    """
    config, out = loaded(arguments), check_out(arguments.out)
    folder = None if arguments.data.startswith("s3://") else folder_of(arguments.data)
    target = chosen_target(arguments, config, reads_only=True)
    version = batch_transform.approved_version(target, config.registry.model_package_group, arguments.model)
    job = batch_transform.new_job(target, config)
    if folder:
        images = batch_transform.put_folder(target, job, folder)
    else:
        images = batch_transform.copy_prefix(target, job, arguments.data)
    say(f"Transform job {job.name}: {len(images)} images, model version {version.rpartition('/')[2]}")
    with batch_transform.made_model(target, config, job, version):
        batch_transform.create(target, config, job, arguments.instances)
        ended = watched(target, job, len(images))
        tally = collect(target, job, images, out)
        report(arguments, job, ended, tally)
    return 0 if ended["TransformJobStatus"] == "Completed" and not tally.failed else 1


def watched(target: Target, job: Job, images: int) -> dict[str, Any]:
    """The job as described at its end, its progress shown meanwhile."""
    counting = Counting(sys.stderr, images)
    try:
        return batch_transform.follow(target, job, counting.show)
    except KeyboardInterrupt:
        counting.clear()
        say(f"Transform job {job.name} is being stopped.")
        raise
    finally:
        counting.clear()


def folder_of(source: str) -> Path:
    """The folder that --data names.

    Raises:
        UsageError: there is none.
    """
    path = Path(source)
    if not path.is_dir():
        raise UsageError(f"--data {source}: there is no such folder; a folder or s3://bucket/prefix is accepted.")
    return path


def collect(target: Target, job: Job, images: list[str], out: Path | None) -> Tally:
    """Read every answer, write its row, count it."""
    answers = set(batch_transform.objects(target, job.output_uri))
    missing = f"There is no answer; see the job's log: {target.log_of('TransformJobs', job.name)}"

    def row_of(name: str) -> Row:
        if f"{name}{ENDING}" not in answers:
            return {"image": name, "error": missing}
        return {"image": name, **answered(target.read(f"{job.output_uri}{name}{ENDING}"))}

    tally = Tally()
    target.client("s3")  # made once, then shared
    with rows_to(out) as write:
        for row in in_threads(row_of, images):
            write(row)
            tally.add(row)
    return tally


def report(arguments: Arguments, job: Job, ended: dict[str, Any], tally: Tally) -> None:
    """The summary, and why the job failed if it did."""
    status, reason = ended["TransformJobStatus"], ended.get("FailureReason")
    if arguments.json:
        document = {
            "transform_job": job.name,
            "status": status,
            "failure_reason": reason,
            "images": tally.images,
            "without_answer": tally.failed,
            "labels": dict(tally.labels.most_common()),
            "output": job.output_uri,
            "out": arguments.out,
        }
        print(json.dumps(document))
    else:
        print("\n".join([f"Transform job {job.name} {status}", *tally.lines(), arguments.out or job.output_uri]))
    if reason:
        say(f"The job failed: {reason}")


def say(line: str) -> None:
    """Progress, which is not the result."""
    print(line, file=sys.stderr, flush=True)
