"""PrepareData: a data set of images becomes checked, split and embedded images.

Each file is checked and identified, duplicates are dropped, the rest is split by class; then every image is decoded,
stored small and embedded by the frozen backbone, once for all trials. manifest.json is written last: where one instance
worked alone and it is there, all is there.

Of several instances each does the same up to the split, and after that its own parts of the images. The first one adds
labels and manifest. No instance waits for another, and together they write, byte for byte, what one alone would.

What is embedded goes to a cache as well, now and then. A later run finds it there, also where this one was killed.

Paths come as arguments, as a SageMaker Processing job gives them (AWS guide, "build-your-own-processing-container").
"""

import argparse
import os
import signal
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from classifier.data import manifest, sample_files
from classifier.data.catalogue import Catalogue
from classifier.data.dataset import SPLITS, open_dataset
from classifier.data.parts import ROWS_PER_PART
from classifier.data.selection import Selection, fractions_of, select_images
from classifier.data.split import check_fractions
from classifier.job.failures import PROCESSING_MESSAGE, ArgumentParser, StepError, run, say
from classifier.job.instances import read_instance
from classifier.job.processors import core_count
from classifier.job.workers import Progress
from classifier.model.backbone import load_backbone, read_weights
from classifier.preparation.choices import Preparation, choose_preparation, part_of, spans_of
from classifier.preparation.embedding import Embedder
from classifier.preparation.embedding_cache import EmbeddingCache
from classifier.preparation.part_writer import write_parts

OUTPUTS = (*SPLITS, "embeddings", "manifest", "embedding_cache")


def main() -> None:
    torch.set_num_threads(1)  # in every thread; there are as many threads as cores
    warnings.filterwarnings("ignore", module="PIL")  # about oddities in images; what matters ends in the manifest
    try:
        prepare(parse_arguments())
    except OSError as error:
        raise StepError(f"{error.filename or 'PrepareData'}: {error.strerror or error}.") from error


class Terminated(SystemExit):
    """The job was stopped from outside."""


def terminate(number: int, frame: object) -> NoReturn:
    """SageMaker stops a job with SIGTERM: end as any error does, and leave in the cache what has been embedded."""
    raise Terminated(128 + number)


def prepare(options: argparse.Namespace) -> None:
    check_fractions(fractions_of(options))
    weights = read_weights(options.weights_dir)
    instance = read_instance(options.resource_config)
    make_output_folders(options.output_dir)

    with (
        open_dataset(options.data_dir, scratch=options.output_dir) as root,
        tempfile.TemporaryDirectory(dir=options.output_dir, prefix=".catalogue-") as scratch,
        Catalogue(Path(scratch) / "catalogue.db") as catalogue,
    ):
        selection = select_images(root, catalogue, options)
        preparation = choose_preparation(catalogue, weights, options)
        backbone = load_backbone(options.backbone, options.weights_dir)
        embedder = Embedder(backbone, preparation.preprocess, workers=core_count())
        say(f"embedding with {options.backbone} at {preparation.preprocess.image_size} px")
        recipe = preparation.recipe(weights, embedder)
        cache = EmbeddingCache(options.embedding_cache, options.output_dir / "embedding_cache", recipe)
        spans = instance.share(spans_of(catalogue.sizes(), options.rows_per_part))
        parts = (part_of(catalogue, span) for span in spans)
        images = sum(span.stop - span.start for span in spans)
        write_parts(parts, preparation, embedder, cache, Progress("embedded", images))
        if instance.is_first:
            samples = sample_files.chosen(catalogue.entries("validation"))
            files = ((entry.suffix, preparation.encoded(entry)[1]) for entry in samples)
            sample_files.write(options.output_dir / "manifest", files)
            described = describe(selection, preparation, options)
            described["backbone"] = {
                "name": options.backbone,
                "feature_dim": embedder.feature_dim,
                "weights_sha256": weights.sha256,
            }
            write_labels(catalogue, options.output_dir / "embeddings")
            manifest.write(options.output_dir / "manifest", described, catalogue.entries())
        say("prepared " + ", ".join(f"{count} {split}" for split, count in catalogue.sizes().items()) + " images")


