"""What the debugger finds in healthy runs of this pipeline itself: one training for each folder of images.

    python benchmarks/debugger_own_runs.py --keep DIR FOLDER ...     class folders, split folders or an archive, each
    python benchmarks/debugger_own_runs.py --judge DIR               judges the trainings of an earlier run again

steps/prepare.py and steps/train.py run as jobs run them, with pipeline.yaml's rules and default hyperparameters, on the
smallest packaged backbone and small images: what is counted is what the rules find in the training of the head.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "steps")]

from pipeline.config.sections import DEFAULT_RULES  # noqa: E402
from pipeline.service import weights  # noqa: E402
from watch.read.source import find  # noqa: E402
from watch.rules.judge import judge_folder  # noqa: E402

BACKBONE, IMAGE_SIZE_PX = "tf_efficientnet_lite0", 128


@dataclass(frozen=True)
class Run:
    """One training: its folder, and what the rules found there."""

    folder: Path
    fired: list[str]

    def __str__(self) -> str:
        manifest = json.loads((self.folder / "prepared" / "manifest" / "manifest.json").read_text())
        images = sum(sum(counts.values()) for counts in manifest["counts"].values())
        last = json.loads((self.folder / "data" / "history.json").read_text())["epochs"][-1]
        accuracy = last["validation_accuracy"]
        size = f"{images:,} images, {len(manifest['classes'])} classes, validation accuracy {accuracy:.2f}"
        return f"{self.folder.name}: {size}: {', '.join(self.fired) or 'nothing found'}"


def main() -> None:
    """Train, count, print."""
    np.seterr(all="ignore")  # what is not finite is what rules look for
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="debugger-own-runs-") as scratch:
        parent = arguments.judge or arguments.keep or Path(scratch)
        if not arguments.judge:
            parent.mkdir(parents=True, exist_ok=True)
            stage_weights(parent / "weights")
            for data in arguments.folders:
                print(train(data, parent), file=sys.stderr, flush=True)
        runs = [judged(path.parents[1]) for path in sorted(parent.glob("*/data/history.json"))]
        for run in runs:
            print(run)
    found = Counter(rule for run in runs for rule in run.fired)
    named = ", ".join(f"{rule} {count}" for rule, count in found.most_common()) or "none"
    print(f"{len(runs)} runs, {sum(bool(run.fired) for run in runs)} with a finding; findings: {named}")


def stage_weights(folder: Path) -> None:
    """The weights channel, once."""
    if not folder.is_dir():
        weights.stage(weights.resolve(BACKBONE, "package"), folder)


def train(data: Path, parent: Path) -> str:
    """Prepare the images, train, and say in one line how it went."""
    folder = parent / data.name
    prepared, cache = folder / "prepared", parent / "embeddings"
    cache.mkdir(exist_ok=True)
    words = ["--data-dir", data, "--weights-dir", parent / "weights", "--output-dir", prepared, "--backbone", BACKBONE]
    words += ["--image-size", IMAGE_SIZE_PX, "--embedding-cache", cache]
    channels = {f"SM_CHANNEL_{name.upper()}": prepared / name for name in ("embeddings", "manifest")}
    channels |= {"SM_CHANNEL_WEIGHTS": parent / "weights"}
    places = {"SM_MODEL_DIR": folder / "model", "SM_OUTPUT_DATA_DIR": folder / "data"}
    environment = {**os.environ, **{name: str(path) for name, path in (channels | places).items()}}
    for script, options in (("prepare.py", words), ("train.py", ["--debug_rules", json.dumps(DEFAULT_RULES)])):
        command = [sys.executable, REPOSITORY / "steps" / script, *options]
        ended = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
        if ended.returncode:
            return f"{data.name}: {script} failed: {' '.join(ended.stderr.split())[-300:]}"
    return f"{data.name}: trained"


def judged(folder: Path) -> Run:
    """What the rules, as they are now, find in a training."""
    rules = judge_folder(find(folder / "data"), DEFAULT_RULES)["rules"]
    return Run(folder, [rule["name"] for rule in rules if rule["status"] == "IssuesFound"])


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="of images")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="for the trainings' folders")
    parser.add_argument("--judge", type=Path, metavar="DIR", help="of trainings that are judged again")
    return parser.parse_args()


if __name__ == "__main__":
    main()
