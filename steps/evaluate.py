"""Evaluation: the packed model, loaded as the endpoint loads it, scores the test split.

Writes evaluation.json, which the pipeline's condition and the model registry read, report.html for people,
predictions.csv, by which two versions are compared image by image, baseline.json, which later requests to the endpoint
are compared with, and a test image to try the endpoint with. Given the model in service too, it scores that on the same
images by the same code, and writes both side by side.
"""

import argparse
import csv
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from classifier.data.images import ImageError
from classifier.data.prepared_images import PreparedImages
from classifier.data.training_data import read_listing, read_manifest
from classifier.drift.statistics import baseline, pixel_figures
from classifier.evaluation.abstaining import abstaining
from classifier.evaluation.comparison import LEAST_COMPARED, Comparison, difference, unseen
from classifier.evaluation.gates import gates, training_faults
from classifier.evaluation.groups import accuracy_by_group, attributes_of, largest_gap
from classifier.evaluation.metrics import Probabilities, classification_metrics, effect, version_metadata, worst_class
from classifier.evaluation.model_card import model_card
from classifier.evaluation.occlusion import occlusion_heat, overlay
from classifier.evaluation.report import Mistake, changes, report, worst_mistakes
from classifier.job.failures import PROCESSING_MESSAGE, ArgumentParser, StepError, cause, run, say
from classifier.job.system import write_json
from classifier.model.accuracy import accuracy_text, interval_text
from classifier.model.archive import FAULTS_FILE, RULES_FILE, Digests, model_sha256, read_seen, sha256, unpacked
from classifier.model.predictor import Predictor

EXAMPLE = "example.png"
BATCH_IMAGES = 32
DECODING_THREADS = 4
EXPLAINED_MISTAKES, EXPLAINED_SECONDS = 6, 4.0  # at most; each takes 37 runs of the network
INCOMPARABLE = (KeyError, TypeError, ValueError, AttributeError, RuntimeError)  # torch's are RuntimeErrors


@dataclass(frozen=True)
class Scored:
    """A model on the test split."""

    sha256: str  # of its content
    seen: Digests | None  # the images that it was trained or selected on; None: it does not say
    description: dict[str, Any]  # model.json
    rules: dict[str, str]  # rule -> status at the end of the training
    fatal: dict[str, str]  # rule -> what it found that makes the model worthless
    probabilities: Probabilities  # (N, C)
    pixel_figures: npt.NDArray[np.float64]  # (N, 3) of the test images, see drift/statistics.py
    metrics: dict[str, Any]  # multiclass_classification_metrics of evaluation.json
    predictor: Predictor


