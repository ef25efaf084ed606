"""PrepareData: a data set of images becomes checked, split and embedded images.

Each file is checked and identified, duplicates are dropped, the rest is split by class; then every image is decoded,
stored small and embedded by the frozen backbone, once for all trials. manifest.json is written last: where one instance
worked alone and it is there, all is there.

Of several instances each does the same up to the split, and then stores its own share of each split's images, in
files of its own. The first one adds labels and manifest. No instance waits for another.

Paths come as arguments, as a SageMaker Processing job gives them (AWS guide, "build-your-own-processing-container").
"""

import argparse
import hashlib
import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from classifier.data import sample_files
from classifier.data.dataset import NAMED, SPLITS, list_images, open_dataset, printable
from classifier.data.images import LOSSLESS_FORMATS
from classifier.data.split import assign_splits, check_fractions, drop_duplicates, refuse_small_classes
from classifier.job.failures import PROCESSING_MESSAGE, ArgumentParser, StepError, run, say
from classifier.job.system import core_count, whole_file
from classifier.model.backbone import load_backbone, read_weights
from classifier.preparation.embedding import Embedder, embed
from classifier.preparation.embedding_cache import EmbeddingCache
from classifier.preparation.inspection import inspect, refuse_unreadable
from classifier.preparation.recipe import Recipe, choose_recipe

OUTPUTS = (*SPLITS, "embeddings", "manifest", "embedding_cache")
SCHEMA_VERSION = 2  # of manifest.json


def main() -> None:
    torch.set_num_threads(1)  # there are as many threads as cores
    warnings.filterwarnings("ignore", module="PIL")  # about oddities in images; what matters ends in the manifest
    options = parse_arguments()
    try:
        with open_dataset(options.data_dir, scratch=make_output_folders(options.output_dir)) as root:
            prepare(root, options)
    except OSError as error:
        raise StepError(f"{error.filename or 'PrepareData'}: {error.strerror or error}.") from error


def prepare(root: Path, options: argparse.Namespace) -> None:
    check_fractions(fractions_of(options))
    weights = read_weights(options.weights_dir)
    instance, instances = read_instance(options.resource_config)
    images, described = select_images(root, options)

    recipe = choose_recipe(images, weights, options)
    embedder = Embedder(load_backbone(options.backbone, options.weights_dir), recipe.preprocess, workers=core_count())
    say(f"embedding with {options.backbone} at {recipe.preprocess.image_size} px")
    known = recipe.document(weights, embedder.device)
    cache = EmbeddingCache(options.embedding_cache, options.output_dir / "embedding_cache", known)
    splits = {split: images[images["split"] == split] for split in SPLITS}
    share = {split: share_of(rows, instance, instances) for split, rows in splits.items()}
    embed(share, root, options.output_dir, instance=instance, recipe=recipe, embedder=embedder, cache=cache)

    if instance == 0:
        described |= {
            "preprocess": recipe.preprocess.to_dict(),
            "augmented_views": recipe.augmented_views,
            "horizontal_flip": recipe.flip,
            "tiny_images": recipe.tiny,
            "backbone": {
                "name": options.backbone,
                "feature_dim": embedder.feature_dim,
                "weights_sha256": weights.sha256,
            },
        }
        for split, rows in splits.items():
            np.save(options.output_dir / "embeddings" / f"{split}_labels.npy", rows["label"].to_numpy(np.int64))
        write_samples(root, splits["validation"], recipe, options.output_dir / "manifest")
        write_manifest(images, described, options.output_dir / "manifest")
    say("prepared " + ", ".join(f"{len(rows)} {split}" for split, rows in splits.items()) + " images")


def make_output_folders(output_dir: Path) -> Path:
    """Make them all; results of an earlier run would mix with those of this one."""
    for name in OUTPUTS:
        folder = output_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StepError(f"{folder} is not empty; an empty or missing folder is accepted as --output-dir.")
    return output_dir


def read_instance(resource_config: Path | None) -> tuple[int, int]:
    """Return which instance this is, from 0, and how many there are; without the service's file it is the only one."""
    if resource_config is None or not resource_config.is_file():
        return 0, 1
    described = json.loads(resource_config.read_text(encoding="utf-8"))
    return sorted(described["hosts"]).index(described["current_host"]), len(described["hosts"])


