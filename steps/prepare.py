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
import io
import os
import signal
import statistics
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import PIL
import torch
from numpy.lib.format import open_memmap

import manifest
import sample_files
from backbone import Weights, load_backbone, read_weights
from dataset import NAMED, SPLITS, Skipped, list_images, open_dataset
from embedding import Embedder
from embedding_cache import EmbeddingCache
from failures import PROCESSING_MESSAGE, ArgumentParser, StepError, run, say
from images import ImageError, Picture, Pixels, Preprocess, decode, shrink
from inspection import inspect, refuse_unreadable
from instances import read_instance
from manifest import Entry, list_entries
from parts import ROWS_PER_PART, part_name
from prepared_images import ShardWriter
from progress import Progress
from split import UniqueImages, assign_splits, check_fractions, refuse_small_classes, without_duplicates
from views import views

OUTPUTS = (*SPLITS, "embeddings", "manifest", "embedding_cache")
RECIPE_VERSION = 1  # to be counted up when other code makes other embeddings of the same image
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
class Part:
    """Consecutive images of one split; an instance does a part or leaves it to another."""

    split: str
    number: int
    entries: list[Entry]


@dataclass(frozen=True)
class Preparation:
    """What is done to every image; also what its embeddings depend on, besides the backbone."""

    preprocess: Preprocess
    augmented_views: int  # random views per training image, besides the plain one
    flip: bool
    seed: int
    max_pixels: int
    output_dir: Path

    def encoded(self, entry: Entry) -> tuple[Picture, bytes]:
        """Decode one image; the prepared one, and its file."""
        file = entry.image.file
        try:
            decoded = decode(file.path.read_bytes(), max_pixels=self.max_pixels, preprocess=self.preprocess)
        except ImageError as error:
            raise StepError(f"{file.source} was changed while it was being prepared: {error}") from error
        image = shrink(decoded, self.preprocess)
        encoded = io.BytesIO()
        image.save(encoded, **SAVING[entry.suffix])
        return image, encoded.getvalue()

    def pixels(self, entry: Entry, image: Picture) -> Pixels:
        """The views of a prepared image: (views, H, W, 3) uint8."""
        key = f"{self.seed}:{entry.image.sha256}"
        return views(image, self.preprocess, count=self.views_of(entry.split) - 1, key=key, flip=self.flip)

    def views_of(self, split: str) -> int:
        """The plain view, and in training the augmented ones."""
        return 1 + (self.augmented_views if split == "train" else 0)

    def recipe(self, weights: Weights, embedder: Embedder) -> dict[str, Any]:
        """All that the embeddings of an image depend on: where one of these differs, cached ones do not count."""
        return {
            "version": RECIPE_VERSION,
            "torch": torch.__version__,
            "pillow": PIL.__version__,
            "device": embedder.device,
            "backbone": weights.backbone,
            "weights": weights.sha256,
            "feature_dim": embedder.feature_dim,
            "preprocess": self.preprocess.to_dict(),
            "seed": self.seed,
            "flip": self.flip,
        }


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

    with open_dataset(options.data_dir, scratch=options.output_dir) as root:
        selection = select_images(root, options)
        preparation = choose_preparation(selection.entries, weights, options)
        backbone = load_backbone(options.backbone, options.weights_dir)
        embedder = Embedder(backbone, preparation.preprocess, workers=cores())
        recipe = preparation.recipe(weights, embedder)
        cache = EmbeddingCache(options.embedding_cache, options.output_dir / "embedding_cache", recipe)
        write_parts(instance.share(parts_of(selection.entries, options.rows_per_part)), preparation, embedder, cache)
        if instance.is_first:
            samples = sample_files.chosen(selection.entries)
            files = ((entry.suffix, preparation.encoded(entry)[1]) for entry in samples)
            sample_files.write(options.output_dir / "manifest", files)

    if instance.is_first:
        described = describe(selection, preparation, options)
        described["backbone"] = {
            "name": options.backbone,
            "feature_dim": embedder.feature_dim,
            "weights_sha256": weights.sha256,
        }
        write_labels(selection.entries, options.output_dir / "embeddings")
        manifest.write(options.output_dir / "manifest" / "manifest.json", described)
    say("prepared " + ", ".join(f"{count} {split}" for split, count in sizes(selection.entries).items()) + " images")


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


