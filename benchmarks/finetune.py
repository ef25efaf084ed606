"""Fine-tuning against the bare limit: the same network's forward and backward pass on tensors that are in memory.

    python benchmarks/finetune.py                           the digits
    python benchmarks/finetune.py --data FOLDER             your own images: class folders or split folders
    python benchmarks/finetune.py --finetune last_block --steps 40 --precision bf16

Fine-tuning is what TrainWithDebugger does in its second stage: worker processes read, decode and augment; the step
mixes, runs the network forward and backward, updates the weights and their average. The bare limit runs the network
forward and backward on one batch in memory, and does nothing else. Between the two lies fine-tuning with a batch in
memory: what it loses against that, loading costs. On a CPU that is work for the same cores. All are measured in turns,
and the best of each counts. An NVIDIA GPU is used when PyTorch sees one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "steps")]

from classifier.data.images import Preprocess  # noqa: E402
from classifier.data.prepared_images import PreparedImages  # noqa: E402
from classifier.data.training_data import load  # noqa: E402
from classifier.finetuning.fine_tuning import FineTuning  # noqa: E402
from classifier.finetuning.images import Images  # noqa: E402
from classifier.model.backbone import load_backbone  # noqa: E402
from classifier.training.head_training import HeadTraining  # noqa: E402
from classifier.training.hyperparameters import Hyperparameters, settled  # noqa: E402
from classifier.training.job import Processes  # noqa: E402
from classifier.training.loop import TrainingBatch  # noqa: E402
from pipeline.config.backbones import DEFAULT_BACKBONE  # noqa: E402
from pipeline.local.sandbox.environment import ALLOCATOR  # noqa: E402
from pipeline.service import sources, weights  # noqa: E402

ACCEPTED_SHARE = 0.9  # of what fine-tuning reaches from memory
BARE, MEMORY, OURS = "bare limit", "fine-tuning in memory", "fine-tuning"


class Silent(Processes):
    """One process that says nothing of its epochs."""

    def say(self, line: str) -> None:
        """Not here."""


def main() -> None:
    """Measures and prints."""
    if os.environ | ALLOCATOR != os.environ:  # as a job has it; read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="finetune-") as folder:
        prepared = prepare_images(arguments, Path(folder))
        stage = stage_of(arguments, prepared, Path(folder) / "weights")
        compare(stage, arguments)


def prepare_images(arguments: argparse.Namespace, folder: Path) -> Path:
    """PrepareData's output for the images, at the usual size."""
    data = arguments.data or folder / "digits"
    if arguments.data is None:
        sources.write_digits(data)
    weights.stage(weights.resolve(arguments.backbone, arguments.weights, relative_to=Path.cwd()), folder / "weights")
    words = ["--data-dir", data, "--weights-dir", folder / "weights", "--output-dir", folder / "prepared"]
    words += ["--backbone", arguments.backbone, "--augmented-views", 0, "--finetune", arguments.finetune]
    print("Preparing the images", flush=True)
    command = [sys.executable, str(REPOSITORY / "steps" / "prepare.py"), *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # its threads must be gone before loaders are forked
    return folder / "prepared"


def stage_of(arguments: argparse.Namespace, prepared: Path, weights_dir: Path) -> FineTuning:
    """The second stage as a training begins it, but for the head, which has learned nothing."""
    asked = Hyperparameters(
        finetune=arguments.finetune, finetune_batch_size=arguments.batch_size, precision=arguments.precision
    )
    data = load(prepared / "embeddings", prepared / "manifest")
    hyperparameters = settled(asked, data.manifest)
    train, validation = (PreparedImages(prepared / name, name) for name in ("train", "validation"))
    preprocess = Preprocess.from_dict(data.manifest["preprocess"])
    images = Images(train, validation, preprocess, horizontal_flip=data.manifest["horizontal_flip"])
    backbone = load_backbone(data.manifest["backbone"]["name"], weights_dir)
    stage = FineTuning(HeadTraining(data, hyperparameters), backbone, images, Silent())
    stage.set_mode("TRAIN")
    return stage


def compare(stage: FineTuning, arguments: argparse.Namespace) -> None:
    """Both, by turns."""
    batches = endless(stage)
    example = next(batches)
    run(stage, iter([example] * 2), 2, update=False)  # warm-up
    best = dict.fromkeys((BARE, MEMORY, OURS), 0.0)
    for turn in range(arguments.repeat):
        for name in list(best)[:: 1 if turn % 2 else -1]:
            source = batches if name == OURS else iter([example] * arguments.steps)
            best[name] = max(best[name], run(stage, source, arguments.steps, update=name in (MEMORY, OURS)))
    device = torch.cuda.get_device_name() if stage.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    asked = stage.hyperparameters
    print(
        f"{arguments.backbone}, {asked.finetune_image_size} px, {asked.finetune_batch_size} images a step, {device}, "
        f"torch {torch.__version__}"
    )
    for name, rate in best.items():
        print(f"{name:22} {rate:8.1f} images/s")
    fed = best[OURS] / best[MEMORY]
    verdict = "" if fed >= ACCEPTED_SHARE else "  TOO LITTLE"
    print(f"fine-tuning reaches {best[OURS] / best[BARE]:.1%} of the bare limit")
    print(f"loading leaves {fed:.1%} of what it reaches in memory, and {ACCEPTED_SHARE:.0%} is asked for{verdict}")


def endless(stage: FineTuning) -> Iterator[TrainingBatch]:
    """Whole batches, epoch after epoch."""
    epoch = 0
    while True:
        epoch += 1
        yield from (batch for batch in stage.batches(epoch, 0) if len(batch.labels) == stage.share)


def run(stage: FineTuning, source: Iterator[TrainingBatch], steps: int, *, update: bool) -> float:
    """Images a second."""
    synchronise(stage)
    began = time.perf_counter()
    for batch in islice(source, steps):
        loss, _ = stage.forward(batch)
        if update:
            loss.item()
        loss.backward()
        if update:
            stage.optimizer.step()
            stage.updated()
        else:
            for parameter in stage.body.parameters():
                parameter.grad = None
    synchronise(stage)
    return steps * stage.share / (time.perf_counter() - began)


def synchronise(stage: FineTuning) -> None:
    """Wait for the GPU."""
    if stage.device.type == "cuda":
        torch.cuda.synchronize()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, metavar="FOLDER")
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE)
    parser.add_argument("--weights", default="package", metavar="package|timm|FILE")
    parser.add_argument("--finetune", choices=("last_block", "all"), default="all")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--steps", type=int, default=16, help="of one measurement")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each")
    return parser.parse_args()


if __name__ == "__main__":
    main()
