"""PrepareData: a data set of images becomes checked, split and embedded images.

Files are checked, duplicates dropped, the rest split by class; then every image is stored small and embedded by the
frozen backbone, once for all trials. Of several instances each does the same up to the split, and then stores its own
share of each split's images, in files of its own. The first one adds labels and manifest; none waits for another.
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

from classifier.data.annotations import attributes_of, groups_of, joined, read_annotations
from classifier.data.corrections import apply_corrections
from classifier.data.dataset import NAMED, SPLITS, inspect, list_files, open_dataset, printable
from classifier.data.prepared_images import SAMPLES
from classifier.data.split import assign_splits, drop_duplicates, refuse_small_classes
from classifier.data.split_history import add_to_history, compare, read_history, tell
from classifier.job.failures import PROCESSING_MESSAGE, ArgumentParser, StepError, run, say
from classifier.job.system import whole_file
from classifier.model.backbone import load_backbone, read_weights
from classifier.preparation.embedding import Embedder, EmbeddingCache, Recipe, choose_recipe, embed
from classifier.preparation.near_duplicates import connected, describe, embed_small, find_pairs, small_embedder

OUTPUTS = (*SPLITS, "embeddings", "manifest", "embedding_cache", "split_history")
LOSSLESS_FORMATS = ("PNG", "BMP", "DIB", "TIFF", "GIF")
SAMPLE_IMAGES = 8


def main() -> None:
    torch.set_num_threads(1)  # there are as many threads as cores
    warnings.filterwarnings("ignore", module="PIL")  # about oddities in images; what matters ends in the manifest
    options = parse_arguments()
    try:
        for name in OUTPUTS:
            (options.output_dir / name).mkdir(parents=True, exist_ok=True)
        with open_dataset(options.data_dir, scratch=options.output_dir) as root:
            if options.data_version:
                say(f"data version {options.data_version}")
            prepare(root, options)
    except OSError as error:
        raise StepError(f"{error.filename or 'PrepareData'}: {error.strerror or error}.") from error


def prepare(root: Path, options: argparse.Namespace) -> None:
    output, weights = options.output_dir, read_weights(options.weights_dir)
    images, manifest = select_images(root, options)
    recipe = choose_recipe(images, weights, options)
    caches = options.embedding_cache, output / "embedding_cache"
    if options.near_duplicates == "true":
        small = small_embedder(options.backbone, options.weights_dir, recipe)
        features = embed_small(images, root, small, EmbeddingCache(*caches, small, weights))
        pairs, *found = find_pairs(features, images["label"].to_numpy())
        images["group"] = joined(images["group"], connected(pairs, images.index))
        manifest |= describe(images, pairs, *found)
        say(f"found {len(pairs)} pairs of near-duplicates")
    history, damaged = read_history(options.split_history)
    images, described = split_images(images, manifest["classes"], history, options)
    manifest |= described | {"split_history": compare(images, history, damaged)}
    tell(manifest["split_history"])
    size = recipe.preprocess.image_size
    embedder = Embedder(load_backbone(options.backbone, options.weights_dir, size), recipe)
    say(f"embedding with {options.backbone} at {size} px")
    cache = EmbeddingCache(*caches, embedder, weights)
    instance, instances = read_instance(options.resource_config)
    splits = {split: images[images["split"] == split] for split in SPLITS}
    share = pd.concat(
        rows[len(rows) * instance // instances : len(rows) * (instance + 1) // instances] for rows in splits.values()
    )
    embed(share, root, output, instance, embedder, cache)
    if instance == 0:
        named = {"name": weights.backbone, "feature_dim": embedder.feature_dim, "weights_sha256": weights.sha256}
        manifest |= {
            "preprocess": asdict(recipe.preprocess),
            "augmented_views": recipe.augmented_views,
            "horizontal_flip": recipe.flip,
            "tiny_images": recipe.tiny,
            "backbone": named,
        }
        for split, rows in splits.items():
            for column, name in (("label", "labels"), ("group", "groups")):
                np.save(output / "embeddings" / f"{split}_{name}.npy", rows[column].to_numpy(np.int64))
        write_samples(root, splits["validation"], recipe, output / "manifest" / SAMPLES)
        write_manifest(images, manifest, output / "manifest")
        add_to_history(output / "split_history", images, history)
    say("prepared " + ", ".join(f"{len(rows)} {split}" for split, rows in splits.items()) + " images")


def read_instance(resource_config: Path) -> tuple[int, int]:
    """Return which instance this is, from 0, and how many there are; without the service's file it is the only one."""
    if not resource_config.is_file():
        return 0, 1
    described = json.loads(resource_config.read_text(encoding="utf-8"))
    return sorted(described["hosts"]).index(described["current_host"]), len(described["hosts"])


