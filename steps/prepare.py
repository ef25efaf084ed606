"""PrepareData: a data set of images becomes checked, split and embedded images.

Each file is checked and identified, duplicates are dropped, the rest is split by class; then every image is decoded,
stored small and embedded by the frozen backbone, once for all trials. manifest.json is written last: where it is, all
is there.

Paths come as arguments, as a SageMaker Processing job gives them (AWS guide, "build-your-own-processing-container").
"""

import argparse
import os
import statistics
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import manifest
from backbone import Weights, load_backbone, read_weights
from dataset import NAMED, SPLITS, Skipped, list_images, open_dataset
from embedding import Embedder
from failures import PROCESSING_MESSAGE, ArgumentParser, StepError, run, say
from images import ImageError, Pixels, Preprocess, decode, shrink
from inspection import inspect, refuse_unreadable
from manifest import Entry, list_entries
from progress import Progress
from split import UniqueImages, assign_splits, check_fractions, refuse_small_classes, without_duplicates
from views import views

OUTPUTS = (*SPLITS, "embeddings", "manifest")
TINY_PX = 64  # images whose median shorter side is below this are tiny: digits, icons
IMAGE_SIZE_PX, TINY_IMAGE_SIZE_PX = 224, 128
CROP_SHARE = 0.875  # of the resized image's side; the backbones were trained to see so much of it
SAVING: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG", "compress_level": 3},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}


@dataclass(frozen=True)
class Selection:
    """The images that are used, and those that are not."""

    classes: list[str]
    entries: list[Entry]
    skipped: list[Skipped]
    unique: UniqueImages
    given: frozenset[str]  # splits that the data set came with


@dataclass(frozen=True)
class Preparation:
    """What is done to every image."""

    preprocess: Preprocess
    augmented_views: int  # random views per training image, besides the plain one
    flip: bool
    seed: int
    max_pixels: int
    output_dir: Path

    def prepare(self, entry: Entry) -> Pixels:
        """Decode and store one image; its views are (1 or 1 + augmented_views, H, W, 3) uint8."""
        file = entry.image.file
        try:
            image = shrink(decode(file.path.read_bytes(), max_pixels=self.max_pixels), self.preprocess)
        except ImageError as error:
            raise StepError(f"{file.source} was changed while it was being prepared: {error}") from error
        path = self.output_dir / entry.path
        image.save(path, **SAVING[path.suffix])
        count = self.augmented_views if entry.split == "train" else 0
        return views(image, self.preprocess, count=count, key=f"{self.seed}:{entry.image.sha256}", flip=self.flip)


def main() -> None:
    torch.set_num_threads(1)  # in every thread; there are as many threads as cores
    warnings.filterwarnings("ignore", module="PIL")  # about oddities in images; what matters ends in the manifest
    try:
        prepare(parse_arguments())
    except OSError as error:
        raise StepError(f"{error.filename or 'PrepareData'}: {error.strerror or error}.") from error


def prepare(options: argparse.Namespace) -> None:
    check_fractions(fractions_of(options))
    weights = read_weights(options.weights_dir)
    make_output_folders(options.output_dir)

    with open_dataset(options.data_dir, scratch=options.output_dir) as root:
        selection = select_images(root, options)
        preparation = choose_preparation(selection.entries, weights, options)
        backbone = load_backbone(options.backbone, options.weights_dir)
        embedder = Embedder(backbone, preparation.preprocess, workers=cores())
        progress = Progress("embedded", len(selection.entries))
        for split in SPLITS:
            write_split(split, selection.entries, preparation, embedder, progress)

    described = describe(selection, preparation, options)
    described["backbone"] = {
        "name": options.backbone,
        "feature_dim": embedder.feature_dim,
        "weights_sha256": weights.sha256,
    }
    manifest.write(options.output_dir / "manifest" / "manifest.json", described)
    counts = described["counts"]
    say("prepared " + ", ".join(f"{sum(counts[split].values())} {split}" for split in SPLITS) + " images")


def make_output_folders(output_dir: Path) -> None:
    """Results of an earlier run would mix with those of this one."""
    for name in OUTPUTS:
        folder = output_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StepError(f"{folder} is not empty; an empty or missing folder is accepted as --output-dir.")


