"""Accuracy of the whole pipeline, search included, over several seeds.

    python benchmarks/accuracy.py                           the sample
    python benchmarks/accuracy.py --data FOLDER             your own images: class folders or split folders
    python benchmarks/accuracy.py --data FOLDER --finetune all
    python benchmarks/accuracy.py --set model.dropout=0.4 --set data.augmented_views=5

Every seed is that of the search and of the final training; the split stays the same, so the spread tells how much
depends on the seed, and the interval at the end how much on the images. Images are prepared once. Choose settings by
validation accuracy: test is for the last look. The last line is what logistic regression reaches on the same
embeddings.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import fmean, stdev

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

from plain_regression import regression  # noqa: E402
from whole_runs import Run, add_settings, check_least, runs  # noqa: E402

from pipeline import sources  # noqa: E402

COLUMNS = ("validation", "test", "search s", "training s", "run s")


def main() -> None:
    """Measures and prints."""
    arguments = parse_arguments()
    settings = dict(arguments.settings)
    if arguments.finetune:
        settings["model.finetune"] = arguments.finetune
    with tempfile.TemporaryDirectory(prefix="accuracy-") as folder, runs(Path(folder), settings) as found:
        data = arguments.data or Path(folder, "sample")
        if arguments.data is None:
            sources.write_sample(data)
        print("seed   " + "".join(f"{column:>12}" for column in COLUMNS), flush=True)
        rows = []
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            rows.append(row(found.run(data, tuning__seed=seed, training__seed=seed)))
            print_row(str(seed), rows[-1])
        plain = regression(found.embeddings)
        validation, test = (fmean(row[number] for row in rows) for number in (0, 1))
        worth = [found.worth("validation", validation) + ", selected on", found.worth("test", test)]
    columns = list(zip(*rows, strict=True))
    print_row("mean", [fmean(column) for column in columns])
    if len(rows) > 1:
        print_row("spread", [stdev(column) for column in columns])
    print_row("plain", [plain.validation_accuracy, plain.test_accuracy])
    print(f"mean: validation {worth[0]}; test {worth[1]}, of one seed")
    print(f"plain: logistic regression on the embeddings, C={plain.inverse_penalty:g} chosen by validation accuracy")


def row(run: Run) -> list[float]:
    """The figures of one run."""
    times = [run.seconds_of("TuneHyperparameters"), run.seconds_of("TrainWithDebugger"), run.seconds]
    return [run.validation_accuracy, run.test_accuracy, *times]


def print_row(name: str, figures: list[float]) -> None:
    accuracies, times = figures[:2], figures[2:]
    cells = [f"{accuracy:12.4f}" for accuracy in accuracies] + [f"{seconds:12.1f}" for seconds in times]
    print(f"{name:7}" + "".join(cells), flush=True)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, metavar="FOLDER", help="default: the sample")
    parser.add_argument("--finetune", default=None, metavar="none|last_block|all", help="model.finetune")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="so many (default 3)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="the others follow it (default 0)")
    add_settings(parser)
    arguments = parser.parse_args()
    check_least(parser, arguments, seeds=1, first_seed=0)
    return arguments


if __name__ == "__main__":
    main()