def select_images(root: Path, options: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Find, check and de-duplicate: return the images with their groups, and what the manifest says of them."""
    classes, files, strays = list_files(root)
    images, unusable = inspect(files, root, int(options.max_image_megapixels * 1e6), options.max_unreadable_fraction)
    say(f"found {len(images)} images in {len(classes)} classes")
    groups = read_annotations(options.annotations, "groups", images, unusable)
    attributes = read_annotations(options.annotations, "attributes", images, unusable)
    images["group"] = groups_of(images, groups, folder=options.group_folder, pattern=options.group_pattern)
    if attributes is not None:
        images["attributes"] = attributes_of(images, attributes)
    corrected = read_annotations(options.annotations, "corrections", images, unusable)
    corrections = dict[str, list[dict[str, str]]]()
    if corrected is not None:
        images, corrections = apply_corrections(images, classes, corrected)
        say(f"corrections: {len(corrections['applied'])} labels, {len(corrections['left_out'])} images left out")
    images, duplicates, conflicting_labels = drop_duplicates(images)
    skipped = [{"path": path, "reason": reason} for path, reason in (strays | unusable).items()]
    for file in skipped[:NAMED]:
        say(f"skipped {file['path']}: {file['reason']}")
    say(
        f"left out: {len(skipped)} skipped files, {len(duplicates)} exact duplicates, "
        f"{len(conflicting_labels)} images with conflicting labels"
    )
    refuse_small_classes(images, classes, set(images["given"].dropna()), options.min_images_per_class)
    # Of the images and their classes, wherever they lie and however they are split.
    lines = [f"{image.sha256} {classes[image.label]}\n" for image in images.itertuples()]
    return images, {
        "schema_version": 2,
        "classes": classes,
        "skipped": skipped,
        "duplicates": duplicates,
        "conflicting_labels": conflicting_labels,
        **({"corrections": corrections} if corrections else {}),
        "dataset_sha256": hashlib.sha256("".join(sorted(lines)).encode()).hexdigest(),
    }


def split_images(
    images: pd.DataFrame, classes: list[str], history: dict[str, str], options: argparse.Namespace
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the images with their splits and the prepared images' names, and what the manifest says of the splits."""
    given = set(images["given"].dropna())
    fractions = {split: getattr(options, f"{split}_fraction") for split in SPLITS}
    images["earlier"] = images["sha256"].map(history if options.keep_splits == "true" else {})
    images = assign_splits(images, classes, fractions, options.split_seed, given)
    # The test split is kept without loss, so that evaluation sees exactly what the endpoint would.
    lossless = images["format"].isin(LOSSLESS_FORMATS) | (images["split"] == "test")
    images["name"] = images["sha256"].str[:16] + np.where(lossless, ".png", ".jpg")  # of the prepared image

    straddling = int((images.groupby("group")["split"].nunique() > 1).sum())
    if straddling:
        say(f"WARNING: {straddling} groups of images lie in more than one of the given split folders (docs/data.md)")
    counts = pd.crosstab(images["split"], images["label"]).set_axis(classes, axis=1).to_dict("index")
    return images, {
        "counts": counts,
        "split": {"seed": options.split_seed, "fractions": fractions, "given": bool(given)},
        "straddling_groups": straddling,
    }


def write_samples(root: Path, validation: pd.DataFrame, recipe: Recipe, folder: Path) -> None:
    """Write a few prepared images of the validation split, of each class in turn: an endpoint proves itself on them."""
    turns = validation.groupby("label").cumcount().sort_values(kind="stable")
    folder.mkdir()
    for number, image in enumerate(validation.loc[turns.index[:SAMPLE_IMAGES]].itertuples()):
        suffix = Path(image.name).suffix
        (folder / f"{number:02d}{suffix}").write_bytes(recipe.prepare(root / image.path, suffix)[1])


def write_manifest(images: pd.DataFrame, manifest: dict[str, Any], folder: Path) -> None:
    """Write images.jsonl, which lists each image in the rows' order of each split, and then manifest.json."""
    columns = ["name", "source", "sha256", "split", "label", "group", *images.columns.intersection(["attributes"])]
    listed = images.assign(source=images["path"].map(printable))[columns]
    listed.to_json(folder / "images.jsonl", orient="records", lines=True)
    with whole_file(folder / "manifest.json") as file:
        file.write(json.dumps(manifest, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="class folders, split folders, or one archive")
    add("--data-version", default=None, metavar="DIGEST", help="of what lies there; logged, for the step's cache key")
    add("--weights-dir", type=Path, required=True, help="weights.json and the file it names")
    add("--output-dir", type=Path, required=True, help=f"receives {', '.join(OUTPUTS)}")
    add("--annotations", type=Path, default=None, metavar="DIR", help="groups.csv, attributes.csv, corrections.csv")
    add("--group-folder", type=int, default=None, metavar="LEVEL", help="below the class folder: an image's group")
    add("--group-pattern", default=None, metavar="REGEX", help="what it finds in the path is the image's group")
    add("--split-history", type=Path, default=None, metavar="DIR", help="the splits of earlier runs")
    add("--keep-splits", type=str.lower, choices=("true", "false"), default="true", help="of earlier runs")
    add("--near-duplicates", type=str.lower, choices=("true", "false"), default="true", help="form groups, too")
    add("--embedding-cache", type=Path, default=None, metavar="DIR", help="what earlier runs embedded")
    add("--resource-config", type=Path, default="/opt/ml/config/resourceconfig.json", help="names the job's instances")
    add("--backbone", required=True, help="timm's name of the network")
    add("--image-size", default="auto", metavar="auto|PX")
    add("--finetune", choices=("none", "last_block", "all"), default="none", help="matters to an auto size")
    for split, share in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
        add(f"--{split}-fraction", type=float, default=share, metavar="SHARE")
    add("--split-seed", type=int, default=0)
    add("--augmented-views", type=int, default=0, help="per training image")
    add("--horizontal-flip", type=str.lower, choices=("auto", "true", "false"), default="auto")
    add("--min-images-per-class", type=int, default=5)
    add("--max-unreadable-fraction", type=float, default=0.05, metavar="SHARE")
    add("--max-image-megapixels", type=float, default=100)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, PROCESSING_MESSAGE))