def share_of(rows: pd.DataFrame, instance: int, instances: int) -> pd.DataFrame:
    """Return the consecutive rows that are an instance's."""
    return rows[len(rows) * instance // instances : len(rows) * (instance + 1) // instances]


def select_images(root: Path, options: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Find, check, de-duplicate and split: return the images with their splits, and what the manifest says of them."""
    listing = list_images(root)
    images, unusable = inspect(listing, max_megapixels=options.max_image_megapixels, workers=core_count())
    say(f"found {len(images)} images in {len(listing.classes)} classes")
    refuse_unreadable(unusable, len(listing.files), max_fraction=options.max_unreadable_fraction)

    skipped, given = listing.skipped + unusable, set(listing.files["given"].dropna())
    images, duplicates, conflicting_labels = drop_duplicates(images)
    for file in skipped[:NAMED]:
        say(f"skipped {file.path}: {file.reason}")
    say(
        f"left out: {len(skipped)} skipped files, {len(duplicates)} exact duplicates, "
        f"{len(conflicting_labels)} images with conflicting labels"
    )
    refuse_small_classes(images, listing.classes, given=given, min_images=options.min_images_per_class)
    fractions = fractions_of(options)
    images = assign_splits(images, fractions=fractions, seed=options.split_seed, given=given)
    # The test split is kept without loss, so that evaluation sees exactly what the endpoint would.
    lossless = images["format"].isin(LOSSLESS_FORMATS) | (images["split"] == "test")
    images["name"] = images["sha256"].str[:16] + np.where(lossless, ".png", ".jpg")  # of the prepared image

    sizes = images.groupby(["split", "label"], observed=False).size()
    counts = {
        split: {name: int(sizes.get((split, label), 0)) for label, name in enumerate(listing.classes)}
        for split in SPLITS
    }
    train = counts["train"]
    return images, {
        "schema_version": SCHEMA_VERSION,
        "classes": listing.classes,
        "counts": counts,
        "skipped": [asdict(file) for file in skipped],
        "duplicates": duplicates,
        "conflicting_labels": conflicting_labels,
        "split": {"seed": options.split_seed, "fractions": fractions, "given": bool(given)},
        # N / (C n_c) over the training images: a class as large as the average weighs 1
        "class_weights": {name: sum(train.values()) / (len(train) * number) for name, number in train.items()},
        "dataset_sha256": dataset_sha256(images, listing.classes),
    }


def dataset_sha256(images: pd.DataFrame, classes: list[str]) -> str:
    """Return a digest of the images and their classes, wherever they lie and however they are split."""
    digest = hashlib.sha256()
    for sha256, label in sorted(zip(images["sha256"], images["label"], strict=True)):
        digest.update(f"{sha256} {classes[label]}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def write_samples(root: Path, validation: pd.DataFrame, recipe: Recipe, folder: Path) -> None:
    """Write a few prepared images of the validation split."""
    chosen = validation.iloc[sample_files.chosen(validation["label"])]
    files = ((root / image.path, Path(image.name).suffix) for image in chosen.itertuples())
    sample_files.write(folder, ((suffix, recipe.prepare(path, suffix)[1]) for path, suffix in files))


def write_manifest(images: pd.DataFrame, manifest: dict[str, Any], folder: Path) -> None:
    """Write images.jsonl, which lists each image in the rows' order of each split, and then manifest.json."""
    listed = images.assign(source=images["path"].map(printable))[["name", "source", "sha256", "split", "label"]]
    with whole_file(folder / "images.jsonl") as file:
        listed.to_json(file, orient="records", lines=True)
    with whole_file(folder / "manifest.json") as file:
        json.dump(manifest, file, indent=1)
        file.write("\n")


def fractions_of(options: argparse.Namespace) -> dict[str, float]:
    """Return each split's share."""
    return {split: getattr(options, f"{split}_fraction") for split in SPLITS}


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="class folders, split folders, or one archive")
    parser.add_argument("--weights-dir", type=Path, required=True, help="weights.json and the file it names")
    parser.add_argument("--output-dir", type=Path, required=True, help=f"receives {', '.join(OUTPUTS)}")
    parser.add_argument("--embedding-cache", type=Path, default=None, metavar="DIR", help="what earlier runs embedded")
    parser.add_argument("--resource-config", type=Path, default=None, metavar="FILE", help="names the job's instances")
    parser.add_argument("--backbone", required=True, help="timm's name of the network")
    parser.add_argument("--image-size", type=size_or_auto, default=None, metavar="auto|PX")
    parser.add_argument(
        "--finetune", choices=("none", "last_block", "all"), default="none", help="matters to an auto size"
    )
    for split, share in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
        parser.add_argument(f"--{split}-fraction", type=float, default=share, metavar="SHARE")
    parser.add_argument("--split-seed", type=int, default=0)
    parser.add_argument("--augmented-views", type=natural_number, default=1, help="per training image")
    parser.add_argument("--horizontal-flip", type=str.lower, choices=("auto", "true", "false"), default="auto")
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


if __name__ == "__main__":
    sys.exit(run(main, PROCESSING_MESSAGE))