def main() -> None:
    arguments = parse_arguments()
    manifest = read_manifest(arguments.manifest_dir)
    images, listing = read_test_split(arguments)
    archive = arguments.model_dir / "model.tar.gz"
    model = score(archive, images, manifest["classes"])
    temperature = model.description.get("calibration", {}).get("temperature")
    calibration = effect(model.probabilities, images.labels, temperature) if temperature else None
    comparison = compare(arguments, model, images, listing) if arguments.champion_dir else None
    worst = worst_class(model.metrics["per_class"])
    groups = accuracy_by_group(attributes_of(listing), model.probabilities.argmax(axis=1) == images.labels)
    gap = largest_gap(groups)
    demands = list(gates(worst, gap, arguments.min_class_recall, arguments.max_group_gap))
    faults = training_faults(arguments.fail_on_rules, model.rules, model.fatal)
    faulty = [f"Rule {name}, which watched the training: {sentence} " for name, sentence in faults.items()]
    accuracy = model.metrics["accuracy"]["value"]
    measured, wanted = model.description.get("abstaining"), arguments.min_precision
    confident = abstaining(measured, wanted, model.probabilities, images.labels) if wanted else None
    document = {
        "multiclass_classification_metrics": model.metrics,
        "worst_class": worst,
        "groups": groups,
        "group_gap": {"value": gap.value, **asdict(gap)} if gap else {"value": 0.0},
        "training_faults": {"value": len(faults), "rules": faults},
        "words": {
            "accuracy": interval_text(accuracy, len(images)),
            "training_faults": "".join(faulty),
            **{gate.name: gate.words for gate in demands},
        },
        "dataset_sha256": manifest["dataset_sha256"],
        "dataset_images": sum(sum(counts.values()) for counts in manifest["counts"].values()),
        "test_images": len(images),
        "classes": manifest["classes"],
        "hyperparameters": model.description["hyperparameters"],
        "rules": model.rules,
        "model_sha256": model.sha256,
        "archive_sha256": sha256(archive),
        **({"calibration": calibration.document()} if calibration else {}),
        **({"abstaining": confident.document()} if confident else {}),
        **(comparison.document() if comparison else {}),
    }
    document["customer_metadata_properties"] = version_metadata(document)
    document["model_card"] = model_card(document, manifest, arguments.intended_use, arguments.limits)
    mistakes = explained(worst_mistakes(images, model.probabilities, manifest["classes"]), model.predictor)
    page = report(
        model.metrics,
        mistakes,
        model.description,
        manifest,
        calibration=calibration,
        confident=confident,
        comparison=comparison,
        changed=changes(images, model.probabilities, comparison, manifest["classes"]),
        groups=groups,
        gap=gap,
        gates=demands,
    )
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    known = baseline(model.probabilities, model.pixel_figures, model.description)
    write_json(arguments.output_dir / "evaluation.json", document)
    write_json(arguments.output_dir / "baseline.json", known)
    (arguments.output_dir / "report.html").write_text(page, encoding="utf-8")
    write_predictions(arguments.output_dir / "predictions.csv", images, model.probabilities, manifest["classes"])
    (arguments.output_dir / EXAMPLE).write_bytes(images.read(0))
    figures = " ".join(f"test_{name}={model.metrics[name]['value']:.4f}" for name in ("loss", "macro_f1"))
    say(f"test_accuracy={accuracy_text(accuracy, len(images))} {figures} test_images={len(images)}")
    if confident:
        say(confident.words)
    for gate in demands:
        say(f"{'met' if gate.is_met else 'missed'}: {gate.words}")
    for sentence in faulty:
        say(sentence.strip())
    if comparison:
        say(str(comparison))
        if comparison.warning:
            say(f"Warning: {comparison.warning}")


def read_test_split(arguments: argparse.Namespace) -> tuple[PreparedImages, list[dict[str, Any]]]:
    """Return the test images, and what images.jsonl says of those of all splits."""
    listing = read_listing(arguments.manifest_dir)
    if not (tested := [image["name"] for image in listing if image["split"] == "test"]):
        raise StepError("The test split is empty. Raise its share in data.split, or add images.")
    images = PreparedImages(arguments.test_dir, "test")
    if images.names != tested:
        raise StepError(
            f"{arguments.test_dir} holds {len(images)} images, and they are not the {len(tested)} that images.jsonl "
            "lists in the test split: they belong to different data. Run PrepareData again."
        )
    return images, listing


def score(archive: Path, images: PreparedImages, classes: list[str]) -> Scored:
    """Unpack a model, and let it answer for every test image.

    Raises:
        StepError: it cannot be unpacked or loaded, or was trained for other classes.
    """
    with unpacked(archive) as folder:
        digest, seen, predictor = model_sha256(folder), read_seen(folder), Predictor(folder)
        files = (folder / RULES_FILE, folder / FAULTS_FILE)  # of a training that rules watched
        statuses, fatal = (json.loads(file.read_text(encoding="utf-8")) if file.exists() else {} for file in files)
    if predictor.classes != classes:
        raise StepError(
            f"The model knows {len(predictor.classes)} classes, and they are not the {len(classes)} classes of "
            f"manifest.json in the same order. Evaluate a model on the data that it was trained with."
        )
    probabilities, figures = predict(predictor, images)
    metrics = classification_metrics(images.labels, probabilities, classes)
    return Scored(digest, seen, predictor.description, statuses, fatal, probabilities, figures, metrics, predictor)


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


