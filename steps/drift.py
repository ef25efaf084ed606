"""Compares what an endpoint was sent with what its model was trained on: drift.json and drift.html.

It needs no labels. The verdict is about the embeddings, which the model's own network computes (see drift/distance.py).
Confidences, predicted classes and simple figures of the images are compared with the test split, and help to say what
it is that differs. Images that differ need not be answered wrongly, only the test accuracy no longer speaks for them.

With --champion-dir it is a scheduled job on AWS: it compares the newest requests with the model in service and puts the
score to CloudWatch by itself; too few requests are said, and are no failure.
"""

import argparse
import base64
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classifier.data.images import ImageError, Picture, Pixels, Preprocess, decode, normalise, to_pixels
from classifier.drift.baseline import Coordinates, DriftBaseline
from classifier.drift.distance import FALSE_ALARM_RATE, LEAST_IMAGES, compare, most_images, strangeness, unusual_from
from classifier.drift.report import report
from classifier.drift.statistics import against_baseline, pixel_figures
from classifier.job.failures import PROCESSING_MESSAGE, ArgumentParser, StepError, run, say
from classifier.job.system import core_count, write_json
from classifier.model.archive import unpacked
from classifier.model.runtimes import OnnxRuntime

MAX_PIXELS = 100_000_000  # the endpoint, which has answered, has a limit of its own
BATCH_IMAGES = 16
SHOWN_STRANGERS = 12


@dataclass(frozen=True)
class Event:
    """One invocation: the image file, the predicted class's index and its probability."""

    image: bytes
    label: int
    confidence: float

    def picture(self) -> Picture:
        """Return the decoded image; raises ImageError."""
        return decode(self.image, max_pixels=MAX_PIXELS)


class TooFewRequests(StepError):
    """A verdict needs more."""


def main() -> None:
    arguments = parse_arguments()
    if arguments.champion_dir:
        check_endpoint(arguments)
    else:
        lines = arguments.captured.read_text(encoding="utf-8").split("\n")
        judge(lines, arguments.model_dir, arguments.baseline, arguments.report_dir)


def check_endpoint(arguments: argparse.Namespace) -> None:
    """Judge the newest requests that an endpoint was sent, and put the score."""
    from classifier.drift.capture import newest_requests, put_score  # with boto3, which nothing else here needs

    champion = arguments.champion_dir
    with unpacked(champion / "model.tar.gz") as model_dir:
        most = most_images(DriftBaseline.load(model_dir).reference)
        try:
            lines = newest_requests(arguments.capture_uri, most)
            score = judge(lines, model_dir, champion / "baseline.json", arguments.report_dir)
        except TooFewRequests as error:
            say(f"Drift was not judged: {error}")
            return
    put_score(arguments.namespace, arguments.endpoint_name, score)


def judge(lines: list[str], model_dir: Path, baseline_file: Path, report_dir: Path) -> float:
    """Write drift.json and drift.html about captured events; return the score, above 1 if there is drift."""
    known, baseline = read_baseline(baseline_file), DriftBaseline.load(model_dir)
    events, figures, coordinates = measure(lines, known, baseline, OnnxRuntime(model_dir, core_count()))
    drift, strange = compare(coordinates, baseline.reference), strangeness(coordinates)
    confidences, labels = np.array([event.confidence for event in events]), np.array([event.label for event in events])
    names = [*(f"component {number + 1}" for number in range(len(baseline.components))), "what they leave"]
    document = {
        "drift": drift.alarm,
        "drift_score": drift.score,
        "distance": drift.distance,
        "threshold": drift.threshold,
        "by_chance": drift.by_chance,
        "p_value": drift.p_value,
        "false_alarm_rate": FALSE_ALARM_RATE,
        "images": len(events),
        "reference_images": len(baseline.reference),
        "unusual_share": float((strange > unusual_from(baseline.reference)).mean()),
        "mean_confidence": float(confidences.mean()),
        "coordinates": {
            name: {"shift": float(shift), "spread": float(spread)}
            for name, shift, spread in zip(names, drift.shifts, drift.spreads, strict=True)
        },
        "test_images": known["images"],
        "statistics": against_baseline(known, confidences, figures, labels),
    }
    strangest = np.argsort(-strange, kind="stable")[:SHOWN_STRANGERS].tolist()
    strangers = [(events[row].picture(), events[row].label, events[row].confidence, strange[row]) for row in strangest]
    page = report(document, known, drift, (coordinates, baseline.reference), strangers)
    report_dir.mkdir(parents=True, exist_ok=True)
    write_json(report_dir / "drift.json", document)
    (report_dir / "drift.html").write_text(page, encoding="utf-8")
    say(f"{document['images']} images: {'drift' if drift.alarm else 'no drift'}, score {drift.score:.2f}")
    return float(drift.score)


