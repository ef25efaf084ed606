"""How often the drift check is wrong: false alarms on held-out images, and what it notices of changed ones.

    python run_pipeline.py run && python benchmarks/drift.py      the sample, or what the newest run here was given
    python benchmarks/drift.py --home DIR --rounds 1000

False alarms: all images' embeddings of the run are split anew, a baseline is made of most of them, and the rest is
checked, again and again: what differs is chance alone. Power: test images are changed as a camera, a lens or a pipeline
may change them, and embedded by the model's own network.
"""

import argparse
import io
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "steps")]

from classifier.data.images import Preprocess, decode, normalise, to_pixels  # noqa: E402
from classifier.data.prepared_images import PreparedImages  # noqa: E402
from classifier.data.training_data import open_embeddings  # noqa: E402
from classifier.drift.baseline import DriftBaseline, make_baseline  # noqa: E402
from classifier.drift.distance import LEAST_IMAGES, compare, most_images  # noqa: E402
from classifier.model.runtimes import OnnxRuntime, read_description  # noqa: E402

HELD_OUT = 0.15
SIZES = (30, 100, 300, 1000)

Change = Callable[[Image.Image], Image.Image]
CHANGES: dict[str, Change] = {
    "unchanged": lambda image: image,
    "JPEG of quality 30": lambda image: again(image, quality=30),
    "a third darker": lambda image: ImageEnhance.Brightness(image).enhance(0.67),
    "half the contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.5),
    "blurred, 3 % of the side": lambda image: image.filter(ImageFilter.GaussianBlur(0.03 * max(image.size))),
    "rotated by 20 degrees": lambda image: image.rotate(20),
    "inverted": ImageOps.invert,
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=REPOSITORY / ".local", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=300, metavar="N", help="splits, each checked once (300)")
    arguments = parser.parse_args()
    prepared, archive = newest(arguments.home)
    false_alarms(prepared / "embeddings", arguments.rounds)
    with tempfile.TemporaryDirectory(prefix="drift-") as folder:
        with tarfile.open(archive) as members:
            members.extractall(folder, filter="data")
        power(prepared / "test", Path(folder))


def newest(home: Path) -> tuple[Path, Path]:
    """PrepareData's outputs and the model of the newest run of a home."""
    stored = home / "s3" / "local"
    prepared = sorted(stored.glob("*/executions/*/PrepareData"), key=lambda path: path.stat().st_mtime)
    archives = sorted(
        stored.glob("*/jobs/TrainWithDebugger/**/model.tar.gz"), key=lambda path: path.stat().st_mtime
    )  # fmt: skip
    if not prepared or not archives:
        sys.exit(f"There is no run in {home}; make one with: run_pipeline.py run")
    return prepared[-1], archives[-1]


def false_alarms(folder: Path, rounds: int) -> None:
    """The share of checks that raise an alarm for nothing."""
    splits = ("train", "validation", "test")
    rows = np.concatenate([open_embeddings(folder, split)[:, :1] for split in splits])
    held_out = round(HELD_OUT * len(rows))
    alarms: dict[int, list[bool]] = {}
    for seed in range(rounds):
        generator = np.random.default_rng(seed)
        order = generator.permutation(len(rows))
        validation, rest = rows[order[:held_out]], rows[np.sort(order[2 * held_out :])]
        baseline = make_baseline(rest, validation)
        captured = baseline.coordinates(rows[order[held_out : 2 * held_out], 0].astype(np.float32))
        for size in SIZES:
            if size <= min(len(captured), most_images(baseline.reference)):
                alarms.setdefault(size, []).append(compare(captured[:size], baseline.reference).alarm)
    print(f"False alarms, {len(rows):,} images, {rounds} splits:")
    for size, found in alarms.items():
        print(f"  {size:>5} images  {sum(found):>3} of {len(found)} checks  {100 * np.mean(found):.2f} %")


def power(folder: Path, model_dir: Path) -> None:
    """The score of changed test images; above 1 is an alarm."""
    network, baseline = OnnxRuntime(model_dir, 2), DriftBaseline.load(model_dir)
    preprocess = Preprocess.from_dict(read_description(model_dir)["preprocess"])
    stored = PreparedImages(folder, "test")
    images = [decode(stored.read(row), max_pixels=10**8).convert("RGB") for row in range(len(stored))]
    generator = np.random.default_rng(0)
    sizes = [size for size in SIZES[:2] if size <= min(len(images), most_images(baseline.reference))]
    chosen = {size: generator.choice(len(images), size, replace=False) for size in sizes}
    print(f"Drift score of {' / '.join(map(str, sizes))} test images (alarm above 1, from {LEAST_IMAGES} images):")
    for name, change in CHANGES.items():
        coordinates = baseline.coordinates(embedded(network, preprocess, [change(image) for image in images]))
        scores = [compare(coordinates[rows], baseline.reference).score for rows in chosen.values()]
        print(f"  {name:<26}{'  '.join(f'{score:6.2f}' for score in scores)}")


def embedded(network: OnnxRuntime, preprocess: Preprocess, images: list[Image.Image]) -> npt.NDArray[np.float32]:
    """Features (N, D)."""
    batches = [images[start : start + 16] for start in range(0, len(images), 16)]
    found = [
        network.features(normalise(np.stack([to_pixels(image, preprocess) for image in batch]), preprocess), 2)
        for batch in batches
    ]
    return np.concatenate(found)


def again(image: Image.Image, quality: int) -> Image.Image:
    """The image after being saved as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


if __name__ == "__main__":
    main()