def write_predictions(file: Path, images: PreparedImages, probabilities: Probabilities, classes: list[str]) -> None:
    """Write each test image's name in images.jsonl, its label, and the likeliest class with its score."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["name", "label", "predicted", "score"])
        for name, label, answer in zip(images.names, images.labels, probabilities, strict=True):
            writer.writerow([name, classes[label], classes[int(answer.argmax())], f"{answer.max():.4f}"])


def pixels(predictor: Predictor, images: PreparedImages, row: int) -> npt.NDArray[np.uint8]:
    """One test image as the network's crop (H, W, 3)."""
    try:
        return predictor.pixels(images.read(row))
    except ImageError as error:
        raise StepError(f"Test image {images.place(row)} cannot be read ({error}) Run PrepareData again.") from None


def explained(mistakes: list[Mistake], predictor: Predictor) -> list[Mistake]:
    """Add to the worst mistakes what the wrong answers depend on, to as many as there is time for."""
    until, maps = time.monotonic() + EXPLAINED_SECONDS, list[Image.Image]()
    for mistake in mistakes[:EXPLAINED_MISTAKES]:
        if time.monotonic() < until:
            crop = predictor.crop(mistake.picture)
            maps.append(overlay(Image.fromarray(crop), occlusion_heat(crop, predictor.probabilities)))
    return [replace(mistake, heat=heat) for mistake, heat in zip_longest(mistakes, maps)]


def compare(
    arguments: argparse.Namespace, model: Scored, images: PreparedImages, listing: list[dict[str, Any]]
) -> Comparison:
    """Score the champion as the new model was scored, and compare the two, unless they are one model.

    The deploy function keeps it as model.tar.gz, with champion.json, which says which version it is. A champion that
    cannot be compared counts as none, since no retrain could replace it otherwise; why is said.
    """
    classes, compared = model.description["classes"], partial(Comparison, model.metrics, arguments.improvement_margin)
    kept, described = (arguments.champion_dir / name for name in ("model.tar.gz", "champion.json"))
    if not kept.is_file():
        return compared(reason="no model has been approved and deployed yet")
    version = json.loads(described.read_text(encoding="utf-8"))["model_package_arn"] if described.exists() else None
    try:
        champion = score(kept, images, classes)
    except (StepError, *INCOMPARABLE) as error:
        why = f"{type(error).__name__}, {cause(error)}"
        if isinstance(error, StepError):  # without its remedy, which is for a model that somebody can train again
            why = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        return compared(reason=f"the model in service cannot be compared: {why}")
    if champion.sha256 == model.sha256:
        return compared(model.metrics, version, is_same_model=True)
    fair, warning = unseen(listing, model.seen, champion.seen)
    if fair.sum() < LEAST_COMPARED:
        return compared(reason=warning, warning=warning)
    new, old = (
        classification_metrics(images.labels[fair], of.probabilities[fair], classes) for of in (model, champion)
    )
    found = difference(images.labels, model.probabilities, champion.probabilities, fair)
    return Comparison(new, arguments.improvement_margin, old, version, difference=found, warning=warning)


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = partial(parser.add_argument, type=Path, metavar="DIR")
    folder("--model-dir", required=True, help="holds model.tar.gz")
    folder("--test-dir", required=True, help="shards of test images")
    folder("--manifest-dir", required=True, help="holds manifest.json")
    folder("--output-dir", required=True, help="for evaluation.json, report.html")
    folder("--champion-dir", help="holds the model in service, to be compared with, if any is")
    share = partial(parser.add_argument, type=float, metavar="SHARE")
    share("--improvement-margin", default=0.0, help="to exceed its accuracy by")
    share("--min-class-recall", help="that every class is to reach")
    share("--min-precision", help="that confident answers are to have")
    share("--max-group-gap", help="by which groups of an attribute may differ")
    parser.add_argument(
        "--fail-on-rules", metavar="fatal|NAME,...", help="that must have found no issue in the training"
    )
    parser.add_argument("--intended-use", help="what the model is for, in the model card")
    parser.add_argument("--limits", help="of the model, in the model card")
    return parser.parse_known_args()[0]


if __name__ == "__main__":
    sys.exit(run(main, PROCESSING_MESSAGE))
