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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import manifest
from backbone import Weights, load_backbone, read_weights
from dataset import SPLITS, Skipped, list_images, open_dataset
from embedding import Embedder
from failures import PROCESSING_MESSAGE, ArgumentParser, StepError, run, say
from images import ImageError, Picture, Pixels, Preprocess, decode, shrink
from inspection import LabelledImage, inspect, refuse_unreadable
from manifest import Entry, list_entries
from progress import Progress
from split import UniqueImages, assign_splits, check_fractions, refuse_small_classes, without_duplicates
from views import views

OUTPUTS = (*SPLITS, "embeddings", "manifest")
TINY_PX = 64  # images whose median shorter side is below this are tiny: digits, icons
IMAGE_SIZE_PX, TINY_IMAGE_SIZE_PX = 224, 96
CROP_SHARE = 0.875  # of the resized image's side; the backbones were trained to see so much of it
SAVING: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG", "compress_level": 3},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}


@dataclass(frozen=True)
class Views:
    """How the views of an image are made."""

    preprocess: Preprocess
    augmented: int  # random views per training image, besides the plain one
    flip: bool
    seed: int


def main() -> None:
    torch.set_num_threads(1)  # in every thread; there are as many threads as cores
    warnings.filterwarnings("ignore", module="PIL")  # about oddities in images; what matters ends in the manifest
    try:
        prepare(parse_arguments())
    except OSError as error:
        raise StepError(f"{error.filename or 'PrepareData'}: {error.strerror or error}.") from error


def prepare(options: argparse.Namespace) -> None:
    fractions = {split: getattr(options, f"{split}_fraction") for split in SPLITS}
    check_fractions(fractions)
    weights = read_weights(options.weights_dir)
    make_output_folders(options.output_dir)

    with open_dataset(options.data_dir, scratch=options.output_dir) as root:
        listing = list_images(root)
        say(f"found {len(listing.files)} files in {len(listing.classes)} classes")
        images, unusable = inspect(listing.files, max_megapixels=options.max_image_megapixels, workers=cores())
        refuse_unreadable(unusable, len(listing.files), max_fraction=options.max_unreadable_fraction)
        skipped = listing.skipped + unusable

        unique = without_duplicates(images)
        say_what_was_left_out(skipped, unique)
        given = listing.given_splits
        refuse_small_classes(unique.images, listing.classes, given=given, min_images=options.min_images_per_class)
        splits = assign_splits(unique.images, fractions=fractions, seed=options.split_seed, given=given)
        entries = list_entries(unique.images, splits, listing.classes)

        how = choose_views(options, unique.images, weights)
        embedder = Embedder(load_backbone(options.backbone, options.weights_dir), how.preprocess, workers=cores())
        for split in SPLITS:
            of_split = [entry for entry in entries if entry.split == split]
            write_split(split, of_split, embedder, how, options)

    counts = manifest.count(entries, listing.classes)
    manifest.write(
        options.output_dir / "manifest" / "manifest.json",
        {
            "schema_version": manifest.SCHEMA_VERSION,
            "classes": listing.classes,
            "counts": counts,
            "images": [entry.to_dict() for entry in entries],
            "skipped": [asdict(file) for file in skipped],
            "duplicates": unique.duplicates,
            "conflicting_labels": unique.conflicting_labels,
            "split": {"seed": options.split_seed, "fractions": fractions, "given": bool(given)},
            "class_weights": manifest.class_weights(counts["train"]),
            "preprocess": how.preprocess.to_dict(),
            "backbone": {
                "name": options.backbone,
                "feature_dim": embedder.feature_dim,
                "weights_sha256": weights.sha256,
            },
            "augmented_views": options.augmented_views,
            "dataset_sha256": manifest.dataset_sha256(entries, listing.classes),
        },
    )
    say("prepared " + ", ".join(f"{sum(counts[split].values())} {split}" for split in SPLITS) + " images")


def make_output_folders(output_dir: Path) -> None:
    """Results of an earlier run would mix with those of this one."""
    for name in OUTPUTS:
        folder = output_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StepError(f"{folder} is not empty; an empty or missing folder is accepted as --output-dir.")


def say_what_was_left_out(skipped: Sequence[Skipped], unique: UniqueImages) -> None:
    for file in skipped[:5]:
        say(f"skipped {file.path}: {file.reason}")
    left_out = {
        "skipped files": len(skipped),
        "exact duplicates": len(unique.duplicates),
        "images with conflicting labels": len(unique.conflicting_labels),
    }
    if any(left_out.values()):
        say("left out: " + ", ".join(f"{number} {what}" for what, number in left_out.items() if number))


def choose_views(options: argparse.Namespace, images: Sequence[LabelledImage], weights: Weights) -> Views:
    """Tiny images are seen whole and not mirrored: they tend to be digits, letters and icons."""
    tiny = statistics.median(image.shorter_side for image in images) < TINY_PX
    size = options.image_size or (TINY_IMAGE_SIZE_PX if tiny else IMAGE_SIZE_PX)
    preprocess = Preprocess(size, size if tiny else round(size / CROP_SHARE), weights.mean, weights.std)
    flip = not tiny if options.horizontal_flip is None else options.horizontal_flip
    return Views(preprocess, options.augmented_views, flip, options.split_seed)


def write_split(
    split: str, entries: Sequence[Entry], embedder: Embedder, how: Views, options: argparse.Namespace
) -> None:
    """Prepared images, embeddings and labels of one split."""
    for class_name in {entry.image.file.class_name for entry in entries}:
        (options.output_dir / split / class_name).mkdir()
    augmented = how.augmented if split == "train" else 0
    pixels_of = partial(prepare_image, entries, options.output_dir, how, augmented, options.max_image_megapixels)
    progress = Progress(f"{split}: embedded", len(entries))
    embeddings = options.output_dir / "embeddings"
    embedder.write(embeddings / f"{split}.npy", pixels_of, rows=len(entries), views=1 + augmented, progress=progress)
    np.save(embeddings / f"{split}_labels.npy", np.array([entry.label for entry in entries], dtype=np.int64))


def prepare_image(
    entries: Sequence[Entry], output_dir: Path, how: Views, augmented: int, max_megapixels: float, row: int
) -> Pixels:
    """Decode and store one image; its views are (1 + augmented, H, W, 3) uint8."""
    entry = entries[row]
    file = entry.image.file
    try:
        image = shrink(decode(file.path.read_bytes(), max_pixels=int(max_megapixels * 1e6)), how.preprocess)
    except ImageError as error:
        raise StepError(f"{file.source} was changed while it was being prepared ({error})") from error
    store(image, output_dir / entry.path)
    return views(image, how.preprocess, count=augmented, key=f"{how.seed}:{entry.image.sha256}", flip=how.flip)


def store(image: Picture, path: Path) -> None:
    image.save(path, **SAVING[path.suffix])


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


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
