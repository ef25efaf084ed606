"""Whether what is promised of unsure answers holds on images kept aside: `abstaining.py EMBEDDINGS...`.

Each folder holds the embeddings that PrepareData wrote, and each is a row. Logistic regression learns from half of its
images. The others are cut into validation (15 % of all), where temperature, operating threshold and sets come from, and
test, many times; fits and cuts are random. Of each fit's cuts the mean counts, and the intervals are Student's at 95 %
over the fits.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "steps"))

from classifier.data.dataset import SPLITS
from classifier.data.training_data import open_embeddings
from classifier.training.abstaining import NEVER, measure, operating_point, set_threshold
from classifier.training.calibration import fit_temperature, softmax

PRECISIONS, COVERAGES = (0.9, 0.95, 0.98), (0.9, 0.95)
VALIDATION_SHARE, PENALTY = 0.15, 0.003  # of the images; scikit-learn's C, fixed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", nargs="+", type=Path)
    parser.add_argument("--fits", type=int, default=5)
    parser.add_argument("--cuts", type=int, default=40, help="of each fit's unseen images")
    options = parser.parse_args()
    for folder in options.embeddings:
        found = [fit(*examples(folder), seed, options.cuts) for seed in range(options.fits)]
        print(f"{folder}: accuracy {interval([one['accuracy'] for one in found])} %")
        print("wanted | confident answers, % | of them right, % | cuts with fewer, %")
        for wanted in PRECISIONS:
            cells = (interval([one[wanted, name] for one in found]) for name in ("confident", "right", "fewer"))
            print(f"precision {wanted:g} | {' | '.join(cells)}")
        print("wanted | sets with the right label, % | labels in a set")
        for wanted in COVERAGES:
            covered, size = ([one[wanted, name] for one in found] for name in ("covered", "size"))
            print(f"coverage {wanted:g} | {interval(covered)} | {np.mean(size):.2f}")


def examples(folder: Path) -> tuple[Any, Any]:
    """Plain views (N, D) of all splits, their signed root as the head takes it, and labels (N,)."""
    plain = np.concatenate([open_embeddings(folder, split)[:, 0] for split in SPLITS]).astype(np.float32)
    labels = np.concatenate([np.load(folder / f"{split}_labels.npy") for split in SPLITS])
    return np.sign(plain) * np.sqrt(np.abs(plain)), labels


def fit(features: Any, labels: Any, seed: int, cuts: int) -> dict[Any, float]:
    """Means over the cuts of one fit."""
    generator, count = np.random.default_rng(seed), len(labels)
    order = generator.permutation(count)
    learned, unseen = order[: count // 2], order[count // 2 :]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=100))
    model.fit(features[learned], labels[learned])
    logits, truth = model.decision_function(features[unseen]), labels[unseen]
    results = []
    for _ in range(cuts):
        validation, test = np.split(generator.permutation(len(unseen)), [int(VALIDATION_SHARE * count)])
        results.append(cut(logits[validation], truth[validation], logits[test], truth[test]))
    known = {key: [result[key] for result in results if not np.isnan(result[key])] for key in results[0]}
    return {key: float(np.mean(values)) if values else np.nan for key, values in known.items()}


def cut(logits: Any, labels: Any, test_logits: Any, test_labels: Any) -> dict[Any, float]:
    """What validation promises, and what test shows."""
    temperature = fit_temperature(logits, labels)
    measured, test = measure(softmax(logits, temperature), labels), softmax(test_logits, temperature)
    right = test.argmax(axis=1) == test_labels
    found: dict[Any, float] = {"accuracy": right.mean()}
    for wanted in PRECISIONS:
        point = operating_point(measured, wanted)
        confident = test.max(axis=1) >= (point["threshold"] if point else NEVER)
        share = right[confident].mean() if confident.any() else np.nan
        found |= {(wanted, "confident"): confident.mean(), (wanted, "right"): share, (wanted, "fewer"): share < wanted}
    for wanted in COVERAGES:
        sets = test >= set_threshold(measured, wanted)
        found[wanted, "covered"] = sets[np.arange(len(test)), test_labels].mean()
        found[wanted, "size"] = sets.sum() / len(sets)
    return found


def interval(values: list[float]) -> str:
    """Mean and interval in percent; `-` where nothing was promised."""
    known = 100 * np.array([value for value in values if not np.isnan(value)])
    if not len(known):
        return "-"
    reach = stats.t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)) if len(known) > 1 else np.nan
    return f"{known.mean():.1f} ± {reach:.1f}"


if __name__ == "__main__":
    main()
