"""Test accuracy of the whole pipeline, search included, beside plain classifiers on the same embeddings.

    python benchmarks/against_plain.py                           the digits
    python benchmarks/against_plain.py --data FOLDER             your own images: class folders or split folders
    python benchmarks/against_plain.py --data FOLDER --splits 3  cut three times, where the folders leave that open
    python benchmarks/against_plain.py --data FOLDER --finetune all
    python benchmarks/against_plain.py --set model.dropout=0.4 --set data.augmented_views=5

Every seed is that of the search and of the final training; the split stays the same, so the spread over seeds tells
how much depends on chance. Images are prepared once for each split. The plain models, which the search is not among,
learn from the training split, with settings chosen by cross-validation there; the pipeline learns from the validation
split, too, unless it fine-tunes. Choose settings by validation accuracy: test is for the last look.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import fmean, stdev

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

from plain_models import plain_accuracies  # noqa: E402
from whole_runs import Run, add_settings, check_least, runs  # noqa: E402

from pipeline.service import sources  # noqa: E402

COLUMNS = ("validation", "test", "search s", "training s", "run s")


def main() -> None:
    """Measures and prints."""
    arguments = parse_arguments()
    settings = dict(arguments.settings)
    if arguments.finetune:
        settings["model.finetune"] = arguments.finetune
    ours, spreads, plain = list[float](), list[float](), dict[str, list[float]]()
    with tempfile.TemporaryDirectory(prefix="against-plain-") as folder:
        data = arguments.data or Path(folder, "digits")
        if arguments.data is None:
            sources.write_digits(data)
        print("split seed  " + "".join(f"{column:>12}" for column in COLUMNS), flush=True)
        for split in range(arguments.splits):
            (place := Path(folder, str(split))).mkdir()
            with runs(place, {"data.split_seed": split, **settings} if arguments.splits > 1 else settings) as found:
                rows = []
                for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                    rows.append(row(found.run(data, tuning__seed=seed, training__seed=seed)))
                    print_row(f"{split:5} {seed:4}", rows[-1])
                for name, accuracy in plain_accuracies(found.embeddings).items():
                    plain.setdefault(name, []).append(accuracy)
                columns = list(zip(*rows, strict=True))
                print_row("       mean", [fmean(column) for column in columns])
                ours.append(fmean(columns[1]))
                if len(rows) > 1:
                    spreads.append(stdev(columns[1]))
                    print_row("     spread", [stdev(column) for column in columns])
                print(f"            test: {found.worth('test', ours[-1])}, of one seed", flush=True)
    print(
        f"\n{'test accuracy':24}{'mean':>8}" + "".join(f"{f'split {split}':>10}" for split in range(arguments.splits))
    )
    for name, accuracies in {"the pipeline": ours, **plain}.items():
        print(f"{name:24}{fmean(accuracies):8.4f}" + "".join(f"{accuracy:10.4f}" for accuracy in accuracies))
    best = max(plain, key=lambda name: fmean(plain[name]))
    lead = 100 * (fmean(ours) - fmean(plain[best]))
    print(f"{lead:+.1f} points over the best plain model, {best}", end="")
    print(f"; deviation over seeds {100 * fmean(spreads):.1f} points" if spreads else "")


def row(run: Run) -> list[float]:
    """The figures of one run."""
    times = [run.seconds_of("TuneHyperparameters"), run.seconds_of("TrainWithDebugger"), run.seconds]
    return [run.validation_accuracy, run.test_accuracy, *times]


def print_row(name: str, figures: list[float]) -> None:
    accuracies, times = figures[:2], figures[2:]
    cells = [f"{accuracy:12.4f}" for accuracy in accuracies] + [f"{seconds:12.1f}" for seconds in times]
    print(f"{name:12}" + "".join(cells), flush=True)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, metavar="FOLDER", help="default: the digits")
    parser.add_argument("--finetune", default=None, metavar="none|last_block|all", help="model.finetune")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="so many (default 3)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="the others follow it (default 0)")
    parser.add_argument(
        "--splits", type=int, default=1, metavar="N", help="so many, data.split_seed from 0 (default 1)"
    )
    add_settings(parser)
    arguments = parser.parse_args()
    check_least(parser, arguments, seeds=1, first_seed=0, splits=1)
    return arguments


if __name__ == "__main__":
    main()
