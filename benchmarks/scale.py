"""Time per image and peak memory of PrepareData and of a trial, as the data set grows.

    python benchmarks/scale.py                       1,000, 10,000 and 100,000 images: 10 minutes, and 4 GB of disk
    python benchmarks/scale.py --sizes 1000,10000    other sizes
    python benchmarks/scale.py --plot scale.svg      the curves as a picture

Images are synthetic and tiny, all different; the network is the project's default at that size. Each size is prepared
and trained on in processes of their own, as jobs do it. Small sizes are measured several times, and the best counts.
What a few images take is start-up, and is taken off the time of the others. Memory is the most that a job's processes
had resident at any time (VmHWM in /proc, of all of them together), PyTorch's code and pages of mapped files included.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS = REPOSITORY / "steps"
sys.path.insert(0, str(REPOSITORY))

from pipeline import weights as sources  # noqa: E402

BACKBONE = "tf_efficientnet_lite0"
START_UP_IMAGES = 100
ENOUGH_IMAGES = 10_000  # smaller sizes are measured again and again, until there were so many
CLASSES = 10
IMAGE_PX = 32
VIEWS = 1  # besides the plain one
EPOCHS = 20
SECONDS_BETWEEN_SAMPLES = 0.02
ACCEPTED_RATIO = 1.2
KINDS = ("prepare", "trial")


@dataclass(frozen=True)
class Cost:
    """What one job took."""

    seconds: float
    megabytes: float  # at its peak


@dataclass(frozen=True)
class Point:
    """One size of data set, by kind of work."""

    images: int
    milliseconds: dict[str, float]  # per image; of a trial, per image and epoch
    megabytes: dict[str, float]


def main() -> None:
    """Measures, prints a table and draws."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        points = measured(Path(folder), arguments.sizes)
    show(points)
    if arguments.plot:
        arguments.plot.write_text(drawn(points))


def show(points: list[Point]) -> None:
    """The table, and the largest size against the smallest."""
    print(f"{'images':>9}" + "".join(f"{kind + ' ms/image':>20}{kind + ' MB':>14}" for kind in KINDS))
    for point in points:
        row = "".join(f"{point.milliseconds[kind]:20.3f}{point.megabytes[kind]:14.0f}" for kind in KINDS)
        print(f"{point.images:9,}{row}")
    least, most = points[0], points[-1]
    ratios = [
        (most.milliseconds[kind] / least.milliseconds[kind], most.megabytes[kind] / least.megabytes[kind])
        for kind in KINDS
    ]
    print(f"{'ratio':>9}" + "".join(f"{time_ratio:20.2f}{memory_ratio:14.2f}" for time_ratio, memory_ratio in ratios))
    verdict = "flat" if max(map(max, ratios)) <= ACCEPTED_RATIO else "not flat"
    print(f"{verdict}: {ACCEPTED_RATIO} is accepted from {least.images:,} to {most.images:,} images")


def measured(folder: Path, sizes: list[int]) -> list[Point]:
    """One point for each size."""
    staged = folder / "weights"
    sources.stage(sources.resolve(BACKBONE, "package", relative_to=folder), staged)
    start_up = best_costs(folder, staged, START_UP_IMAGES)
    points = []
    for images in sizes:
        found = best_costs(folder, staged, images)
        more = images - START_UP_IMAGES
        epochs = {"prepare": 1, "trial": EPOCHS}
        milliseconds = {k: 1e3 * (found[k].seconds - start_up[k].seconds) / more / epochs[k] for k in KINDS}
        points.append(Point(images, milliseconds, {k: found[k].megabytes for k in KINDS}))
    return points


