"""`endpoints` and `invoke`: what is deployed, and its answers."""

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.cli.invocation import Arguments, chosen_target, loaded
from pipeline.cli.rows import print_rows
from pipeline.errors import PipelineError, UsageError
from pipeline.service import control
from pipeline.service.explanation import FOLDER, MOST_IMAGES, explain
from pipeline.service.image_files import named_images
from pipeline.service.image_results import Counting, Tally, bar, check_out, rows_to
from pipeline.service.local_target import shown
from pipeline.service.predictor import ImagePredictor, is_labelled


def endpoints(arguments: Arguments) -> int:
    """Every endpoint."""
    target = chosen_target(arguments, loaded(arguments), reads_only=True)
    rows = [
        {
            **target.endpoint_view(found["EndpointName"], found["EndpointStatus"]),
            "created": found["CreationTime"].isoformat(timespec="seconds"),
        }
        for found in control.endpoints(target)
    ]
    print_rows(arguments, rows, ("name", "status", "url"), "There is no endpoint.")
    for row in rows:
        if row["note"] and not arguments.json:
            print(f"{row['name']}: {row['note']}")
    return 0


def invoke(arguments: Arguments) -> int:
    """Classify images; 1 if any of them got no answer."""
    config, out = loaded(arguments), check_out(arguments.out)
    target = chosen_target(arguments, config, reads_only=True)
    images = named_images(arguments.images)
    predictor = ImagePredictor(arguments.endpoint or config.deploy.endpoint_name, target)
    if arguments.explain and len(images) > MOST_IMAGES:
        raise UsageError(f"--explain takes fifty requests an image: name at most {MOST_IMAGES}, not {len(images)}.")
    tally, counting = Tally(), Counting(sys.stderr, len(images))
    told = []
    with rows_to(out) as write:
        for image, answer in zip(images, predictor.ask_each(images), strict=True):
            row = row_of(str(image), answer)
            if arguments.explain and is_labelled(row):
                row["explanation"] = str(explain(predictor, image, row, Path(arguments.home, FOLDER)))
            write(row)
            tally.add(row)
            counting.clear()
            tell(row, quiet=bool(arguments.json or out))
            if arguments.json:
                told.append(row)
            if arguments.json or out:
                counting.show(tally.images)
    counting.clear()
    if arguments.json:
        print(json.dumps(told))
    elif out:
        print("\n".join([*tally.lines(), str(out)]))
    return 1 if tally.failed else 0


def row_of(image: str, answer: dict[str, Any] | PipelineError) -> dict[str, Any]:
    """What is kept of an image: the answer, or the reason why there is none."""
    return {"image": image, **({"error": str(answer)} if isinstance(answer, PipelineError) else answer)}


def tell(row: dict[str, Any], *, quiet: bool) -> None:
    """Print an answer, unless it goes elsewhere; a line on standard error about an image without one."""
    if "error" in row:
        print(f"{row['image']}: {row['error']}", file=sys.stderr)
    elif not quiet:
        print_answer(row)


def print_answer(answer: dict[str, Any]) -> None:
    """Label and score, and a bar for each of the top five; the answer of another model as it is."""
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
