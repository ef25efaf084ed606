"""The pipeline against the usual notebook (seed_method.py): the same images, split and backbone, in one run.

    python benchmarks/vs_seed.py                                the digits
    python benchmarks/vs_seed.py --data FOLDER --images 400     so many of your own images, a few minutes
    python benchmarks/vs_seed.py --data FOLDER                  all of them
    python benchmarks/vs_seed.py --backbone resnet18 --weights weights.pth

Each makes a search of four trials, a final training and an evaluation on the test split. Ours is the whole
`run_pipeline.py run` on this machine in an empty home, so nothing is reused: processes, embeddings, debugger, model
package and endpoint count. The notebook's method runs in one process, after it, on the split that it wrote. One more
trial is the mean of the notebook's four, and of ours a fifth of what five more add to the search.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "steps")]

from seed_method import Example, Outcome, SeedMethod, Settings  # noqa: E402
from whole_runs import missed, runs  # noqa: E402

from classifier.data.dataset import list_files  # noqa: E402
from classifier.model.accuracy import accuracy_text  # noqa: E402
from classifier.model.backbone import load_backbone, read_weights  # noqa: E402
from pipeline.config.backbones import DEFAULT_BACKBONE  # noqa: E402
from pipeline.service import sources, weights  # noqa: E402

SEARCH = "TuneHyperparameters"
TRIALS = 4
MORE_TRIALS = 5
LEAST_SPEED_UP = 10
LARGEST_TRIAL_SHARE = 0.02


@dataclass(frozen=True)
class Ours:
    """What the pipeline took and gave; times in seconds."""

    outcome: Outcome
    trial_seconds: float
    splits: dict[str, list[Example]]
    manifest: dict[str, Any]


def main() -> None:
    """Measures and prints."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="vs-seed-") as folder:
        scratch = Path(folder)
        data = chosen_images(arguments, scratch)
        ours = run_ours(arguments, data, scratch)
        size = arguments.seed_image_size or ours.manifest["preprocess"]["image_size"]
        seeds = run_seeds(arguments, ours, scratch, size)
    sizes = f"{ours.manifest['preprocess']['image_size']} px"
    counts = ", ".join(f"{len(examples):,} {split}" for split, examples in ours.splits.items())
    print(f"{arguments.backbone}, {len(ours.manifest['classes'])} classes, images: {counts}; {os.cpu_count()} cores")
    report(seeds, ours, size, sizes)


def report(seeds: Outcome, ours: Ours, seed_size: int, sizes: str) -> None:
    """A table with what is aimed at."""
    trial, ours_trial = fmean(seeds.trial_seconds), ours.trial_seconds
    speed_up, share = seeds.seconds / ours.outcome.seconds, ours_trial / trial
    better = ours.outcome.test_accuracy >= seeds.test_accuracy
    rows = [
        ("", "notebook", "pipeline", "", "aimed at"),
        ("images seen at", f"{seed_size} px", sizes, "", ""),
        (
            "wall time in all",
            f"{seeds.seconds:.1f} s",
            f"{ours.outcome.seconds:.1f} s",
            f"{speed_up:.1f} times",
            f"at least {LEAST_SPEED_UP} times" + missed(speed_up >= LEAST_SPEED_UP),
        ),
        (
            "processor time in all",
            f"{seeds.processor_seconds:.1f} s",
            f"{ours.outcome.processor_seconds:.1f} s",
            f"{seeds.processor_seconds / ours.outcome.processor_seconds:.1f} times",
            "",
        ),
        (
            "one more trial",
            f"{trial:.2f} s",
            f"{ours_trial:.2f} s",
            f"{share:.1%}",
            f"at most {LARGEST_TRIAL_SHARE:.0%}" + missed(share <= LARGEST_TRIAL_SHARE),
        ),
        (
            "validation (selected)",
            f"{seeds.validation_accuracy:.4f}",
            f"{ours.outcome.validation_accuracy:.4f}",
            "",
            "",
        ),
        (
            "test accuracy",
            f"{seeds.test_accuracy:.4f}",
            f"{ours.outcome.test_accuracy:.4f}",
            f"{ours.outcome.test_accuracy - seeds.test_accuracy:+.4f}",
            "at least the notebook's" + missed(better),
        ),
    ]
    images = sum(ours.manifest["counts"]["test"].values())
    for name, found in (("notebook", seeds), ("pipeline", ours.outcome)):
        print(f"{name}: test accuracy {accuracy_text(found.test_accuracy, images)}")
    for name, *columns, goal in rows:
        print(f"{name:23}" + "".join(f"{column:>13}" for column in columns) + f"    {goal}".rstrip())


