"""The history of splits: what each image was used for in earlier versions, by its sha256.

PrepareData is given the files of earlier executions and adds one with what is new: lines `SHA256,SPLIT`. Of several
splits of an image the one counts that a model has seen most of: train, then validation, then test. So two executions at
the same time do no harm.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import pandas as pd

from classifier.data.dataset import SPLITS, printable, some
from classifier.job.failures import say
from classifier.job.system import whole_file

ENTRY = re.compile(rf"([0-9a-f]{{64}}),({'|'.join(SPLITS)})")
NAMED_PATHS = 100  # in the manifest


def read_history(folder: Path | None) -> tuple[dict[str, str], int]:
    """Return sha256 -> split, and the number of lines that cannot be read, of a damaged file."""
    history, damaged = dict[str, str](), 0
    for file in sorted(folder.glob("*.csv")) if folder else []:
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if not (entry := ENTRY.fullmatch(line)):
                damaged += 1
            elif SPLITS.index(entry[2]) <= SPLITS.index(history.get(entry[1], SPLITS[-1])):
                history[entry[1]] = entry[2]
    return history, damaged


def add_to_history(folder: Path, images: pd.DataFrame, history: dict[str, str]) -> None:
    """Write what is new, under a name made of its content."""
    used = {image.sha256: image.split for image in images.itertuples()}
    stronger = {
        sha256: split
        for sha256, split in used.items()
        if SPLITS.index(split) < SPLITS.index(history.get(sha256, SPLITS[-1])) or sha256 not in history
    }
    content = "".join(f"{sha256},{split}\n" for sha256, split in sorted(stronger.items()))
    if content:
        with whole_file(folder / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.csv") as file:
            file.write(content)


def compare(images: pd.DataFrame, history: dict[str, str], damaged: int) -> dict[str, Any]:
    """Return what the manifest says of images that earlier versions had: counts, and tests on what was trained on."""
    earlier = images["sha256"].map(history)
    split = images["split"].astype(object)
    seen = images[(split == "test") & earlier.isin(SPLITS[:-1])]
    return {
        "known_images": int(earlier.notna().sum()),
        "new_images": int(earlier.isna().sum()),
        "moved_images": int((earlier.notna() & (split != earlier)).sum()),
        "tested_though_trained_on": {"count": len(seen), "paths": list(map(printable, seen["path"][:NAMED_PATHS]))},
        "damaged_lines": damaged,
    }


def tell(found: dict[str, Any]) -> None:
    """Print what a person should know of it."""
    known, new, seen = found["known_images"], found["new_images"], found["tested_though_trained_on"]
    if known:
        kept = f"{known - found['moved_images']} of {known + new} images keep the split that they had in earlier runs"
        say(f"{kept}, {found['moved_images']} do not, {new} are new")
    if seen["count"]:
        say(
            f"WARNING: {seen['count']} images of the test split were trained or validated on by earlier versions, so "
            f"its accuracy may be too high: {some(seen['paths'])}"
        )
    if found["damaged_lines"]:
        say(f"split_history: {found['damaged_lines']} lines cannot be read; what stood there counts as new")