def best_costs(folder: Path, weights: Path, images: int) -> dict[str, Cost]:
    """The least of several runs, each of time and memory."""
    write_images(folder / "data", images)
    turns = []
    for _ in range(min(max(ENOUGH_IMAGES // images, 1), 5)):
        turns.append(costs(folder, weights))
        shutil.rmtree(folder / "output")
        shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "data")
    return {
        kind: Cost(min(turn[kind].seconds for turn in turns), min(turn[kind].megabytes for turn in turns))
        for kind in KINDS
    }


def costs(folder: Path, weights: Path) -> dict[str, Cost]:
    """Prepare the images and train on them."""
    output = folder / "output"
    prepare = ["prepare.py", "--data-dir", folder / "data", "--weights-dir", weights, "--output-dir", output]
    prepare += ["--backbone", BACKBONE, "--image-size", IMAGE_PX, "--augmented-views", VIEWS]
    trial = ["trial.py", "--epochs", EPOCHS, "--embeddings", output / "embeddings", "--manifest", output / "manifest"]
    return {"prepare": run(*prepare), "trial": run(*trial, "--weights", weights, "--model-dir", folder / "model")}


def write_images(folder: Path, count: int) -> None:
    """Noise around a colour for each class."""
    draw = np.random.default_rng(0)
    colours = draw.integers(60, 196, (CLASSES, 3))
    for label in range(CLASSES):
        (folder / f"class {label}").mkdir(parents=True)
    for number in range(count):
        label = number % CLASSES
        pixels = draw.normal(colours[label], 40, (IMAGE_PX, IMAGE_PX, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"class {label}" / f"{number}.png", compress_level=1)


def run(script: str, *arguments: Any) -> Cost:
    """A step in a process of its own."""
    began, peaks = time.perf_counter(), dict[int, float]()
    command = [sys.executable, str(STEPS / script), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for pid in tree(process.pid):
                peaks[pid] = max(peaks.get(pid, 0.0), peak_megabytes(pid))
            time.sleep(SECONDS_BETWEEN_SAMPLES)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}.")
    return Cost(time.perf_counter() - began, sum(peaks.values()))


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:  # it has just ended
        return [pid]
    return [pid, *(descendant for child in children for descendant in tree(child))]


def peak_megabytes(pid: int) -> float:
    """The most that a process has had resident; 0 when it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0.0)


def drawn(points: list[Point]) -> str:
    """Both curves of both kinds, as SVG."""
    panels = [
        panel(0, "ms per image (a trial: per epoch)", points, [point.milliseconds for point in points]),
        panel(360, "peak memory, MB", points, [point.megabytes for point in points]),
    ]
    head = '<svg xmlns="http://www.w3.org/2000/svg" width="720" height="260" font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="720" height="260" fill="white"/>', *panels, "</svg>"]) + "\n"


def panel(left: int, title: str, points: list[Point], values: list[dict[str, float]]) -> str:
    """One diagram: images on a logarithmic axis, values from 0."""
    top = max(max(value.values()) for value in values) * 1.2
    decades = np.log10([point.images for point in points])
    span = max(float(decades[-1] - decades[0]), 1e-9)
    x = [left + 60 + 260 * float(decade - decades[0]) / span for decade in decades]
    lines = [f'<text x="{left + 50}" y="20" font-weight="bold">{title}</text>']
    lines.append(f'<path d="M{left + 50} 30V210H{left + 335}" fill="none" stroke="#888"/>')
    for place, point in zip(x, points, strict=True):
        lines.append(f'<text x="{place:.0f}" y="228" text-anchor="middle">{point.images:,}</text>')
    for kind, colour, height in zip(KINDS, ("#0b6", "#06c"), (44, 60), strict=True):
        y = [210 - 170 * value[kind] / top for value in values]
        curve = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        lines.append(f'<polyline points="{curve}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in zip(x, y, strict=True)]
        lines += [
            f'<text x="{a:.1f}" y="{b - 7:.1f}" text-anchor="middle">{value[kind]:.3g}</text>'
            for a, b, value in zip(x, y, values, strict=True)
        ]
        lines.append(f'<text x="{left + 335}" y="{height}" text-anchor="end" fill="{colour}">{kind}</text>')
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=sizes, default=[1000, 10_000, 100_000], metavar="N,N,...")
    parser.add_argument("--plot", type=Path, default=None, metavar="FILE", help="draw the curves")
    return parser.parse_args()


def sizes(text: str) -> list[int]:
    """Numbers of images, ascending."""
    found = sorted(int(part) for part in text.split(","))
    if found[0] <= START_UP_IMAGES:
        raise argparse.ArgumentTypeError(f"must be above {START_UP_IMAGES}, but got {found[0]}")
    return found


if __name__ == "__main__":
    main()
