"""What bursts and copies do to a test split: how many cross it, and by how much its accuracy is too high.

    python benchmarks/leak.py --data FOLDER                  class folders
    python benchmarks/leak.py --data FOLDER --images 1000 --seeds 10

A share of the images gets two companions, as a burst or an import has them: resized, cropped a little, brighter or
darker, turned a little, compressed again. Then the data set is split twice, as PrepareData does it with
`data.near_duplicates` false and true, and logistic regression and the nearest neighbour are trained and tested on
embeddings of each. The leak is the number of injected pairs with one image in test and the other not. The optimism
is the difference of the two accuracies; beside it stands the accuracy on test images with a companion in training.
Intervals are 95 % over seeds (Student's t), each seed with other companions and another split.
"""

import argparse
import io
import random
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image, ImageEnhance
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "steps")]

import prepare  # noqa: E402
from classifier.data.annotations import joined  # noqa: E402
from classifier.data.split import assign_splits  # noqa: E402
from classifier.model.backbone import load_backbone, read_weights  # noqa: E402
from classifier.preparation.embedding import Embedder, EmbeddingCache, choose_recipe  # noqa: E402
from classifier.preparation.near_duplicates import connected, embed_small, find_pairs, small_embedder  # noqa: E402
from pipeline.service import weights  # noqa: E402

FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}
COMPANIONS = 2
METHODS = {
    "logistic regression": lambda: make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200)),
    "nearest neighbour": lambda: KNeighborsClassifier(1, metric="cosine"),
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="class folders")
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="at most, drawn at random (1000)")
    parser.add_argument("--share", type=float, default=0.3, help="of the images that get companions (0.3)")
    parser.add_argument("--seeds", type=int, default=5, metavar="N")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", metavar="NAME")
    parser.add_argument("--weights", default="package", metavar="SOURCE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="leak-") as folder:
        measure(arguments, Path(folder))


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Every seed, then the figures."""
    weights.stage(weights.resolve(arguments.backbone, arguments.weights), folder / "weights")
    root = folder / "data"
    root.mkdir()
    options = options_of(arguments, root, folder)
    files = sorted(path for path in arguments.data.glob("*/**/*") if path.is_file())
    random.Random(0).shuffle(files)
    for file in files[: arguments.images]:
        place = root / file.relative_to(arguments.data)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file.resolve())
    rows = [run(seed, arguments.share, root, folder, options) for seed in range(arguments.seeds)]
    print(f"{arguments.data.name}, {rows[0]['images']:.0f} images, {arguments.seeds} seeds; mean and 95 % interval")
    for name in rows[0]:
        if name != "images":
            print(f"{name:62s} {interval([row[name] for row in rows])}")


def options_of(arguments: argparse.Namespace, root: Path, folder: Path) -> argparse.Namespace:
    """PrepareData's options."""
    words = ["prepare.py", "--data-dir", root, "--weights-dir", folder / "weights", "--output-dir", folder / "output"]
    sys.argv = [*map(str, words), "--backbone", arguments.backbone, "--min-images-per-class", "3"]
    return prepare.parse_arguments()


def run(seed: int, share: float, root: Path, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Companions of one seed, both splits, and what was found."""
    pairs = inject(root, share, random.Random(seed))
    images, _ = prepare.select_images(root, options)
    read = read_weights(options.weights_dir)
    recipe, features = choose_recipe(images, read, options), []
    backbone = load_backbone(options.backbone, options.weights_dir, recipe.preprocess.image_size)
    small = small_embedder(options.backbone, options.weights_dir, recipe)
    for embedder in (small, Embedder(backbone, replace(recipe, augmented_views=0))):
        cache = EmbeddingCache(folder / "cache", folder / "cache", embedder, read)
        features.append(embed_small(images, root, embedder, cache))
    images = images.assign(row=range(len(images)), earlier=None, group=range(len(images)))
    burst = images["path"].map(pairs).fillna(images["path"])
    found, *_ = find_pairs(features[0], images["label"].to_numpy())
    grouped = images.assign(group=joined(images["group"], connected(found, images.index)))
    result: dict[str, float] = {"images": len(images), "images in groups that were found": len(np.unique(found))}
    own = burst.to_numpy()[found]
    result["found pairs that were not injected"] = int((own[:, 0] != own[:, 1]).sum())
    accuracies: dict[str, dict[str, float]] = {}
    for name, unsplit in (("images dealt alone", images), ("near-duplicates grouped", grouped)):
        split = assign_splits(unsplit, list(map(str, range(1000))), FRACTIONS, seed, ()).set_index("row")["split"]
        split = split.sort_index().to_numpy()
        is_leaked, leaks = leaked(burst.to_numpy(), split)
        result[f"leak, {name}"] = leaks
        accuracies[name] = scores(features[1], images["label"].to_numpy(), split, is_leaked)
        result |= {f"{method}, {name}": value for method, value in accuracies[name].items()}
    for method in METHODS:
        alone, together = (accuracies[name][method] for name in accuracies)
        result[f"optimism, {method}"] = alone - together
    remove_companions(root)
    return result


def inject(root: Path, share: float, draw: random.Random) -> dict[str, str]:
    """Write companions beside a share of the images; path -> the image that it belongs to."""
    files, pairs = sorted(path for path in root.glob("*/**/*") if path.is_file()), {}
    for file in draw.sample(files, round(share * len(files))):
        with Image.open(file) as opened:
            image = opened.convert("RGBA")
        flat = Image.new("RGBA", image.size, "white")
        flat.alpha_composite(image)
        for number in range(COMPANIONS):
            place = file.with_name(f"companion-{number}-{file.stem}.jpg")
            place.write_bytes(companion(flat.convert("RGB"), draw))
            pairs[str(place.relative_to(root))] = str(file.relative_to(root))
    return pairs


def companion(image: Image.Image, draw: random.Random) -> bytes:
    """An image as the next of a burst, or another program, has it."""
    (width, height), cut, scale = image.size, draw.uniform(0, 0.05), draw.uniform(0.5, 1)
    left, top = (draw.uniform(0, cut) * side for side in (width, height))
    right, bottom = left + (1 - cut) * width, top + (1 - cut) * height
    if draw.random() < 0.5:
        image = image.rotate(draw.uniform(-2, 2), Image.Resampling.BICUBIC, fillcolor=image.getpixel((0, 0)))
    size = (max(8, round(scale * width)), max(8, round(scale * height)))
    image = image.resize(size, Image.Resampling.BICUBIC, (left, top, right, bottom))
    written = io.BytesIO()
    ImageEnhance.Brightness(image).enhance(draw.uniform(0.9, 1.1)).save(written, "JPEG", quality=draw.randint(60, 90))
    return written.getvalue()


def remove_companions(root: Path) -> None:
    """What `inject` wrote."""
    for path in root.glob("*/**/companion-*.jpg"):
        path.unlink()


def leaked(bursts: npt.NDArray[np.object_], split: npt.NDArray[np.object_]) -> tuple[npt.NDArray[np.bool_], int]:
    """Which test images have a companion in train, and how many pairs lie in test and elsewhere."""
    table = pd.crosstab(pd.Series(bursts), pd.Series(split)).reindex(columns=list(FRACTIONS), fill_value=0)
    in_train = pd.Series(bursts).map(table["train"]).to_numpy() > 0
    return in_train & (split == "test"), int((table["test"] * (table["train"] + table["validation"])).sum())


def scores(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    split: npt.NDArray[np.object_],
    is_leaked: npt.NDArray[np.bool_],
) -> dict[str, float]:
    """Test accuracy of each method; of leaked and of other test images, too, where some are leaked."""
    train, test, found = split == "train", split == "test", dict[str, float]()
    for name, make in METHODS.items():
        right = make().fit(features[train], labels[train]).predict(features) == labels
        found[name] = float(right[test].mean())
        if is_leaked[test].sum() > 10:
            found[f"{name} on leaked test images"] = float(right[is_leaked].mean())
            found[f"{name} on the others"] = float(right[test & ~is_leaked].mean())
    return found


def interval(values: list[float]) -> str:
    """Mean and half the width of its interval."""
    mean, count = statistics.fmean(values), len(values)
    half = student.ppf(0.975, count - 1) * statistics.stdev(values) / count**0.5 if count > 1 else float("nan")
    return f"{mean:8.3f} +- {half:.3f}"


if __name__ == "__main__":
    main()
