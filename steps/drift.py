"""Compares what an endpoint was sent with what its model was trained on: drift.json and drift.html.

It needs no labels. The verdict is about the embeddings, which the model's own network computes (see drift_distance).
Confidences, predicted classes and simple figures of the images are compared with the test split, and help to say what
it is that differs. Images that differ need not be answered wrongly, only the test accuracy no longer speaks for them.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classifier.data.images import ImageError, Pixels, Preprocess, decode, normalise, to_pixels
from classifier.drift.baseline import Coordinates, DriftBaseline
from classifier.drift.captured import Event, events
from classifier.drift.distance import FALSE_ALARM_RATE, LEAST_IMAGES, Drift, compare, most_images, unusual
from classifier.drift.report import DriftReport, Stranger, report
from classifier.drift.statistics import CLASSES, FIGURES, binned, class_counts, compared, pixel_figures
from classifier.job.failures import ArgumentParser, StepError, run, say
from classifier.job.system import core_count
from classifier.model.runtimes import OnnxRuntime

MAX_PIXELS = 100_000_000  # the endpoint, which has answered, has a limit of its own
BATCH_IMAGES = 16
SHOWN_STRANGERS = 12


@dataclass(frozen=True)
class Captured:
    """The images of captured events."""

    events: list[Event]
    pixel_figures: npt.NDArray[np.float64]  # (N, 3), see drift_statistics
    coordinates: Coordinates  # (N, K + 1), see drift_baseline


def main() -> None:
    arguments = parse_arguments()
    known, baseline = read_baseline(arguments.baseline), DriftBaseline.load(arguments.model_dir)
    network = OnnxRuntime(arguments.model_dir, core_count())
    lines = arguments.captured.read_text(encoding="utf-8").split("\n")
    found = measure(lines, known, baseline, network)
    drift = compare(found.coordinates, baseline.reference)
    document = describe(found, drift, known, baseline)
    shown = DriftReport(document, known, drift, found.coordinates, baseline.reference, strangers(found, baseline))
    arguments.report_dir.mkdir(parents=True, exist_ok=True)
    (arguments.report_dir / "drift.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (arguments.report_dir / "drift.html").write_text(report(shown), encoding="utf-8")
    say(f"{document['images']} images: {'drift' if drift.alarm else 'no drift'}, score {drift.score:.2f}")


def read_baseline(path: Path) -> dict[str, Any]:
    """baseline.json."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StepError(f"{path} is no baseline of EvaluateModel's ({error}).") from None
    return found


def measure(lines: list[str], known: dict[str, Any], baseline: DriftBaseline, network: OnnxRuntime) -> Captured:
    """The first captured images that can be read, as many as can be compared; a batch of crops is in memory at a time.

    Raises:
        StepError: there are too few.
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
    usable = islice(crops(lines, preprocess, known["classes"]), most)
    while batch := list(islice(usable, BATCH_IMAGES)):
        found += [event for event, _ in batch]
        pixels = np.stack([crop for _, crop in batch])
        figures.append(pixel_figures(pixels))
        features = network.features(normalise(pixels, preprocess), core_count())
        coordinates.append(baseline.coordinates(features))
    if len(found) < LEAST_IMAGES:
        raise StepError(
            f"Of {len(lines)} captured events {len(found)} are of one image and its answer: too few to judge, at least "
            f"{LEAST_IMAGES} are needed."
        )
    return Captured(found, np.concatenate(figures), np.concatenate(coordinates))


def crops(lines: list[str], preprocess: Preprocess, classes: list[str]) -> Iterator[tuple[Event, Pixels]]:
    """Each usable event with its image as the network sees it, (H, W, 3)."""
    for event in events(iter(lines), classes):
        if isinstance(event, Event):
            try:
                yield event, to_pixels(decode(event.image, max_pixels=MAX_PIXELS), preprocess)
            except ImageError:
                continue


def describe(found: Captured, drift: Drift, known: dict[str, Any], baseline: DriftBaseline) -> dict[str, Any]:
    """drift.json."""
    strangeness, bound = unusual(found.coordinates, baseline.reference)
    names = [*(f"component {number + 1}" for number in range(len(baseline.components))), "what they leave"]
    confidence = np.array([event.confidence for event in found.events])
    return {
        "drift": drift.alarm,
        "drift_score": drift.score,
        "distance": drift.distance,
        "threshold": drift.threshold,
        "by_chance": drift.by_chance,
        "p_value": drift.p_value,
        "false_alarm_rate": FALSE_ALARM_RATE,
        "images": len(found.events),
        "reference_images": len(baseline.reference),
        "unusual_share": float((strangeness > bound).mean()),
        "mean_confidence": float(confidence.mean()),
        "coordinates": {
            name: {"shift": float(shift), "spread": float(spread)}
            for name, shift, spread in zip(names, drift.shifts, drift.spreads, strict=True)
        },
        "test_images": known["images"],
        "statistics": statistics(found, confidence, known),
    }


def statistics(found: Captured, confidence: npt.NDArray[np.float64], known: dict[str, Any]) -> dict[str, Any]:
    """Each figure and the predicted classes, against the test split."""
    columns = np.column_stack([confidence, found.pixel_figures]).T
    results = {
        name: compared(
            np.array(known["figures"][name]["counts"]), binned(column, np.array(known["figures"][name]["bounds"]))
        )
        for name, column in zip(FIGURES, columns, strict=True)
    }
    labels = np.array([event.label for event in found.events], dtype=np.int64)
    results[CLASSES] = compared(np.array(known["predicted_counts"]), class_counts(labels, len(known["classes"])))
    return results


def strangers(found: Captured, baseline: DriftBaseline) -> list[Stranger]:
    """The images that are least like the reference, the strangest first."""
    strangeness, _ = unusual(found.coordinates, baseline.reference)
    order = np.argsort(-strangeness, kind="stable")[:SHOWN_STRANGERS]
    return [
        Stranger(
            picture=decode(found.events[row].image, max_pixels=MAX_PIXELS),
            label=found.events[row].label,
            confidence=found.events[row].confidence,
            strangeness=float(strangeness[row]),
        )
        for row in order
    ]


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captured", type=Path, required=True, metavar="FILE", help="captured events, a line each")
    parser.add_argument("--model-dir", type=Path, required=True, metavar="DIR", help="the model, unpacked")
    parser.add_argument("--baseline", type=Path, required=True, metavar="FILE", help="EvaluateModel's baseline.json")
    parser.add_argument("--report-dir", type=Path, required=True, metavar="DIR", help="for drift.json, drift.html")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main))
