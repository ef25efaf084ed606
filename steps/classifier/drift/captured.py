"""Events of an endpoint's data capture: the image of each request, and the answer that it got.

The layout is SageMaker's (AWS guide, "model-monitor-data-capture"): JSON lines, each with captureData.endpointInput and
endpointOutput, whose data is text or, by its encoding, base64.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Event:
    """One invocation: the image file, the predicted class's index and its probability."""

    image: bytes
    label: int
    confidence: float


def events(lines: Iterator[str], classes: Sequence[str]) -> Iterator[Event | None]:
    """Each event; None for one that is not of a single image and its answer: another kind of request, or damaged."""
    for line in lines:
        try:
            data = json.loads(line)["captureData"]
            yield event(payload(data["endpointInput"]), json.loads(payload(data["endpointOutput"])), classes)
        except (ValueError, KeyError, TypeError, IndexError):
            yield None


def payload(part: dict[str, Any]) -> bytes:
    """A captured body."""
    text = str(part["data"])
    return base64.b64decode(text, validate=True) if part["encoding"] == "BASE64" else text.encode()


def event(image: bytes, answer: Any, classes: Sequence[str]) -> Event:
    """An event of this project's answers: label and score, or the list of probabilities.

    Raises:
        ValueError, KeyError, TypeError: it is something else.
    """
    if isinstance(answer, dict):
        return Event(image, list(classes).index(answer["label"]), float(answer["score"]))
    row = np.asarray(answer, dtype=np.float64)
    if row.shape != (len(classes),):
        raise ValueError(f"an answer of shape {row.shape}")
    return Event(image, int(row.argmax()), float(row.max()))
