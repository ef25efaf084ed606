"""Kills the final training at random moments, starts it again, and compares what it ends with.

    python benchmarks/kills_train.py                        ten moments for SIGKILL and ten for SIGTERM
    python benchmarks/kills_train.py --moments 3 -- --dropout 0.5    fewer, of a training with other hyperparameters
    python benchmarks/kills_train.py -- --finetune all --finetune_epochs 6 --epochs 20    of one that fine-tunes

Images are synthetic and the network is tiny; steps/train.py is the real one, watched by its rules, with its checkpoints
in a folder that outlives it, as managed spot training has it. What is lost with an instance is lost here: the folders
of model and output begin empty again. The last start must leave the weights, model.json and every epoch's line of
the training that nobody disturbed, to the last digit.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "benchmarks")]

from kills import BACKBONE, IMAGE_PX, write_weights  # noqa: E402
from scale import STEPS, write_images  # noqa: E402

GRACE_SECONDS = 120  # that SageMaker waits after SIGTERM
IMAGES = 600
LENGTH = ["--epochs", "80", "--batch_size", "8", "--hidden_units", "64", "--lr", "0.002"]
PARTS = ("head.pt", "backbone.pt")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
EPOCH = re.compile(r"^epoch=(\d+) .*$", re.MULTILINE)
GOING_ON = "Going on after"


@dataclass
class Result:
    """What a training left."""

    weights: dict[str, torch.Tensor]  # of the head, and of the backbone where it learned
    model: str  # model.json
    epochs: dict[int, set[str]] = field(default_factory=dict)  # every line that was printed of an epoch

    def differences(self, other: "Result") -> list[str]:
        """What is not the same, to the last digit."""
        found = []
        if self.weights.keys() != other.weights.keys() or any(
            not torch.equal(tensor, other.weights[name]) for name, tensor in self.weights.items()
        ):
            found.append("weights")
        if self.model != other.model:
            found.append("model.json")
        if self.epochs != other.epochs:
            found.append("lines of epochs")
        return found


class Training:
    """steps/train.py on prepared images, and the folder of its checkpoints.

    Args:
        folder: For everything that it writes; the checkpoints stay from start to start.
        more: Arguments of train.py.
    """

    def __init__(self, prepared: Path, weights: Path, folder: Path, more: list[str]) -> None:
        self.folder, self.starts = folder, 0
        (folder / "config").mkdir(parents=True)
        config = {"S3Uri": "s3://bucket/checkpoints", "LocalPath": str(folder / "checkpoints")}
        (folder / "config" / "checkpointconfig.json").write_text(json.dumps(config))
        names = ("embeddings", "manifest", "train", "validation")
        channels = {f"SM_CHANNEL_{name.upper()}": str(prepared / name) for name in names}
        self.environment = {
            **os.environ,
            **channels,
            "SM_CHANNEL_WEIGHTS": str(weights),
            "SM_INPUT_CONFIG_DIR": str(folder / "config"),
        }
        self.command = [sys.executable, str(STEPS / "train.py"), *LENGTH, *more]

    def start(self) -> "subprocess.Popen[bytes]":
        """As on an instance that has the checkpoints and nothing else."""
        self.starts += 1
        own = {
            "SM_MODEL_DIR": str(self.place / "model"),
            "SM_OUTPUT_DATA_DIR": str(self.place / "data"),
            "SM_OUTPUT_FAILURE": str(self.place / "failure"),
        }
        self.place.mkdir()
        with (self.place / "log.txt").open("wb") as log:
            return subprocess.Popen(self.command, env=self.environment | own, stdout=log, stderr=subprocess.STDOUT)

    @property
    def place(self) -> Path:
        """Of the newest start's output."""
        return self.folder / f"start-{self.starts}"

    def finished(self) -> Result:
        """Start and let it end by itself."""
        if self.start().wait():
            sys.exit(f"The training failed:\n{(self.place / 'log.txt').read_text()}")
        model = self.place / "model"
        parts = {name: torch.load(model / name, weights_only=True) for name in PARTS if (model / name).exists()}
        weights = {f"{name}: {key}": tensor for name, part in parts.items() for key, tensor in part.items()}
        result = Result(weights, (model / "model.json").read_text())
        for log in sorted(self.folder.glob("start-*/log.txt")):
            for found in EPOCH.finditer(log.read_text()):
                result.epochs.setdefault(int(found[1]), set()).add(found[0])
        return result


def main() -> None:
    """Measures and prints."""
    arguments = parse_arguments()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        prepared, weights = prepare(folder)
        began = time.perf_counter()
        expected = Training(prepared, weights, folder / "undisturbed", arguments.more).finished()
        seconds = time.perf_counter() - began
        print(f"undisturbed: {seconds:.1f} s, {len(expected.epochs)} epochs", flush=True)
        failures = 0
        for number in range(arguments.moments * len(SIGNALS)):
            training = Training(prepared, weights, folder / f"{number}", arguments.more)
            failures += not disturbed(training, SIGNALS[number % 2], draw.uniform(0, seconds), expected)
    print(f"{failures} of {arguments.moments * len(SIGNALS)} ended otherwise than the undisturbed training")
    sys.exit(1 if failures else 0)


def disturbed(training: Training, sent: signal.Signals, moment: float, expected: Result) -> bool:
    """Disturb one training, start it again, and say what came of it; whether all is the same."""
    process = training.start()
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.send_signal(sent)
    began = time.perf_counter()
    try:
        process.wait(GRACE_SECONDS)
        late = False
    except subprocess.TimeoutExpired:
        late = True
        process.kill()
        process.wait()
    ending = time.perf_counter() - began
    reached = len(EPOCH.findall((training.place / "log.txt").read_text()))
    result = training.finished()
    log = (training.place / "log.txt").read_text()
    went_on = GOING_ON in log or not EPOCH.search(log)  # all epochs may have been done
    differences = result.differences(expected) + (["it did not end in time"] if late else [])
    print(
        f"{sent.name:8} after {moment:5.1f} s, at epoch {reached:3}: ended after {ending:4.1f} s with "
        f"{process.returncode:3}, {'went on' if went_on else 'began anew'}: "
        + (f"DIFFERENT: {', '.join(differences)}" if differences else "the same"),
        flush=True,
    )
    return not differences


def prepare(folder: Path) -> tuple[Path, Path]:
    """Prepared images and the weights of the network."""
    weights, prepared = folder / "weights", folder / "prepared"
    write_weights(weights)
    write_images(folder / "data", IMAGES)
    words = ["--data-dir", folder / "data", "--weights-dir", weights, "--output-dir", prepared]
    words += ["--backbone", BACKBONE, "--image-size", IMAGE_PX]
    command = [sys.executable, str(STEPS / "prepare.py"), *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return prepared, weights


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=10, metavar="N", help="for each signal (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("more", nargs="*", metavar="...", help="after --: arguments of steps/train.py")
    return parser.parse_args()


if __name__ == "__main__":
    main()
