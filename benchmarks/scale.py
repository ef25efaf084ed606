"""Time per image and peak memory of PrepareData and of a trial, as the data set grows.

    python benchmarks/scale.py                       1,000, 10,000 and 100,000 images: 10 minutes, and 4 GB of disk
    python benchmarks/scale.py --sizes 1000,10000    other sizes
    python benchmarks/scale.py --plot scale.svg      the curves as a picture

Images are synthetic and tiny, all different; the network is the project's default at that size. Each size is prepared
and trained on in processes of their own, as jobs do it. Small sizes are measured several times, before and after the
large ones, and the median counts: a machine's speed changes with what else it does, and a long run sees the average
of that. What counts is how much longer a size takes than a few images do: to start up takes longer than 1,000 images.
Other work on the machine can only lengthen start-up, so the least that was seen of it counts, and of the rest the
median. Memory is the most that a job's processes had resident at any time (VmHWM in /proc, of all of them together),
PyTorch's code and pages of mapped files included.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS = REPOSITORY / "steps"
sys.path.insert(0, str(REPOSITORY))

from process_tree import descendants, peak_megabytes, processor_seconds  # noqa: E402

from pipeline.config.backbones import DEFAULT_BACKBONE  # noqa: E402
from pipeline.local.sandbox.environment import ALLOCATOR  # noqa: E402
from pipeline.service import weights as sources  # noqa: E402

START_UP_IMAGES = 100
ENOUGH_IMAGES = 20_000  # smaller sizes are measured again until there were so many
MOST_TURNS = 10  # a small size takes about as long as start-up does, which varies
CLASSES = 10
IMAGE_PX = 32
VIEWS = 1  # besides the plain one
EPOCHS = 20  # of a trial; as many at each size, since some of what it does is done once for an image
SECONDS_BETWEEN_SAMPLES = 0.02
ACCEPTED_RATIO = 1.2
COLOURS = {"prepare": "#0072b2", "trial": "#d55e00"}
KINDS = tuple(COLOURS)
# Lines of a job's log: start-up has ended (images are checked; embeddings are opened), the work begins, all is done.
MARKS = {
    "prepare": ("found ", "embedding with ", "prepared "),
    "trial": ("Training on ", "Training on ", f"epoch={EPOCHS} "),
}


@dataclass(frozen=True)
class Clock:
    """How long a job has been running."""

    elapsed: float  # s
    processor: float  # s, of all cores together

    def __sub__(self, other: "Clock") -> "Clock":
        return Clock(self.elapsed - other.elapsed, self.processor - other.processor)


@dataclass(frozen=True)
class Cost:
    """What one job took."""

    first: Clock  # start-up, and what it does to each image
    rest: Clock  # the work; loading the network lies between
    megabytes: float  # at its peak


@dataclass(frozen=True)
class Point:
    """One size of data set, by kind of work. Times are per image, of a trial per image and epoch."""

    images: int
    elapsed: dict[str, float]  # ms
    processor: dict[str, float]  # ms
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
    print(f"{'':>9}" + "".join(f"{kind:>12}" + " " * 25 for kind in KINDS))
    print(f"{'images':>9}" + f"{'elapsed':>12}{'processor':>12}{'memory':>10}   " * len(KINDS))
    for point in points:
        row = "".join(
            f"{point.elapsed[kind]:9.4f} ms{point.processor[kind]:9.4f} ms{point.megabytes[kind]:7.0f} MB   "
            for kind in KINDS
        )
        print(f"{point.images:9,}{row}")
    least, most = points[0], points[-1]
    ratios = [
        tuple(after[kind] / before[kind] for before, after in zip(figures(least), figures(most), strict=True))
        for kind in KINDS
    ]
    print(
        f"{'ratio':>9}"
        + "".join(f"{time:12.2f}{processor:12.2f}{memory:10.2f}   " for time, processor, memory in ratios)
    )
    flat = all(ratio <= ACCEPTED_RATIO for _, *decisive in ratios for ratio in decisive)
    print(
        f"{'flat' if flat else 'not flat'}: processor time and memory may be {ACCEPTED_RATIO} times as much "
        f"at {most.images:,} images as at {least.images:,}"
    )


def figures(point: Point) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    return point.elapsed, point.processor, point.megabytes


def measured(folder: Path, sizes: list[int]) -> list[Point]:
    """One point for each size."""
    staged = folder / "weights"
    sources.stage(sources.resolve(DEFAULT_BACKBONE, "package", relative_to=folder), staged)
    every = [START_UP_IMAGES, *sizes]
    for images in every:
        write_images(folder / f"{images}", images)
    costs: dict[int, list[dict[str, Cost]]] = {images: [] for images in every}
    for images in schedule(every):
        costs[images].append(costs_of(folder / f"{images}", staged))
    middle = {images: middle_of(turns) for images, turns in costs.items()}
    few = middle[START_UP_IMAGES]
    return [
        Point(
            images,
            {kind: 1e3 * seconds(kind, images, middle[images], few, "elapsed") for kind in KINDS},
            {kind: 1e3 * seconds(kind, images, middle[images], few, "processor") for kind in KINDS},
            {kind: middle[images][kind].megabytes for kind in KINDS},
        )
        for images in sizes
    ]


def seconds(kind: str, images: int, found: dict[str, Cost], few: dict[str, Cost], which: str) -> float:
    """Per image beyond the few, of a trial per image and epoch."""
    more = getattr(found[kind].first - few[kind].first, which) + getattr(found[kind].rest - few[kind].rest, which)
    return float(more) / (images - START_UP_IMAGES) / (EPOCHS if kind == "trial" else 1)


def schedule(every: list[int]) -> list[int]:
    """Which size is measured when: each one's turns are spread evenly over the whole time."""
    places = []
    for images in every:
        turns = min(max(ENOUGH_IMAGES // images, 1), MOST_TURNS)
        places += [((turn + 0.5) / turns, images) for turn in range(turns)]
    return [images for _, images in sorted(places)]


def middle_of(turns: list[dict[str, Cost]]) -> dict[str, Cost]:
    """Several runs: of start-up the least, of everything else the median."""

    def of_each(figure: Callable[[Iterable[float]], float], clocks: list[Clock]) -> Clock:
        return Clock(figure(clock.elapsed for clock in clocks), figure(clock.processor for clock in clocks))

    return {
        kind: Cost(
            of_each(min, [turn[kind].first for turn in turns]),
            of_each(median, [turn[kind].rest for turn in turns]),
            median(turn[kind].megabytes for turn in turns),
        )
        for kind in KINDS
    }


def costs_of(data: Path, weights: Path) -> dict[str, Cost]:
    """Prepare the images and train on them."""
    with tempfile.TemporaryDirectory(dir=data.parent) as name:
        output, model = Path(name, "output"), Path(name, "model")
        prepare = ["prepare.py", "--data-dir", data, "--weights-dir", weights, "--output-dir", output]
        prepare += ["--backbone", DEFAULT_BACKBONE, "--image-size", IMAGE_PX, "--augmented-views", VIEWS]
        trial = ["trial.py", "--epochs", EPOCHS, "--embeddings", output / "embeddings"]
        trial += ["--manifest", output / "manifest", "--weights", weights, "--model-dir", model]
        return {"prepare": run("prepare", *prepare), "trial": run("trial", *trial)}


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


def run(kind: str, script: str, *arguments: Any) -> Cost:
    """A step in a process of its own."""
    began, peaks, clocks = time.perf_counter(), dict[int, float](), dict[str, Clock]()
    command = [sys.executable, str(STEPS / script), *map(str, arguments)]
    environment = {**os.environ, **ALLOCATOR, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        reader = Thread(target=read_clocks, args=(process, began, MARKS[kind], clocks))
        reader.start()
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            for pid in descendants(process.pid):
                peaks[pid] = max(peaks.get(pid, 0.0), peak_megabytes(pid))
            time.sleep(SECONDS_BETWEEN_SAMPLES)
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        reader.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}.")
    first, begins, done = (clocks[mark] for mark in MARKS[kind])
    return Cost(first, done - begins, sum(peaks.values()))


def read_clocks(
    process: "subprocess.Popen[str]", began: float, marks: tuple[str, ...], clocks: dict[str, Clock]
) -> None:
    """Note when the job says what."""
    for line in process.stdout or ():
        for mark in marks:
            if line.startswith(mark):
                clocks[mark] = Clock(time.perf_counter() - began, processor_seconds(process.pid))


def drawn(points: list[Point]) -> str:
    """Both curves of both kinds, as SVG."""
    times, memory = [point.processor for point in points], [point.megabytes for point in points]
    least = min(min(time.values()) for time in times)
    panels = [
        panel(
            0, "Processor time per image, ms (logarithmic)", points, times, lambda value: math.log10(value / least) + 1
        ),
        panel(390, "Peak memory, MB", points, memory, float),
    ]
    head = '<svg xmlns="http://www.w3.org/2000/svg" width="780" height="300" font-family="sans-serif" font-size="13">'
    foot = (
        f'<text x="40" y="288" fill="#555">Images in the data set. Shaded: up to {ACCEPTED_RATIO - 1:.0%} above the '
        f"smallest data set. A trial: per image and epoch.</text>"
    )
    return "\n".join([head, '<rect width="780" height="300" fill="white"/>', *panels, foot, "</svg>"]) + "\n"


def panel(
    left: int, title: str, points: list[Point], values: list[dict[str, float]], scale: Callable[[float], float]
) -> str:
    """One diagram: images on a logarithmic axis, values from 0 on the scale."""
    top = max(scale(max(value.values())) for value in values) * 1.25
    decades = np.log10([point.images for point in points])
    span = max(float(decades[-1] - decades[0]), 1e-9)
    x = [left + 70 + 260 * float(decade - decades[0]) / span for decade in decades]

    def height(value: float) -> float:
        return 235 - 190 * scale(value) / top

    lines = [f'<text x="{left + 40}" y="22" font-weight="bold">{title}</text>']
    lines.append(f'<path d="M{left + 40} 35V235H{left + 370}" fill="none" stroke="#888"/>')
    for place, point in zip(x, points, strict=True):
        lines.append(f'<text x="{place:.0f}" y="255" text-anchor="middle">{point.images:,}</text>')
    for kind, colour in COLOURS.items():
        y = [height(value[kind]) for value in values]
        limit = height(ACCEPTED_RATIO * values[0][kind])
        lines.append(
            f'<rect x="{x[0]:.0f}" y="{limit:.1f}" width="{x[-1] - x[0]:.0f}" height="{y[0] - limit:.1f}" '
            f'fill="{colour}" opacity="0.12"/>'
        )
        curve = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        lines.append(f'<polyline points="{curve}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}"/>' for a, b in zip(x, y, strict=True)]
        lines += [
            f'<text x="{a:.1f}" y="{b + 18:.1f}" text-anchor="middle">{value[kind]:.3g}</text>'
            for a, b, value in zip(x, y, values, strict=True)
        ]
        middle = (x[0] + x[-1]) / 2
        lines.append(f'<text x="{middle:.0f}" y="{limit - 6:.1f}" text-anchor="middle" fill="{colour}">{kind}</text>')
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
