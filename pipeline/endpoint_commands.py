"""`endpoints` and `invoke`: what is deployed, and its answers."""

import json
from pathlib import Path
from typing import Any

from pipeline import control
from pipeline.inputs import read_image
from pipeline.invocation import Arguments, chosen_target, loaded
from pipeline.rows import print_rows


def endpoints(arguments: Arguments) -> int:
    """Every endpoint."""
    target = chosen_target(arguments, loaded(arguments), reads_only=True)
    rows = [
        {
            "name": found["EndpointName"],
            "status": found["EndpointStatus"],
            "created": found["CreationTime"].isoformat(timespec="seconds"),
            "url": target.endpoint_url(found["EndpointName"]),
        }
        for found in control.endpoints(target)
    ]
    print_rows(arguments, rows, ("name", "status", "url"), "There is no endpoint.")
    return 0


def invoke(arguments: Arguments) -> int:
    """Classify images."""
    config = loaded(arguments)
    target = chosen_target(arguments, config, reads_only=True)
    name = arguments.endpoint or config.deploy.endpoint_name
    contents = {image: read_image(Path(image)) for image in arguments.images}
    answers = []
    for image, content in contents.items():
        answers.append({"image": image, **control.invoke(target, name, content)})
        if not arguments.json:
            print_answer(answers[-1])
    if arguments.json:
        print(json.dumps(answers))
    return 0


def print_answer(answer: dict[str, Any]) -> None:
    """Label and score, and a bar for each of the top five; the answer of another model as it is."""
    if not {"label", "score", "top"} <= answer.keys():
        print(f"{answer['image']}: {json.dumps({key: value for key, value in answer.items() if key != 'image'})}")
        return
    print(f"{answer['image']}: {answer['label']} ({answer['score']:.3f})")
    width = max(len(item["label"]) for item in answer["top"])
    for item in answer["top"]:
        print(f"  {item['label']:<{width}}  {item['score']:.3f} {'█' * round(40 * item['score'])}".rstrip())
