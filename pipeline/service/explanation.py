"""`invoke --explain`: a picture of what an endpoint's answer depends on, beside the image.

The endpoint is asked about copies of the image with a part covered each (steps/classifier/evaluation/occlusion.py), so
any model on any target can be explained that names labels, and the server needs to know nothing of it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.job_code import importable_steps
from pipeline.errors import PipelineError, UsageError
from pipeline.service.inputs import read_image
from pipeline.service.predictor import ImagePredictor, is_labelled

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FOLDER = "reports/explained"  # below the home
MOST_IMAGES = 20  # at once: each takes fifty requests
SIDE_PX = 384  # of what is sent, at most, and drawn: no smaller than most networks see
LONGEST_NAME = 100


def explain(predictor: ImagePredictor, image: Path, answer: Mapping[str, Any], folder: Path) -> Path:
    """Write the image's centre, which the network sees, beside what the answer depends on in it; return the file.

    Raises:
        UsageError: the image cannot be read here.
        ServiceError: the endpoint refuses a copy.
    """
    with importable_steps():
        from classifier.data.images import ImageError, centre_crop, decode
        from classifier.evaluation.occlusion import occlusion_heat, overlay
        from classifier.model.predictor import DEFAULT_MAX_PIXELS
    import numpy as np
    from PIL import Image

    try:
        picture = decode(read_image(image), max_pixels=DEFAULT_MAX_PIXELS)
    except ImageError as problem:
        raise UsageError(f"{image} cannot be explained: {problem}") from problem
    square = centre_crop(picture, min(picture.size), min(picture.size))
    square.thumbnail((SIDE_PX, SIDE_PX))

    def probabilities(pictures: "npt.NDArray[np.uint8]") -> "npt.NDArray[np.float32]":
        answers = predictor.ask_each(map(Image.fromarray, pictures))
        return np.array([[probability(found, answer["label"])] for found in answers], dtype=np.float32)

    heat = occlusion_heat(np.asarray(square), probabilities)
    drawn = square.resize((SIDE_PX, SIDE_PX), Image.Resampling.NEAREST)  # a tiny image with its pixels
    both = Image.new("RGB", (2 * SIDE_PX, SIDE_PX))
    both.paste(drawn)
    both.paste(overlay(drawn, heat), (SIDE_PX, 0))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / (re.sub(r"[^\w.-]+", "-", str(image)).strip("-")[-LONGEST_NAME:] + ".png")
    both.save(file)
    return file


def probability(answer: dict[str, Any] | PipelineError, label: str) -> float:
    """How likely an answer finds a label; one that is not among its best is at most as likely as the last of them."""
    if isinstance(answer, PipelineError):
        raise answer
    scores = {item["label"]: float(item["score"]) for item in answer["top"]} if is_labelled(answer) else {}
    return scores.get(label, min(scores.values(), default=0.0))
