"""Fine-tuning against a script of one page (plain_finetuning.py): the same images, split and backbone, in one run.

    python benchmarks/vs_plain_finetuning.py                    the digits
    python benchmarks/vs_plain_finetuning.py --data FOLDER      your own images: class folders or split folders
    python benchmarks/vs_plain_finetuning.py --data FOLDER --set finetuning.epochs=8 --set data.image_size_px=192

Ours is TrainWithDebugger of a whole run on this machine, one for each seed: the job with both of its stages, debugger,
profiler, calibration and export. The script trains and validates once, in one process, after the first of these runs,
on the split that it wrote, and from the original files.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import fmean

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "steps")]

from plain_finetuning import Settings, Trained, fine_tune  # noqa: E402
from whole_runs import Run, Runs, add_settings, check_least, missed, runs  # noqa: E402

from classifier.model.backbone import load_backbone, read_weights  # noqa: E402
from pipeline.config.backbones import DEFAULT_BACKBONE  # noqa: E402
from pipeline.service import sources, weights  # noqa: E402

LARGEST_SHARE = 0.5  # of the script's time


def main() -> None:
    """Measures and prints."""
    arguments = parse_arguments()
    settings = {**dict(arguments.settings), "model.backbone": arguments.backbone, "model.finetune": "all"}
    with tempfile.TemporaryDirectory(prefix="vs-plain-") as folder, runs(Path(folder), settings) as ours:
        data = arguments.data or Path(folder, "digits")
        if arguments.data is None:
            sources.write_digits(data)
        found = [seeded(ours, data, 0)]
        script = plain(arguments, ours, data, Path(folder, "weights"))
        print(f"script: {line(script.validation_accuracy, script.seconds)}", flush=True)
        found += [seeded(ours, data, seed) for seed in range(1, arguments.seeds)]
        report(script, found, ours)  # reads the runs' logs, which end with the folder


def seeded(ours: Runs, data: Path, seed: int) -> Run:
    """One run of the pipeline."""
    run = ours.run(data, tuning__seed=seed, training__seed=seed)
    print(f"pipeline, seed {seed}: {line(run.validation_accuracy, seconds_of(run))}", flush=True)
    return run


def report(script: Trained, found: list[Run], ours: Runs) -> None:
    """Means, and what is aimed at."""
    accuracy, seconds = fmean(run.validation_accuracy for run in found), fmean(map(seconds_of, found))
    share, gain = seconds / script.seconds, accuracy - script.validation_accuracy
    print(f"{os.cpu_count()} cores; the pipeline, mean of its seeds: {line(accuracy, seconds)}")
    print(f"validation, selected on: {ours.worth('validation', accuracy)}")
    print(f"{share:.2f} of the script's time, at most {LARGEST_SHARE} asked for{missed(share <= LARGEST_SHARE)}")
    print(f"accuracy {gain:+.4f}{missed(gain >= 0)}")


def line(accuracy: float, seconds: float) -> str:
    return f"validation accuracy {accuracy:.4f}, training {seconds:.1f} s"


def seconds_of(run: Run) -> float:
    return run.seconds_of("TrainWithDebugger")


def plain(arguments: argparse.Namespace, ours: Runs, data: Path, folder: Path) -> Trained:
    """The script, on our split, with our weights."""
    weights.stage(weights.resolve(arguments.backbone, "package", relative_to=Path.cwd()), folder)
    staged = read_weights(folder)
    deployed_size = ours.manifest["preprocess"]["image_size"]
    settings = Settings(
        classes=len(ours.manifest["classes"]),
        image_size=min(arguments.script_image_size, deployed_size),
        validation_image_size=arguments.script_validation_image_size or deployed_size,
        mean=staged.mean,
        std=staged.std,
        epochs=arguments.script_epochs,
        batch_size=arguments.script_batch_size,
        seed=0,
        workers=os.cpu_count() or 1,
        channels_last=arguments.channels_last,
    )
    body = load_backbone(arguments.backbone, folder).network
    return fine_tune(body, ours.examples(data, "train"), ours.examples(data, "validation"), settings)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, metavar="FOLDER", help="default: the digits")
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE, metavar="NAME", help="timm's name")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of the pipeline (default 1)")
    parser.add_argument("--script-epochs", type=int, default=5, metavar="N", help="the script's (default 5)")
    parser.add_argument("--script-batch-size", type=int, default=32, metavar="N", help="the script's (default 32)")
    parser.add_argument(
        "--script-image-size",
        type=int,
        default=192,
        metavar="PX",
        help="of its crops (default 192, at most ours)",
    )
    parser.add_argument(
        "--script-validation-image-size",
        type=int,
        default=None,
        metavar="PX",
        help="what its network sees in validation (default ours)",
    )
    parser.add_argument("--channels-last", action="store_true", help="the script's network in that memory format")
    add_settings(parser)
    arguments = parser.parse_args()
    check_least(
        parser,
        arguments,
        seeds=1,
        script_epochs=1,
        script_batch_size=1,
        script_image_size=1,
        script_validation_image_size=1,
    )
    return arguments


if __name__ == "__main__":
    main()