def select_images(root: Path, options: argparse.Namespace) -> Selection:
    """Find, check, de-duplicate and split; everything that the user may have to mend is refused here."""
    listing = list_images(root)
    images, unusable = inspect(listing.files, max_megapixels=options.max_image_megapixels, workers=cores())
    say(f"found {len(images)} images in {len(listing.classes)} classes")
    refuse_unreadable(unusable, len(listing.files), max_fraction=options.max_unreadable_fraction)

    unique, skipped, given = without_duplicates(images), listing.skipped + unusable, listing.given_splits
    say_what_was_left_out(skipped, unique)
    refuse_small_classes(unique.images, listing.classes, given=given, min_images=options.min_images_per_class)
    splits = assign_splits(unique.images, fractions=fractions_of(options), seed=options.split_seed, given=given)
    return Selection(listing.classes, list_entries(unique.images, splits, listing.classes), skipped, unique, given)


def say_what_was_left_out(skipped: Sequence[Skipped], unique: UniqueImages) -> None:
    for file in skipped[:NAMED]:
        say(f"skipped {file.path}: {file.reason}")
    left_out = {
        "skipped files": len(skipped),
        "exact duplicates": len(unique.duplicates),
        "images with conflicting labels": len(unique.conflicting_labels),
    }
    if any(left_out.values()):
        say("left out: " + ", ".join(f"{number} {what}" for what, number in left_out.items() if number))


def choose_preparation(entries: Sequence[Entry], weights: Weights, options: argparse.Namespace) -> Preparation:
    """Tiny images are seen whole and not mirrored: they tend to be digits, letters and icons."""
    tiny = statistics.median(entry.image.shorter_side for entry in entries) < TINY_PX
    size = options.image_size or (TINY_IMAGE_SIZE_PX if tiny else IMAGE_SIZE_PX)
    return Preparation(
        preprocess=Preprocess(size, size if tiny else round(size / CROP_SHARE), weights.mean, weights.std),
        augmented_views=options.augmented_views,
        flip=not tiny if options.horizontal_flip is None else options.horizontal_flip,
        seed=options.split_seed,
        max_pixels=int(options.max_image_megapixels * 1e6),
        output_dir=options.output_dir,
    )


def write_split(
    split: str, entries: Sequence[Entry], preparation: Preparation, embedder: Embedder, progress: Progress
) -> None:
    """Prepared images, embeddings and labels of one split."""
    chosen = [entry for entry in entries if entry.split == split]
    for class_name in {entry.image.file.class_name for entry in chosen}:
        (preparation.output_dir / split / class_name).mkdir()
    folder = preparation.output_dir / "embeddings"
    embedder.write(
        folder / f"{split}.npy",
        lambda row: preparation.prepare(chosen[row]),
        rows=len(chosen),
        views=1 + preparation.augmented_views if split == "train" else 1,
        progress=progress,
    )
    np.save(folder / f"{split}_labels.npy", np.array([entry.label for entry in chosen], dtype=np.int64))


def describe(selection: Selection, preparation: Preparation, options: argparse.Namespace) -> dict[str, Any]:
    """manifest.json, as far as it is about images."""
    classes, entries = selection.classes, selection.entries
    counts = manifest.count(entries, classes)
    return {
        "schema_version": manifest.SCHEMA_VERSION,
        "classes": classes,
        "counts": counts,
        "images": [entry.to_dict() for entry in entries],
        "skipped": [asdict(file) for file in selection.skipped],
        "duplicates": selection.unique.duplicates,
        "conflicting_labels": selection.unique.conflicting_labels,
        "split": {
            "seed": options.split_seed,
            "fractions": fractions_of(options),
            "given": bool(selection.given),
        },
        "class_weights": manifest.class_weights(counts["train"]),
        "preprocess": preparation.preprocess.to_dict(),
        "augmented_views": preparation.augmented_views,
        "dataset_sha256": manifest.dataset_sha256(entries, classes),
    }


def fractions_of(options: argparse.Namespace) -> dict[str, float]:
    """Split -> share."""
    return {split: getattr(options, f"{split}_fraction") for split in SPLITS}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="class folders, split folders, or one archive")
    parser.add_argument("--weights-dir", type=Path, required=True, help="weights.json and the file it names")
    parser.add_argument("--output-dir", type=Path, required=True, help=f"receives {', '.join(OUTPUTS)}")
    parser.add_argument("--backbone", required=True, help="timm's name of the network")
    parser.add_argument("--image-size", type=size_or_auto, default=None, metavar="auto|PX")
    for split, share in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
        parser.add_argument(f"--{split}-fraction", type=float, default=share, metavar="SHARE")
    parser.add_argument("--split-seed", type=int, default=0)
    parser.add_argument("--augmented-views", type=natural_number, default=3, help="per training image")
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
    sys.exit(run(main, PROCESSING_MESSAGE))
