"""Which backbone: what plain logistic regression on its embeddings reaches, and what it costs.

    python benchmarks/backbones.py                                      packaged backbones on the digits
    python benchmarks/backbones.py --data FOLDER --data FOLDER          your own images: class folders
    python benchmarks/backbones.py --data FOLDER --backbones tf_efficientnet_lite2 --image-size 288

PrepareData embeds each set with each backbone. The plain views of all images then go through repeated stratified
five-fold cross-validation of a regression whose penalty is the same for all: no split is singled out, and nothing is
chosen by what it reaches. Each accuracy has its 95 % interval over images; the difference to the first backbone is
taken image by image, which is what tells whether two backbones differ. Beside that: PrepareData's processor seconds,
and what the exported network takes for one image on one core, in the runtime that an endpoint would choose.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "steps"), str(REPOSITORY / "benchmarks")]

from serving_model import CLASSES, eager_parts, make_sure  # noqa: E402 - found by the line above

from classifier.data.images import Preprocess  # noqa: E402
from classifier.data.training_data import open_embeddings  # noqa: E402
from classifier.model.export import export_network  # noqa: E402
from classifier.model.runtimes import MEASUREMENT_FILE  # noqa: E402
from pipeline.config.backbones import DEFAULT_BACKBONE, PACKAGED  # noqa: E402
from pipeline.service import sources, weights  # noqa: E402

INVERSE_PENALTY = 0.01  # scikit-learn's C, of standardised features
FOLDS, REPEATS = 5, 3
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Measured:
    """One backbone on one set."""

    image_size: int
    hits: npt.NDArray[np.float64]  # (N,) share of the repeats in which an image was classified rightly
    prepare_seconds: float  # of processors
    milliseconds: float  # one image, one core


def main() -> None:
    """Measures and prints."""
    arguments = parse_arguments()
    print(
        f"{'set':<14}{'backbone':<28}{'px':>5}{'images':>8}{'accuracy':>18}{'to the first':>18}"
        f"{'prepare s':>11}{'ms':>7}"
    )
    with tempfile.TemporaryDirectory(prefix="backbones-") as folder:
        if not arguments.data:
            sources.write_digits(Path(folder, "digits"))
        for number, data in enumerate(arguments.data or [Path(folder, "digits")]):
            first = None
            for backbone in arguments.backbones:
                found = measured(data, backbone, arguments.image_size, Path(folder, f"{number}-{backbone}"))
                first = first or found
                gain = "" if found is first else interval(found.hits - first.hits, signed=True)
                print(
                    f"{data.name[:13]:<14}{backbone[:27]:<28}{found.image_size:>5}{len(found.hits):>8}"
                    f"{interval(found.hits):>18}{gain:>18}{found.prepare_seconds:>11.1f}{found.milliseconds:>7.1f}",
                    flush=True,
                )


def measured(data: Path, backbone: str, image_size: str, folder: Path) -> Measured:
    """Prepare, classify, export."""
    source = "package" if backbone in PACKAGED else "timm"
    weights.stage(weights.resolve(backbone, source, relative_to=Path.cwd()), folder / "weights")
    words = [sys.executable, REPOSITORY / "steps" / "prepare.py", "--data-dir", data, "--output-dir", folder]
    words += ["--weights-dir", folder / "weights", "--backbone", backbone, "--image-size", image_size]
    before = children_seconds()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    seconds = children_seconds() - before
    preprocess = Preprocess.from_dict(json.loads((folder / "manifest/manifest.json").read_text())["preprocess"])
    splits = ("train", "validation", "test")
    features = np.concatenate([open_embeddings(folder / "embeddings", split)[:, 0] for split in splits])
    labels = np.concatenate([np.load(folder / "embeddings" / f"{split}_labels.npy") for split in splits])
    hits = cross_validated(features.astype(np.float32), labels)
    return Measured(preprocess.image_size, hits, seconds, one_image_milliseconds(backbone, preprocess, folder))


def children_seconds() -> float:
    """Processor time of the processes that have been waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cross_validated(features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """How often each image is classified rightly by regressions that have not seen it: (N, D), (N,) -> (N,)."""
    hits = np.zeros(len(labels))
    for repeat in range(REPEATS):
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=repeat)
        for train, test in folds.split(features, labels):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_PENALTY, max_iter=150, tol=1e-3))
            model.fit(features[train], labels[train])
            hits[test] += model.predict(features[test]) == labels[test]
    return hits / REPEATS


def one_image_milliseconds(backbone: str, preprocess: Preprocess, folder: Path) -> float:
    """Of the quickest runtime that answers as the network does, on one core."""
    network, head = eager_parts(backbone, CLASSES)
    make_sure(network, head, preprocess)
    (folder / "model").mkdir()
    export_network(network, head, preprocess, folder / "model")
    return min(json.loads((folder / "model" / MEASUREMENT_FILE).read_text())["milliseconds"].values())


def interval(values: npt.NDArray[np.float64], *, signed: bool = False) -> str:
    """Mean and half of the 95 % interval, in points."""
    half = 100 * NORMAL_95 * values.std() / len(values) ** 0.5
    return f"{100 * values.mean():{'+' if signed else ''}.1f} +- {half:.1f}"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", metavar="FOLDER", help="repeatable; default: the digits")
    smaller = [name for name in PACKAGED if name != DEFAULT_BACKBONE]
    parser.add_argument("--backbones", nargs="+", default=[DEFAULT_BACKBONE, *smaller], metavar="NAME")
    parser.add_argument("--image-size", default="auto", metavar="auto|PX", help="as data.image_size_px")
    return parser.parse_args()


if __name__ == "__main__":
    main()
