"""`invoke` and `transform`: images to an endpoint or a batch transform job, and their answers."""

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.cli.call import Call
from pipeline.cli.output import Counting, print_json, say
from pipeline.errors import PipelineError, UsageError
from pipeline.paths import shown
from pipeline.service import transform as batch_transform
from pipeline.service.images import EXPLAINED, MOST_EXPLAINED, Tally, bar, check_out, named_images, rows_to
from pipeline.service.images import explain as draw_explanation
from pipeline.service.models import approved_version
from pipeline.service.predictor import ImagePredictor, is_labelled


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
                say(f"{path}: {row['error']}")
            if call.as_json or file:
                rows += [row] if call.as_json else []
                counting.show(tally.images)
            elif "error" not in row:
                print_answer(row)
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
        counting, tally = Counting(sys.stderr, len(images)), Tally()
        try:
            ended = batch_transform.follow(target, job, counting.show)
        except KeyboardInterrupt:
            counting.clear()
            say(f"Transform job {job.name} is being stopped.")
            raise
        finally:
            counting.clear()
        with rows_to(file) as write:
            for row in batch_transform.rows(target, job, images):
                write(row)
                tally.add(row)
    status, reason = ended["TransformJobStatus"], ended.get("FailureReason")
    document = {
        "transform_job": job.name, "status": status, "failure_reason": reason, "images": tally.images,
        "without_answer": tally.failed, "labels": dict(tally.labels.most_common()), "output": job.output_uri,
        "out": rows_file,
    }  # fmt: skip
    if call.as_json:
        print_json(document)
    else:
        print("\n".join([f"Transform job {job.name} {status}", *tally.lines(), rows_file or job.output_uri]))
    if reason:
        say(f"The job failed: {reason}")
    return 0 if status == "Completed" and not tally.failed else 1
