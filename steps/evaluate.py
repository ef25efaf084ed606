"""Evaluation: the packed model, loaded as the endpoint loads it, scores the test split.

Writes evaluation.json, which the pipeline's condition and the model registry read, report.html for people,
baseline.json, which later requests to the endpoint are compared with, and a test image to try the endpoint with. Given
the model in service too, it scores that on the same images by the same code, and writes both side by side.
"""

import argparse
import json
import sys
import tarfile
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classifier.data.images import ImageError, decode
from classifier.data.prepared_images import PreparedImages
from classifier.data.training_data import read_manifest
from classifier.drift.statistics import baseline, pixel_figures
from classifier.evaluation.comparison import compare
from classifier.evaluation.metrics import Effect, Labels, Probabilities, classification_metrics, effect
from classifier.evaluation.report import SHOWN_MISTAKES, Evaluation, Mistake, report
from classifier.evaluation.version_metadata import version_metadata
from classifier.job.failures import PROCESSING_MESSAGE, ArgumentParser, StepError, run, say
from classifier.model.predictor import DEFAULT_MAX_PIXELS, Predictor

EXAMPLE = "example.png"
BATCH_IMAGES = 32
DECODING_THREADS = 4


@dataclass(frozen=True)
class Split:
    """The test images, in the manifest's order, and the classes that their labels index."""

    images: PreparedImages
    classes: list[str]

    @property
    def labels(self) -> Labels:
        """(N,) int64"""
        return self.images.labels


@dataclass(frozen=True)
class Scored:
    """A model on the test split: what it is, probabilities (N, C) float32, pixel figures (N, 3), and the metrics."""

    description: dict[str, Any]  # model.json
    rules: dict[str, str]  # rule -> status
    probabilities: Probabilities
    pixel_figures: npt.NDArray[np.float64]  # of the test images, see drift_statistics
    metrics: dict[str, Any]  # multiclass_classification_metrics of evaluation.json


def main() -> None:
    arguments = parse_arguments()
    manifest = read_manifest(arguments.manifest_dir)
    split = read_test_split(arguments.test_dir, manifest)
    archive = arguments.model_dir / "model.tar.gz"
    model = score(archive, split)
    accuracy = model.metrics["accuracy"]["value"]
    calibration = effect_of_temperature(model, split)
    comparison = None
    if arguments.champion_dir:
        found = compare(arguments.champion_dir, archive, model.metrics, lambda other: score(other, split).metrics)
        comparison = replace(found, accuracy=accuracy, margin=arguments.improvement_margin)
    document = {
        "multiclass_classification_metrics": model.metrics,
        "dataset_sha256": manifest["dataset_sha256"],
        "test_images": len(split.images),
        "hyperparameters": model.description["hyperparameters"],
        "rules": model.rules,
        **({"calibration": calibration.document()} if calibration else {}),
        **(comparison.document() if comparison else {}),
    }
    document["customer_metadata_properties"] = version_metadata(document)
    evaluation = Evaluation(
        metrics=model.metrics,
        classes=split.classes,
        mistakes=worst_mistakes(split, model.probabilities),
        model=model.description,
        manifest=manifest,
        comparison=comparison,
        calibration=calibration,
    )
    known = baseline(model.probabilities, model.pixel_figures, model.description)
    write(arguments.output_dir, document, known, report(evaluation))
    (arguments.output_dir / EXAMPLE).write_bytes(split.images.read(0))
    say(
        f"test_accuracy={accuracy:.4f} test_loss={model.metrics['loss']['value']:.4f} "
        f"test_macro_f1={model.metrics['macro_f1']['value']:.4f} test_images={len(split.images)}"
    )
    if comparison:
        say(str(comparison))


def write(output_dir: Path, document: dict[str, Any], known: dict[str, Any], page: str) -> None:
    """evaluation.json, baseline.json and report.html."""
    output_dir.mkdir(parents=True, exist_ok=True)
    for name, content in (("evaluation.json", document), ("baseline.json", known)):
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (output_dir / name).write_text(text, encoding="utf-8")
    (output_dir / "report.html").write_text(page, encoding="utf-8")


def score(archive: Path, split: Split) -> Scored:
    """Unpack a model, and let it answer for every test image.

    Raises:
        StepError: it cannot be unpacked or loaded, or was trained for other classes.
    """
    with tempfile.TemporaryDirectory() as directory:
        unpack(archive, Path(directory))
        predictor = Predictor(Path(directory))
        rules = read_rules(Path(directory))
    if predictor.classes != split.classes:
        raise StepError(
            f"The model knows {len(predictor.classes)} classes, and they are not the {len(split.classes)} classes of "
            f"manifest.json in the same order. Evaluate a model on the data that it was trained with."
        )
    probabilities, figures = predict(predictor, split.images)
    metrics = classification_metrics(split.labels, probabilities, split.classes)
    return Scored(predictor.description, rules, probabilities, figures, metrics)


