"""What the debugger, its rules and the profiler cost a training: the same final training with all of it and with none.

    python benchmarks/debugger_overhead.py                 a training of about a minute, three times each way
    python benchmarks/debugger_overhead.py --seconds 20 --repeat 1 --batch-size 64

steps/train.py runs as a job runs it, in turn with `--debug false` and `--debug true`, on made-up embeddings (seeded)
and a backbone with random weights, for as many epochs as take about --seconds undisturbed.
Every rule of pipeline.yaml is on. Wall seconds are of the whole process: imports, training, export, verdicts, report.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import median

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
BACKBONE = "resnet18"
IMAGE_SIZE_PX, CLASSES = 64, 10
TRIED_EPOCHS = 3


@dataclass(frozen=True)
class Job:
    """The channels of a training, and its arguments without --epochs and --debug."""

    folder: Path
    arguments: list[str]


def main() -> None:
    """Measures and prints a table."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as directory:
        job = prepared_job(Path(directory), arguments)
        epochs = epochs_for(job, arguments.seconds)
        off, on = [], []
        for repetition in range(1, arguments.repeat + 1):
            off.append(run(job, epochs, debug=False))
            on.append(run(job, epochs, debug=True))
            print(f"{repetition}. off {off[-1]:.1f} s, on {on[-1]:.1f} s: {on[-1] / off[-1] - 1:+.1%}", flush=True)
        issues = sorted(verdicts(job))
    steps = epochs * -(-arguments.images // arguments.batch_size)
    print(
        f"{steps} steps of {1000 * median(off) / steps:.1f} ms, {epochs} epochs; median: off {median(off):.1f} s, "
        f"on {median(on):.1f} s, overhead {median(on) / median(off) - 1:+.1%}"
    )
    print(f"Rules judged: {len(issues)} ({', '.join(issues)})")


def prepared_job(folder: Path, arguments: argparse.Namespace) -> Job:
    """Embeddings, manifest and weights of a made-up data set whose classes can be told apart, mostly."""
    generator = np.random.default_rng(0)
    counts = {"train": arguments.images, "validation": max(CLASSES, arguments.images // 5), "test": CLASSES}
    weights_sha256, features = write_weights(folder / "weights")
    centres = generator.normal(0, 0.2, (CLASSES, features))
    (folder / "embeddings").mkdir()
    for split in ("train", "validation"):
        labels = np.arange(counts[split]) % CLASSES
        embeddings = np.abs(centres[labels] + generator.normal(0, 1, (counts[split], features)))
        np.save(folder / "embeddings" / f"{split}-000000.npy", embeddings[:, None].astype(np.float16))
        np.save(folder / "embeddings" / f"{split}_labels.npy", labels.astype(np.int64))
    classes = [f"class {index}" for index in range(CLASSES)]
    document = {
        "classes": classes,
        "counts": {split: dict(zip(classes, shares(count), strict=True)) for split, count in counts.items()},
        "preprocess": {"image_size": IMAGE_SIZE_PX},
        "backbone": {"name": BACKBONE, "feature_dim": features, "weights_sha256": weights_sha256},
        "dataset_sha256": "0" * 64,
    }
    (folder / "manifest").mkdir()
    (folder / "manifest" / "manifest.json").write_text(json.dumps(document))
    values = {"batch_size": arguments.batch_size, "hidden_units": arguments.hidden_units, "lr": 0.001}
    return Job(folder, [text for name, value in values.items() for text in (f"--{name}", str(value))])


def shares(count: int) -> list[int]:
    """Images of each class."""
    return [len(range(index, count, CLASSES)) for index in range(CLASSES)]


def write_weights(folder: Path) -> tuple[str, int]:
    """Random weights in the form of the weights channel: their sha256, and how many features they give."""
    sys.path.insert(0, str(REPOSITORY / "steps"))
    import timm
    import torch

    folder.mkdir()
    file = folder / "weights.pth"
    torch.save(timm.create_model(BACKBONE, pretrained=False).state_dict(), file)
    digest = sha256(file.read_bytes()).hexdigest()
    described = {"backbone": BACKBONE, "file": file.name, "sha256": digest, "format": "state_dict"}
    (folder / "weights.json").write_text(json.dumps({**described, "mean": [0.5] * 3, "std": [0.5] * 3}))
    from classifier.model.backbone import load_backbone

    return digest, load_backbone(BACKBONE, folder).feature_dim


def epochs_for(job: Job, seconds: float) -> int:
    """How many epochs take about so long, told from two short trainings."""
    short, longer = (run(job, epochs, debug=False) for epochs in (TRIED_EPOCHS, 4 * TRIED_EPOCHS))
    per_epoch = (longer - short) / (3 * TRIED_EPOCHS)
    return max(TRIED_EPOCHS, round((seconds - short) / per_epoch) + TRIED_EPOCHS)


def run(job: Job, epochs: int, *, debug: bool) -> float:
    """Wall seconds of one training."""
    output = job.folder / ("on" if debug else "off") / str(time.time_ns())
    rules = json.dumps(configured_rules())
    command = [sys.executable, str(REPOSITORY / "steps" / "train.py"), *job.arguments, "--epochs", str(epochs)]
    command += ["--debug", str(debug), "--debug_rules", rules]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SM_")},
        **{f"SM_CHANNEL_{name.upper()}": str(job.folder / name) for name in ("embeddings", "manifest", "weights")},
        "SM_MODEL_DIR": str(output / "model"),
        "SM_OUTPUT_DATA_DIR": str(output / "data"),
    }
    began = time.perf_counter()
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    if ended.returncode:
        sys.exit(f"The training failed: {ended.stderr.strip()}")
    (job.folder / ("on.txt" if debug else "off.txt")).write_text(ended.stdout)
    return took


def configured_rules() -> dict[str, object]:
    """The rules of pipeline.yaml."""
    sys.path.insert(0, str(REPOSITORY))
    from pipeline.config.config import load

    return dict(load(REPOSITORY / "pipeline.yaml").debug.rules)


def verdicts(job: Job) -> list[str]:
    """What the rules said in the last training that was watched."""
    return re.findall(r"\brule_(\w+=\d)", (job.folder / "on.txt").read_text())


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of one training without the debugger (60)")
    parser.add_argument("--repeat", type=int, default=3, help="trainings each way (3)")
    parser.add_argument("--images", type=int, default=4000, help="training images (4000)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--hidden-units", type=int, default=512)
    return parser.parse_args()


if __name__ == "__main__":
    main()