def chosen_images(arguments: argparse.Namespace, scratch: Path) -> Path:
    """The data set, or as much of it as is asked for, evenly from all of it; given splits stay."""
    data = arguments.data or scratch / "digits"
    if arguments.data is None:
        sources.write_digits(data)
    if arguments.images is None:
        return Path(data)
    files, fewer = sorted(list_files(data)[1]["path"]), scratch / "images"
    count = min(arguments.images, len(files))
    for number in range(count):
        file = files[number * len(files) // count]
        (fewer / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data / file, fewer / file)
    return fewer


def run_ours(arguments: argparse.Namespace, data: Path, scratch: Path) -> Ours:
    """The whole pipeline, and its search again with more trials."""
    given = Path(arguments.weights)
    settings = {
        "model.backbone": arguments.backbone,
        "model.weights": str(given.resolve()) if given.is_file() else arguments.weights,
    }
    with runs(scratch, settings) as ours:
        first = ours.run(data, f"MaxTuningJobs={TRIALS}")
        more = ours.run(data, f"MaxTuningJobs={TRIALS + MORE_TRIALS}")
        manifest = ours.manifest  # gone with the block, as all of the home
        splits = {split: ours.examples(data, split) for split in ("train", "validation", "test")}
        outcome = Outcome(first.seconds, first.processor_seconds, [], first.validation_accuracy, first.test_accuracy)
    return Ours(outcome, (more.seconds_of(SEARCH) - first.seconds_of(SEARCH)) / MORE_TRIALS, splits, manifest)


def run_seeds(arguments: argparse.Namespace, ours: Ours, scratch: Path, size: int) -> Outcome:
    """The notebook's method on the same split, with the same weights."""
    began = time.perf_counter()
    folder = scratch / "weights"
    weights.stage(weights.resolve(arguments.backbone, arguments.weights, relative_to=Path.cwd()), folder)
    staged = read_weights(folder)
    settings = Settings(
        classes=len(ours.manifest["classes"]),
        image_size=size,
        mean=staged.mean,
        std=staged.std,
        trials=TRIALS,
        seed=arguments.seed,
        workers=os.cpu_count() or 1,
        channels_last=arguments.channels_last,
    )
    body = load_backbone(arguments.backbone, folder).network
    loaded = time.perf_counter() - began
    found = SeedMethod(body, ours.splits, settings).run()
    return Outcome(
        found.seconds + loaded,
        found.processor_seconds,
        found.trial_seconds,
        found.validation_accuracy,
        found.test_accuracy,
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, metavar="FOLDER", help="default: the digits")
    parser.add_argument("--images", type=int, default=None, metavar="N", help="so many of the data set (default: all)")
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE, metavar="NAME", help="timm's name")
    parser.add_argument("--weights", default="package", help="as model.weights in pipeline.yaml")
    parser.add_argument(
        "--seed-image-size", type=int, default=None, metavar="PX", help="the notebook's; default: the pipeline's own"
    )
    parser.add_argument("--channels-last", action="store_true", help="the notebook's network in that memory format")
    parser.add_argument("--seed", type=int, default=0, help="of the notebook's search and heads")
    return parser.parse_args()


if __name__ == "__main__":
    main()