def effect_of_temperature(model: Scored, split: Split) -> Effect | None:
    """What the model's temperature does on the test split; None of a model without one."""
    temperature = model.description.get("calibration", {}).get("temperature")
    return effect(model.probabilities, split.labels, float(temperature)) if temperature else None


def read_rules(model_dir: Path) -> dict[str, str]:
    """How the rules that watched the training ended, {rule: status}; empty if no rule watched."""
    try:
        content = json.loads((model_dir / "rules.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StepError(f"The model's rules.json is not JSON ({error}). Train the model again.") from None
    if not isinstance(content, dict):
        raise StepError("The model's rules.json is no object of rules and statuses. Train the model again.")
    return {str(rule): str(status) for rule, status in content.items()}


def unpack(archive: Path, directory: Path) -> None:
    """Unpack model.tar.gz as the endpoint does; nothing may land outside the directory."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(directory, filter="data")
    except FileNotFoundError:
        raise StepError(f"{archive.parent} holds no model.tar.gz, which the final training writes.") from None
    except tarfile.FilterError as error:
        raise StepError(
            f"{archive} is refused: its member {error.tarinfo.name} would not stay inside the model directory. "
            f"Use a model.tar.gz that the final training wrote."
        ) from None
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise StepError(f"{archive} cannot be unpacked ({error}). Run the final training again.") from None


def read_test_split(test_dir: Path, manifest: dict[str, Any]) -> Split:
    """All of what the manifest counts, or an error."""
    counted = sum(manifest["counts"]["test"].values())
    if not counted:
        raise StepError("The test split is empty. Raise its share in data.split, or add images.")
    images = PreparedImages(test_dir, "test")
    if len(images) != counted:
        raise StepError(
            f"{test_dir} holds {len(images)} images, and manifest.json counts {counted} in the test split: they belong "
            "to different data. Run PrepareData again."
        )
    return Split(images, list(manifest["classes"]))


def predict(predictor: Predictor, images: PreparedImages) -> tuple[Probabilities, npt.NDArray[np.float64]]:
    """Probabilities (N, C) float32 and pixel figures (N, 3); one batch at a time is in memory, decoded by threads."""
    answers, figures = [], []
    with ThreadPoolExecutor(DECODING_THREADS) as pool:
        for start in range(0, len(images), BATCH_IMAGES):
            batch = range(start, min(start + BATCH_IMAGES, len(images)))
            crops = np.stack(list(pool.map(partial(pixels, predictor, images), batch)))
            answers.append(predictor.probabilities(crops))
            figures.append(pixel_figures(crops))
    return np.concatenate(answers), np.concatenate(figures)


def pixels(predictor: Predictor, images: PreparedImages, row: int) -> npt.NDArray[np.uint8]:
    """One test image as the network's crop (H, W, 3)."""
    try:
        return predictor.pixels(images.read(row))
    except ImageError as error:
        raise StepError(f"Test image {images.place(row)} cannot be read ({error}) Run PrepareData again.") from None


def worst_mistakes(split: Split, probabilities: Probabilities) -> list[Mistake]:
    """The wrongly classified images that the model was most certain about."""
    images, labels, classes = split.images, split.labels, split.classes
    predicted = probabilities.argmax(axis=1)
    scores = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    order = wrong[np.argsort(-scores[wrong], kind="stable")][:SHOWN_MISTAKES].tolist()
    return [
        Mistake(
            picture=decode(images.read(row), max_pixels=DEFAULT_MAX_PIXELS),
            name=images.name(row),
            true=classes[labels[row]],
            predicted=classes[predicted[row]],
            score=float(scores[row]),
            true_score=float(probabilities[row, labels[row]]),
        )
        for row in order
    ]


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, required=True, metavar="DIR", help="holds model.tar.gz")
    parser.add_argument("--test-dir", type=Path, required=True, metavar="DIR", help="shards of test images")
    parser.add_argument("--manifest-dir", type=Path, required=True, metavar="DIR", help="holds manifest.json")
    parser.add_argument(
        "--output-dir", type=Path, required=True, metavar="DIR", help="for evaluation.json, report.html"
    )
    parser.add_argument(
        "--champion-dir", type=Path, metavar="DIR", help="holds the model in service, to be compared with, if any is"
    )
    parser.add_argument(
        "--improvement-margin", type=float, default=0.0, metavar="SHARE", help="by which it is to be exceeded"
    )
    arguments, _ = parser.parse_known_args()
    return arguments


if __name__ == "__main__":
    sys.exit(run(main, PROCESSING_MESSAGE))
