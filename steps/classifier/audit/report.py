"""audit.html: the images whose labels look wrong, the strangest ones, near-duplicates and classes that overlap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classifier.audit.suspicion import Suspicion
from classifier.data.dataset import SPLITS
from classifier.data.images import ImageError, Picture, decode
from classifier.data.prepared_images import PreparedImages
from classifier.data.thumbnails import thumbnail
from classifier.job.failures import StepError
from classifier.model.predictor import DEFAULT_MAX_PIXELS
from watch.report.page import render

SHOWN_SUSPECTS, SHOWN_OUTLIERS, SHOWN_PAIRS, SHOWN_OVERLAPS = 60, 24, 24, 12


@dataclass(frozen=True)
class Shown:
    """One image on the page."""

    picture: Picture
    path: str
    label: str
    split: str


class Gallery:
    """The prepared images of all splits, by their row in the listing, which begins with train."""

    def __init__(self, prepared: Path, listing: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
        self.images = {split: PreparedImages(prepared / split, split) for split in SPLITS}
        self.listing, self.classes = listing, classes
        counts = [len(self.images[split]) for split in SPLITS]
        self.starts = dict(zip(SPLITS, np.cumsum([0, *counts]).tolist(), strict=False))
        if sum(counts) != len(listing):
            raise StepError(
                f"{prepared} holds {sum(counts)} prepared images, but images.jsonl lists {len(listing)}: "
                "they belong to different data. Run PrepareData again."
            )

    def show(self, row: int) -> Shown:
        """Return an image with what is known of it."""
        entry = self.listing[row]
        images, number = self.images[entry["split"]], row - self.starts[entry["split"]]
        try:
            picture = decode(images.read(number), max_pixels=DEFAULT_MAX_PIXELS)
        except ImageError as error:
            raise StepError(f"{images.place(number)}: {error} Run PrepareData again.") from error
        return Shown(picture, entry["source"], self.classes[entry["label"]], entry["split"])


def report(
    gallery: Gallery,
    suspicion: Suspicion,
    strange: npt.NDArray[np.float64],  # (N,) distance to the nearest images, in medians
    manifest: Mapping[str, Any],
) -> str:
    """Return the page."""
    suspects = [row for row in suspicion.order.tolist() if suspicion.wrong[row]]
    pairs = pairs_of(gallery, manifest)
    return render(
        "classifier/audit/report.html",
        thumbnail=thumbnail,
        title="Label audit",
        images=len(strange),
        class_count=len(gallery.classes),
        wrong=len(suspects),
        not_judged=int((~suspicion.judged).sum()),
        suspects=[
            (gallery.show(row), gallery.classes[suspicion.suggested[row]], suspicion.probability[row],
             suspicion.quality[row])
            for row in suspects[:SHOWN_SUSPECTS]
        ],
        outliers=[(gallery.show(row), strange[row]) for row in np.argsort(-strange, kind="stable")[:SHOWN_OUTLIERS]],
        overlaps=suspicion.overlaps[:SHOWN_OVERLAPS],
        pairs=[(gallery.show(one), gallery.show(other), distance) for one, other, distance in pairs[:SHOWN_PAIRS]],
        near_duplicate_count=manifest.get("near_duplicate_count"),  # None: PrepareData did not look for them
    )  # fmt: skip


def pairs_of(gallery: Gallery, manifest: Mapping[str, Any]) -> list[tuple[int, int, float]]:
    """Return the rows of each listed pair and its distance; those with two labels come first, then the nearest."""
    rows = {entry["source"]: row for row, entry in enumerate(gallery.listing)}
    labels, found = [entry["label"] for entry in gallery.listing], set[tuple[int, int, float]]()
    for name in ("near_duplicates", "near_duplicates_of_two_classes"):
        for pair in manifest.get(name, []):
            one, other = (rows[path] for path in pair["paths"])
            found.add((one, other, float(pair["distance"])))
    return sorted(found, key=lambda pair: (labels[pair[0]] == labels[pair[1]], pair[2], pair))
