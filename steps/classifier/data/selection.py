"""Which images are used, and for what: found, checked, de-duplicated and split, on the catalogue."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from classifier.data.catalogue import Catalogue
from classifier.data.dataset import NAMED, SPLITS, Skipped, list_images
from classifier.data.inspection import inspect, refuse_unreadable
from classifier.data.split import LeftOut, assign_splits, drop_duplicates, refuse_small_classes
from classifier.job.failures import say
from classifier.job.processors import core_count


@dataclass(frozen=True)
class Selection:
    """The images that are used, and those that are not."""

    classes: list[str]
    catalogue: Catalogue
    skipped: list[Skipped]
    left_out: LeftOut
    given: frozenset[str]  # splits that the data set came with


def select_images(root: Path, catalogue: Catalogue, options: argparse.Namespace) -> Selection:
    """Find, check, de-duplicate and split; everything that the user may have to mend is refused here."""
    listing = list_images(root)
    catalogue.add_files(listing.files())
    unusable = inspect(catalogue, max_megapixels=options.max_image_megapixels, workers=core_count())
    say(f"found {catalogue.count_images()} images in {len(listing.classes)} classes")
    refuse_unreadable(unusable, catalogue.count_files(), max_fraction=options.max_unreadable_fraction)

    left_out, skipped, given = drop_duplicates(catalogue), listing.skipped + unusable, catalogue.given_splits()
    say_what_was_left_out(skipped, left_out)
    refuse_small_classes(catalogue, listing.classes, given=given, min_images=options.min_images_per_class)
    assign_splits(catalogue, fractions=fractions_of(options), seed=options.split_seed, given=given)
    catalogue.arrange()
    return Selection(listing.classes, catalogue, skipped, left_out, given)


def say_what_was_left_out(skipped: Sequence[Skipped], left_out: LeftOut) -> None:
    for file in skipped[:NAMED]:
        say(f"skipped {file.path}: {file.reason}")
    numbers = {
        "skipped files": len(skipped),
        "exact duplicates": len(left_out.duplicates),
        "images with conflicting labels": len(left_out.conflicting_labels),
    }
    if any(numbers.values()):
        say("left out: " + ", ".join(f"{number} {what}" for what, number in numbers.items() if number))


def fractions_of(options: argparse.Namespace) -> dict[str, float]:
    """Split -> share."""
    return {split: getattr(options, f"{split}_fraction") for split in SPLITS}
