"""Runs made of a few arrays, written as the hook writes them, and judged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from watch.collect.hook import StepWriter
from watch.read.source import find
from watch.rules.judge import judge_folder

Step = tuple[str, dict[str, Any]]  # mode and tensors
LOSS = "CrossEntropyLoss_output_0"


def losses(values: Sequence[float], mode: str = "TRAIN") -> list[Step]:
    return [(mode, {LOSS: value}) for value in values]


def judged(
    folder: Path, entries: dict[str, Any], steps: Sequence[Step], worker: int = 0, **options: Any
) -> dict[str, Any]:
    """The document of a run that consists of these steps."""
    writer, counts = StepWriter(folder / "tensors", worker=worker), {"TRAIN": 0, "EVAL": 0}
    names = {name for _, tensors in steps for name in tensors}
    members = {name: set() for name in ("norms", "frozen", "losses", "labels")} | {
        "gradients": {name for name in names if name.startswith("gradient/")},
        "weights": {name for name in names if name.endswith("weight") and not name.startswith("gradient/")},
        "relu_output": {name for name in names if name.startswith("act")},
        "norms": {name for name in names if "norm" in name},
    }
    writer.collections(members)
    for number, (mode, tensors) in enumerate(steps):
        writer.write((number, mode, counts[mode]), {name: np.asarray(value) for name, value in tensors.items()})
        counts[mode] += 1
    writer.end()
    return judge_folder(find(folder), entries, **options)
