"""Images in, labels and scores out, from an endpoint of either target.

    ImagePredictor("image-classification").predict("dog.jpg")                      # this machine
    ImagePredictor("image-classification", boto3.Session()).predict("dog.jpg")     # AWS

Each image is a request of its own, some at the same time: one that is refused takes no other with it, and any server
that follows SageMaker's contract for one image will do.
"""

import functools
import io
import json
import random
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from botocore.exceptions import ClientError

from pipeline.errors import ImageRefused, PipelineError, ServiceError, UsageError
from pipeline.paths import ROOT
from pipeline.service.targets import in_threads, service_errors

CONTENT_TYPE, ACCEPT = "application/x-image", "application/json;verbose=1"
BUSY, TOO_LARGE = 503, 413
BUSY_WAITS_SECONDS = (0.2, 0.4, 0.8, 1.6, 3.2)  # each more or less by half, so that clients do not come back together
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # of Pillow


class EndpointBusy(ImageRefused):
    """The model's server has more requests than it takes; the same one may be answered a little later."""


@dataclass(frozen=True)
class Prediction:
    """What the endpoint says of one image: the likeliest class, and the likeliest five at most, best first."""

    label: str
    score: float  # probability, 0 to 1
    top: tuple[tuple[str, float], ...]
    confident: bool | None = None  # whether answers of such a score have deploy.min_precision; None: none is wanted


class ImagePredictor:
    """Asks one endpoint, by a boto3 session or anything else with its method `client`.

    Without a session it is one of this machine's, in the home `.local` beside run_pipeline.py; another home's session
    is made by `pipeline.local.session(home)`.
    """

    def __init__(self, endpoint: str, session: Any = None) -> None:
        self.endpoint = endpoint
        self._session = session

    @overload
    def predict(self, images: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...
    @overload
    def predict(self, images: str | Path | bytes | Any) -> Prediction: ...
    def predict(self, images: Any) -> Prediction | list[Prediction]:
        """Classify a path, the bytes of an image file or a PIL image, or each of a list of these in its order.

        Raises:
            UsageError: a file is not there or cannot be read, or it is no image at all.
            ImageRefused: the endpoint did not take an image; of a list, the first such image.
            ServiceError: there is no such endpoint, or it cannot be asked.
        """
        if isinstance(images, list | tuple):
            return [prediction(answer) for answer in self.ask_each(images)]
        return prediction(self.ask(images))

    def ask(self, image: Any) -> dict[str, Any]:
        """Return the endpoint's answer as it came: label, score and top of this project's models."""
        request = {"EndpointName": self.endpoint, "ContentType": CONTENT_TYPE, "Accept": ACCEPT, "Body": content(image)}
        with service_errors(f"invoke endpoint {self.endpoint!r}"):
            for pause_seconds in (*BUSY_WAITS_SECONDS, None):
                try:
                    return answered(self._runtime.invoke_endpoint(**request)["Body"].read())
                except ClientError as problem:
                    refusal = refused(problem) or problem
                    if pause_seconds is None or not isinstance(refusal, EndpointBusy):
                        raise refusal from problem
                time.sleep(pause_seconds * random.uniform(0.5, 1.5))
        raise AssertionError

    def ask_each(self, images: Iterable[Any]) -> Iterator[dict[str, Any] | ImageRefused | UsageError]:
        """Yield each image's answer, in the order of the images; of one that cannot be read or is refused, why."""
        self._runtime  # noqa: B018  made once, then shared: making clients is not safe in threads

        def answer(image: Any) -> dict[str, Any] | ImageRefused | UsageError:
            try:
                return self.ask(image)
            except (ImageRefused, UsageError) as reason:
                return reason

        yield from in_threads(answer, images)

    @functools.cached_property
    def _runtime(self) -> Any:
        from pipeline.local.sagemaker.session import local_session
        from pipeline.local.store.state import State

        return (self._session or local_session(State(ROOT / ".local", create=False))).client("sagemaker-runtime")


def content(image: Any) -> bytes:
    """Return the bytes to send; a PIL image is sent without loss, and upright, as its PNG does not say how to turn."""
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        raise UsageError(f"A path, bytes or a PIL image can be classified, but got {type(image).__name__}.")
    upright, buffer = ImageOps.exif_transpose(image), io.BytesIO()
    (upright if upright.mode in PNG_MODES else upright.convert("RGB")).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def read_image(path: Path) -> bytes:
    """Return the bytes of an image file; a UsageError if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"No such image: {path}") from None
    except OSError as problem:
        raise UsageError(f"{path} cannot be read: {problem.strerror}.") from problem


def prediction(answer: dict[str, Any] | PipelineError) -> Prediction:
    """Return label, score and top of an answer; a ServiceError if it has none, being another model's."""
    if isinstance(answer, PipelineError):
        raise answer
    if not is_labelled(answer):
        raise ServiceError(f"The endpoint's answer has no label, score and top: {json.dumps(answer)[:200]}")
    top = tuple((str(item["label"]), float(item["score"])) for item in answer["top"])
    return Prediction(str(answer["label"]), float(answer["score"]), top, answer.get("confident"))


def is_labelled(answer: dict[str, Any]) -> bool:
    return {"label", "score", "top"} <= answer.keys()


def answered(body: bytes) -> dict[str, Any]:
    """Return an answer's body; what is no JSON object is its member `answer`."""
    try:
        found = json.loads(body)
    except ValueError:
        found = body.decode(errors="replace")
    return found if isinstance(found, dict) else {"answer": found}


def refused(problem: ClientError) -> ImageRefused | None:
    """Return the refusal of one image, by the model (ModelError) or by the service for its size, if it is one."""
    if said := problem.response.get("OriginalMessage"):
        match = re.search(r'"error":\s*("(?:[^"\\]|\\.)*")', said)  # of this project's server
        kind = EndpointBusy if problem.response.get("OriginalStatusCode") == BUSY else ImageRefused
        return kind(f"The endpoint refused the image: {json.loads(match[1]) if match else said}")
    if problem.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == TOO_LARGE:
        return ImageRefused(f"SageMaker refused the image: {problem.response['Error']['Message']}")
    return None
