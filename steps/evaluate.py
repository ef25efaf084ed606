"""Evaluation: the packed model, loaded as the endpoint loads it, scores the test split.

Writes evaluation.json, which the pipeline's condition and the model registry read, and report.html for people.
"""

import argparse
import json
import sys
import tarfile
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from failures import PROCESSING_MESSAGE, ArgumentParser, StepError, run, say
from images import ImageError, decode
from metrics import Labels, Probabilities, classification_metrics
from predictor import DEFAULT_MAX_PIXELS, Predictor
from report import SHOWN_MISTAKES, Evaluation, Mistake, render
from training_data import read_manifest

BATCH_IMAGES = 32
DECODING_THREADS = 4


def main() -> None:
    arguments = parse_arguments()
    manifest = read_manifest(arguments.manifest_dir)
    with tempfile.TemporaryDirectory() as directory:
        unpack(arguments.model_dir / "model.tar.gz", Path(directory))
        predictor = Predictor(Path(directory))
    files, labels = read_test_split(arguments.test_dir, manifest, predictor.classes)
    probabilities = predict(predictor, files)  # (N, C) float32

    metrics = classification_metrics(labels, probabilities, predictor.classes)
    document = {
        "multiclass_classification_metrics": metrics,
        "dataset_sha256": manifest["dataset_sha256"],
        "test_images": len(files),
    }
    evaluation = Evaluation(
        metrics=metrics,
        classes=predictor.classes,
        mistakes=worst_mistakes(files, labels, probabilities, predictor.classes),
        model=predictor.description,
        manifest=manifest,
    )
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    (arguments.output_dir / "evaluation.json").write_text(text, encoding="utf-8")
    (arguments.output_dir / "report.html").write_text(render(evaluation), encoding="utf-8")
    say(
        f"test_accuracy={metrics['accuracy']['value']:.4f} test_loss={metrics['loss']['value']:.4f} "
        f"test_macro_f1={metrics['macro_f1']['value']:.4f} test_images={len(files)}"
    )


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


def read_test_split(test_dir: Path, manifest: dict[str, Any], classes: list[str]) -> tuple[list[Path], Labels]:
    """The test images that the manifest lists, and their labels (N,) int64."""
    if manifest["classes"] != classes:
        raise StepError(
            f"The model knows {len(classes)} classes, and they are not the {len(manifest['classes'])} classes of "
            f"manifest.json in the same order. Evaluate a model on the data that it was trained with."
        )
    images = [image for image in manifest["images"] if image["split"] == "test"]
    if not images:
        raise StepError("The test split is empty. Raise its share in data.split, or add images.")
    files = [test_dir / Path(image["path"]).relative_to("test") for image in images]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise StepError(
            f"{len(missing)} of the {len(files)} test images that manifest.json lists are not there, for example "
            f"{missing[0]}. Run PrepareData again."
        )
    return files, np.array([image["label"] for image in images], dtype=np.int64)


def predict(predictor: Predictor, files: list[Path]) -> Probabilities:
    """Probabilities (N, C) float32; a batch is decoded by threads while no other is in memory."""
    answers = []
    with ThreadPoolExecutor(DECODING_THREADS) as pool:
        for start in range(0, len(files), BATCH_IMAGES):
            batch = files[start : start + BATCH_IMAGES]
            answers.append(predictor.probabilities(np.stack(list(pool.map(partial(pixels, predictor), batch)))))
    return np.concatenate(answers)


def pixels(predictor: Predictor, file: Path) -> npt.NDArray[np.uint8]:
    """One test image as the network's crop (H, W, 3)."""
    try:
        return predictor.pixels(file.read_bytes())
    except ImageError as error:
        raise StepError(f"Test image {file} cannot be read ({error}) Run PrepareData again.") from None


def worst_mistakes(
    files: list[Path], labels: Labels, probabilities: Probabilities, classes: list[str]
) -> list[Mistake]:
    """The wrongly classified images that the model was most certain about."""
    predicted = probabilities.argmax(axis=1)
    scores = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    order = wrong[np.argsort(-scores[wrong], kind="stable")][:SHOWN_MISTAKES]
    return [
        Mistake(
            picture=decode(files[row].read_bytes(), max_pixels=DEFAULT_MAX_PIXELS),
            name=files[row].name,
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
    parser.add_argument("--test-dir", type=Path, required=True, metavar="DIR", help="class folders of test images")
    parser.add_argument("--manifest-dir", type=Path, required=True, metavar="DIR", help="holds manifest.json")
    parser.add_argument(
        "--output-dir", type=Path, required=True, metavar="DIR", help="for evaluation.json, report.html"
    )
    arguments, _ = parser.parse_known_args()
    return arguments


if __name__ == "__main__":
    sys.exit(run(main, PROCESSING_MESSAGE))
