"""Looks for wrong labels in what PrepareData has prepared: audit.html, audit.json, and corrections.csv to be corrected.

It is no job: `run_pipeline.py audit` starts it on the outputs of an execution.
"""

import argparse
import csv
import io
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from classifier.audit.report import Gallery, report
from classifier.audit.suspicion import Suspicion, strangeness, suspect
from classifier.data.dataset import SPLITS
from classifier.data.training_data import join, open_split, read_listing, read_manifest
from classifier.job.failures import ArgumentParser, StepError, run, say
from classifier.job.system import write_json

COLUMNS = ("path", "label", "suggested", "score")
LISTED_SHARE = 0.1  # of the images, at least
LEFT_OUT = "-"


def main() -> None:
    arguments = parse_arguments()
    warnings.filterwarnings("ignore")  # scikit-learn's, of small classes
    prepared, folder = arguments.prepared_dir, arguments.report_dir
    try:
        manifest = read_manifest(prepared / "manifest")
        listing = read_listing(prepared / "manifest")
        splits = [open_split(prepared / "embeddings", name, manifest) for name in SPLITS]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise StepError(f"{prepared} does not hold what PrepareData writes: {error}. Run PrepareData again.") from error
    classes = manifest["classes"]
    labels = np.concatenate([split.labels for split in splits])
    gallery = Gallery(prepared, listing, classes)  # says if the files do not belong together
    features = np.concatenate([split.embeddings[:, 0] for split in splits])
    groups = join([split.groups for split in splits])
    corrections = folder / "corrections.csv"
    if corrections.is_file() and is_edited(corrections, given(listing, manifest)):
        raise StepError(f"{corrections} has been edited: move it to where it is to stay, or choose another --out.")
    suspicion = suspect(features, labels, np.arange(len(labels)) if groups is None else groups, classes)
    folder.mkdir(parents=True, exist_ok=True)
    page = report(gallery, suspicion, strangeness(features, labels), manifest)
    (folder / "audit.html").write_text(page, encoding="utf-8")
    corrections.write_bytes(csv_text(rows(suspicion, listing, manifest)))
    document = {
        "images": len(labels),
        "classes": len(classes),
        "wrong": int(suspicion.wrong.sum()),
        "not_judged": int((~suspicion.judged).sum()),
        "overlaps": [{"classes": [one, other], "images": count} for one, other, count in suspicion.overlaps],
        "near_duplicates": manifest.get("near_duplicate_count"),
    }
    write_json(folder / "audit.json", document)
    say(f"{len(labels)} images, {document['wrong']} labels look wrong")


def given(listing: list[dict[str, Any]], manifest: dict[str, Any]) -> dict[str, str]:
    """Return each image's label by its path, as the file has it before it is edited."""
    left_out = [entry["path"] for entry in manifest.get("corrections", {}).get("left_out", [])]
    labels = {entry["source"]: manifest["classes"][entry["label"]] for entry in listing}
    return labels | dict.fromkeys(left_out, LEFT_OUT)


def is_edited(file: Path, labels: dict[str, str]) -> bool:
    """Return whether a file says anything else of an image; scores may differ with the machine."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            return any(labels.get(row["path"]) != row["label"] for row in csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error, KeyError):
        return True


def rows(suspicion: Suspicion, listing: list[dict[str, Any]], manifest: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the most suspicious images, and those corrected before: the new file takes the old one's place."""
    corrected = manifest.get("corrections", {})
    paths = {entry["path"] for entry in corrected.get("applied", [])}
    classes, count = manifest["classes"], max(int(suspicion.wrong.sum()), -int(-len(listing) * LISTED_SHARE // 1))
    for place, row in enumerate(suspicion.order.tolist()):
        if place < count or listing[row]["source"] in paths:
            label, suggested = classes[listing[row]["label"]], classes[suspicion.suggested[row]]
            yield listing[row]["source"], label, suggested, f"{suspicion.quality[row]:.4f}"
    for entry in corrected.get("left_out", []):
        yield entry["path"], LEFT_OUT, entry["label"], ""


def csv_text(found: Iterator[tuple[str, ...]]) -> bytes:
    """Return the table as Excel and LibreOffice read it, names beyond ASCII included."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([COLUMNS, *found])
    return text.getvalue().encode("utf-8-sig")


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared-dir", type=Path, required=True, metavar="DIR", help="PrepareData's outputs")
    parser.add_argument("--report-dir", type=Path, required=True, metavar="DIR", help="for the three files")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main))