def read_baseline(path: Path) -> dict[str, Any]:
    """Return baseline.json."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StepError(f"{path} is no baseline of EvaluateModel's ({error}).") from None
    return found


def measure(
    lines: list[str], known: dict[str, Any], baseline: DriftBaseline, network: OnnxRuntime
) -> tuple[list[Event], npt.NDArray[np.float64], Coordinates]:
    """Return the first events with a readable image, as many as can be compared, pixel figures (N, 3) and coordinates.

    A batch of crops is in memory at a time. It raises StepError where there are too few events.
    """
    most = most_images(baseline.reference)
    if most < LEAST_IMAGES:
        raise StepError(
            f"The model was trained with too few images to say what is usual: its baseline has {2 * most}, and "
            f"{2 * LEAST_IMAGES} are needed."
        )
    preprocess = Preprocess.from_dict(known["preprocess"])
    found: list[Event] = []
    figures, coordinates = [], []
    usable = islice(usable_events(lines, preprocess, known["classes"]), most)
    while batch := list(islice(usable, BATCH_IMAGES)):
        found += [event for event, _ in batch]
        pixels = np.stack([crop for _, crop in batch])
        figures.append(pixel_figures(pixels))
        coordinates.append(baseline.coordinates(network.features(normalise(pixels, preprocess), core_count())))
    if len(found) < LEAST_IMAGES:
        raise TooFewRequests(
            f"Of {len(lines)} captured events {len(found)} are of one image and its answer: too few to judge, at least "
            f"{LEAST_IMAGES} are needed."
        )
    return found, np.concatenate(figures), np.concatenate(coordinates)


def usable_events(lines: list[str], preprocess: Preprocess, classes: list[str]) -> Iterator[tuple[Event, Pixels]]:
    """Yield each event of a single readable image and its answer, with the crop that the network sees, (H, W, 3).

    The layout is SageMaker's (AWS guide, "model-monitor-data-capture"): JSON lines, each with captureData.endpointInput
    and endpointOutput, whose data is text or, by its encoding, base64.
    """
    for line in lines:
        try:
            data = json.loads(line)["captureData"]
            answer = json.loads(payload(data["endpointOutput"]))
            event = Event(payload(data["endpointInput"]), *label_and_confidence(answer, classes))
            yield event, to_pixels(event.picture(), preprocess)
        except (ImageError, ValueError, KeyError, TypeError, IndexError):  # another kind of request, or damaged
            continue


def payload(part: dict[str, Any]) -> bytes:
    """Return a captured body."""
    text = str(part["data"])
    return base64.b64decode(text, validate=True) if part["encoding"] == "BASE64" else text.encode()


def label_and_confidence(answer: Any, classes: list[str]) -> tuple[int, float]:
    """Read an answer of the endpoint: label and score, or the list of probabilities; ValueError for another."""
    if isinstance(answer, dict):
        return classes.index(answer["label"]), float(answer["score"])
    row = np.asarray(answer, dtype=np.float64)
    if row.shape != (len(classes),):
        raise ValueError(f"an answer of shape {row.shape}")
    return int(row.argmax()), float(row.max())


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captured", type=Path, metavar="FILE", help="captured events, a line each")
    parser.add_argument("--model-dir", type=Path, metavar="DIR", help="the model, unpacked")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="EvaluateModel's baseline.json")
    parser.add_argument("--report-dir", type=Path, required=True, metavar="DIR", help="for drift.json, drift.html")
    parser.add_argument("--champion-dir", type=Path, metavar="DIR", help="model.tar.gz and baseline.json in service")
    parser.add_argument("--capture-uri", metavar="URI", help="where the endpoint's captured requests lie in S3")
    parser.add_argument("--namespace", help="CloudWatch's, of the score")
    parser.add_argument("--endpoint-name", help="the score's dimension")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, PROCESSING_MESSAGE))
