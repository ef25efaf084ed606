"""Whether condition.max_group_gap finds a group that is harder, and leaves alone groups that are not.

    python benchmarks/groups.py                     the digits: half of the digits faint and blurred
    python benchmarks/groups.py --data FOLDER       your own images, half of them so
    python benchmarks/groups.py --only-chance       the false alarms alone, in a minute

Two runs of the whole pipeline, with the gate at --most. The attribute `light` says which images were made harder: the
run must end at ModelRefused. The attribute `coin` is random, of the same images as they are: the run must register.
Then random attributes of a few or many groups, as often as --seeds says: how often would the gate refuse a model for
them, against a gate that looks at the largest difference between groups alone?
"""

import argparse
import csv
import json
import random
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageFilter

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "steps"), str(REPOSITORY / "benchmarks")]

from whole_runs import Runs, check_least, missed, runs  # noqa: E402

from classifier.data.dataset import list_files  # noqa: E402
from classifier.evaluation.groups import LEAST_IMAGES, accuracy_by_group, largest_gap  # noqa: E402
from classifier.model.accuracy import accuracy_text, wilson  # noqa: E402
from pipeline.service import sources  # noqa: E402

GROUP_COUNTS = (2, 5, 10, 20)
TEST_IMAGES = (268, 1000, 5000)
ACCURACY = 0.9
MOST_FALSE_ALARMS = 0.05
QUICKLY = {
    "tuning.max_jobs": 1,
    "debug.enabled": False,
    "data.augmented_views": 0,
}  # what accuracy is reached is no matter


def main() -> None:
    """Measures and prints."""
    arguments = parse_arguments()
    if not arguments.only_chance:
        harder_group(arguments)
    false_alarms(arguments)


def harder_group(arguments: argparse.Namespace) -> None:
    """The pipeline on images of which half are harder, and on the same as they are with an attribute by chance."""
    with tempfile.TemporaryDirectory(prefix="groups-") as folder:
        data = arguments.data or Path(folder, "digits")
        if arguments.data is None:
            sources.write_digits(data)
        for attribute, is_harder in (("light", True), ("coin", False)):
            place = Path(folder, attribute)
            place.mkdir()
            attributes = write_images(data, place, attribute, is_harder)
            settings = {"data.attributes": str(attributes), "condition.max_group_gap": arguments.most, **QUICKLY}
            with runs(place, settings) as found:
                status = found.run(place / "images", may_fail=True).status
                tell(found, status, attribute, is_harder)


def write_images(data: Path, place: Path, attribute: str, is_harder: bool) -> Path:
    """Copy the images, each second at random faint and blurred if that is asked for; return attributes.csv."""
    generator, rows = random.Random(0), []
    for path in sorted(list_files(data)[1]["path"]):
        side = generator.choice(("heads", "tails"))
        image, target = Image.open(data / path).convert("RGB"), (place / "images" / path).with_suffix(".png")
        if is_harder and side == "tails":
            image = ImageEnhance.Contrast(image).enhance(0.15).filter(ImageFilter.GaussianBlur(max(image.size) / 12))
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target)
        value = {"heads": "bright", "tails": "faint"}[side] if is_harder else side
        rows.append((str(Path(path).with_suffix(".png")), value))
    with (place / "attributes.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("path", attribute), *rows])
    return place / "attributes.csv"


def tell(found: Runs, status: dict[str, Any], attribute: str, is_harder: bool) -> None:
    """What evaluation.json says of the groups, and whether the gate did as it should."""
    document = json.loads(next((found.home / "s3").rglob("evaluation.json")).read_text(encoding="utf-8"))
    for name, figures in document["groups"][attribute].items():
        print(f"{attribute} {name}: {accuracy_text(figures['value'], figures['images'])}")
    stopped = status["model_package_arn"] is None
    print(document["words"]["max_group_gap"])
    print(f"{'stopped by the gate' if stopped else 'registered'}{missed(stopped == is_harder)}", flush=True)


def false_alarms(arguments: argparse.Namespace) -> None:
    """How often random groups are refused, by this gate and by the largest difference alone."""
    print(f"random groups, accuracy {ACCURACY}, at most {arguments.most} apart, {arguments.seeds} seeds each:")
    print(f"{'test images':>12}{'groups':>8}{'mean of the largest':>22}{'plain gate refuses':>20}{'this gate':>26}")
    for images in TEST_IMAGES:
        for count in GROUP_COUNTS:
            if images // count < LEAST_IMAGES:
                continue
            gaps = [random_gap(images, count, seed) for seed in range(arguments.seeds)]
            plain = fmean(difference > arguments.most for difference, _ in gaps)
            gated = fmean(value > arguments.most for _, value in gaps)
            low, high = wilson(gated, len(gaps))
            said = f"{gated:.1%} ({low:.1%} to {high:.1%})" + missed(low <= MOST_FALSE_ALARMS)
            print(f"{images:12}{count:8}{fmean(found for found, _ in gaps):22.3f}{plain:20.1%}{said:>26}", flush=True)


def random_gap(images: int, count: int, seed: int) -> tuple[float, float]:
    """The largest difference between random groups, and what of it the gate looks at."""
    generator = np.random.default_rng(seed)
    attributes = pd.DataFrame({"coin": generator.integers(0, count, images).astype(str)})
    groups = accuracy_by_group(attributes, generator.random(images) < ACCURACY)
    shares = [group["value"] for group in groups["coin"].values() if group["images"] >= LEAST_IMAGES]
    gap = largest_gap(groups)
    return max(shares) - min(shares), gap.value if gap else 0.0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, metavar="FOLDER", help="default: the digits")
    parser.add_argument("--most", type=float, default=0.1, metavar="SHARE", help="condition.max_group_gap (0.1)")
    parser.add_argument("--seeds", type=int, default=400, metavar="N", help="random attributes (default 400)")
    parser.add_argument("--only-chance", action="store_true", help="no run of the pipeline")
    arguments = parser.parse_args()
    check_least(parser, arguments, seeds=1)
    return arguments


if __name__ == "__main__":
    main()