def make_output_folders(output_dir: Path) -> None:
    """Results of an earlier run would mix with those of this one."""
    for name in OUTPUTS:
        folder = output_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StepError(f"{folder} is not empty; an empty or missing folder is accepted as --output-dir.")


def write_labels(catalogue: Catalogue, folder: Path) -> None:
    """(N,) int64 of each split."""
    for split in SPLITS:
        np.save(folder / f"{split}_labels.npy", catalogue.labels(split))


def describe(selection: Selection, preparation: Preparation, options: argparse.Namespace) -> dict[str, Any]:
    """manifest.json, as far as it is about images."""
    classes, catalogue = selection.classes, selection.catalogue
    counts = manifest.count(catalogue, classes)
    return {
        "schema_version": manifest.SCHEMA_VERSION,
        "classes": classes,
        "counts": counts,
        "skipped": [asdict(file) for file in selection.skipped],
        "duplicates": selection.left_out.duplicates,
        "conflicting_labels": selection.left_out.conflicting_labels,
        "split": {
            "seed": options.split_seed,
            "fractions": fractions_of(options),
            "given": bool(selection.given),
        },
        "class_weights": manifest.class_weights(counts["train"]),
        "preprocess": preparation.preprocess.to_dict(),
        "augmented_views": preparation.augmented_views,
        "horizontal_flip": preparation.flip,
        "tiny_images": preparation.tiny,
        "dataset_sha256": manifest.dataset_sha256(catalogue, classes),
    }


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="class folders, split folders, or one archive")
    parser.add_argument("--weights-dir", type=Path, required=True, help="weights.json and the file it names")
    parser.add_argument("--output-dir", type=Path, required=True, help=f"receives {', '.join(OUTPUTS)}")
    parser.add_argument("--embedding-cache", type=Path, default=None, metavar="DIR", help="what earlier runs embedded")
    parser.add_argument("--resource-config", type=Path, default=None, metavar="FILE", help="names the job's instances")
    parser.add_argument("--rows-per-part", type=natural_number, default=ROWS_PER_PART, metavar="N")
    parser.add_argument("--backbone", required=True, help="timm's name of the network")
    parser.add_argument("--image-size", type=size_or_auto, default=None, metavar="auto|PX")
    learning = ("none", "last_block", "all")
    parser.add_argument("--finetune", choices=learning, default=learning[0], help="an auto size depends on it")
    for split, share in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
        parser.add_argument(f"--{split}-fraction", type=float, default=share, metavar="SHARE")
    parser.add_argument("--split-seed", type=int, default=0)
    parser.add_argument("--augmented-views", type=natural_number, default=1, help="per training image")
    parser.add_argument("--horizontal-flip", type=flip_or_auto, default=None, metavar="auto|true|false")
    parser.add_argument("--min-images-per-class", type=natural_number, default=5)
    parser.add_argument("--max-unreadable-fraction", type=float, default=0.05, metavar="SHARE")
    parser.add_argument("--max-image-megapixels", type=float, default=100)
    return parser.parse_args()


def natural_number(text: str) -> int:
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, but got {text}")
    return int(text)


def size_or_auto(text: str) -> int | None:
    """None is auto."""
    size = None if text == "auto" else int(text)
    if size is not None and size < 32:
        raise argparse.ArgumentTypeError(f"must be auto or 32 or more, but got {text}")
    return size


def flip_or_auto(text: str) -> bool | None:
    """None is auto."""
    accepted = {"auto": None, "true": True, "false": False}
    if text.lower() not in accepted:
        raise argparse.ArgumentTypeError(f"must be auto, true or false, but got {text}")
    return accepted[text.lower()]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    try:
        sys.exit(run(main, PROCESSING_MESSAGE))
    except Terminated as stopped:
        os._exit(
            int(str(stopped))
        )  # a worker that is still in the network would crash an interpreter that is torn down