def parts_of(entries: Sequence[Entry], rows_per_part: int) -> list[Part]:
    """All images, in the manifest's order."""
    parts = []
    for split in SPLITS:
        chosen = [entry for entry in entries if entry.split == split]
        for number, start in enumerate(range(0, len(chosen), rows_per_part)):
            parts.append(Part(split, number, chosen[start : start + rows_per_part]))
    return parts


def write_parts(parts: Sequence[Part], preparation: Preparation, embedder: Embedder, cache: EmbeddingCache) -> None:
    """Prepared images and embeddings; however this ends, what was embedded is in the cache."""
    progress = Progress("embedded", sum(len(part.entries) for part in parts))
    try:
        for part in parts:
            write_part(part, preparation, embedder, cache, progress)
    finally:
        cache.write()
    if progress.known:
        say(f"{progress.known} of {progress.total} images were embedded before")


def write_part(
    part: Part, preparation: Preparation, embedder: Embedder, cache: EmbeddingCache, progress: Progress
) -> None:
    """One part's shard of prepared images, embeddings (rows, views, D) float16 and input means (rows, 3) float32.

    The shard takes images in the rows' order, whichever of them are embedded and whichever are known.
    """
    entries, views_per_image = part.entries, preparation.views_of(part.split)
    stem = preparation.output_dir / "embeddings" / part_name(part.split, part.number)
    shape = (len(entries), views_per_image, embedder.feature_dim)
    features = open_memmap(f"{stem}.npy", mode="w+", dtype=np.float16, shape=shape)  # type: ignore[no-untyped-call]
    means = np.zeros((len(entries), 3), np.float32)

    known: list[int] = []
    unknown: list[int] = []
    for row, entry in enumerate(entries):
        found = cache.find(entry.image.sha256, views_per_image)
        (known if found else unknown).append(row)
        if found:
            features[row], means[row] = found

    files: dict[int, bytes] = {}  # of rows that are being embedded

    def pixels_of(row: int) -> Pixels:
        image, files[row] = preparation.encoded(entries[row])
        return preparation.pixels(entries[row], image)

    with (
        ShardWriter(preparation.output_dir / part.split, part.split, part.number) as shard,
        closing(embedder.each(lambda row: preparation.encoded(entries[row])[1], known)) as known_files,
        closing(embedder.embed(pixels_of, unknown, views=views_per_image)) as images,
    ):
        is_known = np.isin(np.arange(len(entries)), known)
        for row, entry in enumerate(entries):
            if is_known[row]:
                file = next(known_files)
            else:
                image = next(images)
                features[row], means[row] = image.features, image.means
                cache.add(entry.image.sha256, image.features, image.means)
                file = files.pop(row)
            shard.add(entry.name, entry.label, file)
            progress.advance(1, known=bool(is_known[row]))
    np.save(f"{stem}_input_means.npy", means)


def write_labels(entries: Sequence[Entry], folder: Path) -> None:
    """(N,) int64 of each split."""
    for split in SPLITS:
        labels = [entry.label for entry in entries if entry.split == split]
        np.save(folder / f"{split}_labels.npy", np.array(labels, dtype=np.int64))


def sizes(entries: Sequence[Entry]) -> dict[str, int]:
    """Split -> number of images."""
    counts = Counter(entry.split for entry in entries)
    return {split: counts[split] for split in SPLITS}


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
    parser.add_argument("--embedding-cache", type=Path, default=None, metavar="DIR", help="what earlier runs embedded")
    parser.add_argument("--resource-config", type=Path, default=None, metavar="FILE", help="names the job's instances")
    parser.add_argument("--rows-per-part", type=natural_number, default=ROWS_PER_PART, metavar="N")
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
    signal.signal(signal.SIGTERM, terminate)
    try:
        sys.exit(run(main, PROCESSING_MESSAGE))
    except Terminated as stopped:
        os._exit(
            int(str(stopped))
        )  # a worker that is still in the network would crash an interpreter that is torn down
