"""PrepareData's extraction against the bare limit: the same network, run the same way, on tensors that are in memory.

    python benchmarks/extract.py                            the digits
    python benchmarks/extract.py --data FOLDER              your own images: class folders or split folders
    python benchmarks/extract.py --backbone resnet18 --weights weights.pth --image-size 224

Extraction is what PrepareData does to every image: read, decode, write the prepared image, make the views, normalise,
embed, keep in the cache. The bare limit runs the frozen network on as many views as that, batch by batch on every core,
and does nothing else. Both are measured in turns, the order changing, and the ratio is the median of the turns': what
else the machine does comes and goes, and mostly falls on both of a turn. An NVIDIA GPU is used when PyTorch sees one.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pandas as pd
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "steps")]

import prepare  # noqa: E402
from classifier.data.dataset import open_dataset  # noqa: E402
from classifier.job.system import core_count, each  # noqa: E402
from classifier.model.backbone import load_backbone, read_weights  # noqa: E402
from classifier.preparation.embedding import Embedder, EmbeddingCache, choose_recipe, embed  # noqa: E402
from pipeline.config.backbones import DEFAULT_BACKBONE  # noqa: E402
from pipeline.local.sandbox.environment import ALLOCATOR  # noqa: E402
from pipeline.service import sources, weights  # noqa: E402

ACCEPTED_RATIO = 1.15


def main() -> None:
    """Measures and prints."""
    if os.environ | ALLOCATOR != os.environ:  # as a job has it; read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    arguments = parse_arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="extract-") as folder:
        measure(arguments, Path(folder))


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Stage what is measured, then measure."""
    options = prepare_options(arguments, folder)
    with open_dataset(options.data_dir, scratch=folder) as root:
        images, manifest = prepare.select_images(root, options)
        images, _ = prepare.split_images(images, manifest["classes"], {}, options)
        compare(images, root, options, arguments)


def compare(images: pd.DataFrame, root: Path, options: argparse.Namespace, arguments: argparse.Namespace) -> None:
    """Both, by turns, on images from all over the data set."""
    recipe = choose_recipe(images, read_weights(options.weights_dir), options)
    images = images[:: max(1, len(images) // arguments.images)][: arguments.images]
    embedder = Embedder(load_backbone(options.backbone, options.weights_dir), recipe)
    views = sum(recipe.views_of(split) for split in images["split"])

    runs: dict[str, Callable[[], None]] = {
        "extraction": lambda: extract(images, root, options, embedder),
        "bare limit": lambda: run_bare(embedder, views),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(arguments.repeat):
        for name in list(runs)[:: 1 if turn % 2 else -1]:
            began, began_cpu = time.perf_counter(), time.process_time()
            runs[name]()
            seconds[name].append((time.perf_counter() - began, time.process_time() - began_cpu))
    report(options.backbone, recipe.preprocess.image_size, len(images), views, seconds, embedder)


def prepare_options(arguments: argparse.Namespace, folder: Path) -> argparse.Namespace:
    """The command line of steps/prepare.py, with its own defaults; data and weights are staged below `folder`."""
    data = arguments.data or folder / "digits"
    if arguments.data is None:
        sources.write_digits(data)
    resolved = weights.resolve(arguments.backbone, arguments.weights, relative_to=Path.cwd())
    weights.stage(resolved, folder / "weights")
    words = ["--data-dir", data, "--weights-dir", folder / "weights", "--output-dir", folder / "output"]
    sys.argv[1:] = [*map(str, words), "--backbone", arguments.backbone, "--image-size", arguments.image_size]
    return prepare.parse_arguments()


def extract(images: pd.DataFrame, root: Path, options: argparse.Namespace, embedder: Embedder) -> None:
    """What PrepareData does to these images, as if none of them had been seen before."""
    with tempfile.TemporaryDirectory(dir=options.output_dir.parent) as folder:
        output = Path(folder)
        for name in prepare.OUTPUTS:
            (output / name).mkdir()
        cache = EmbeddingCache(None, output / "embedding_cache", embedder, read_weights(options.weights_dir))
        embed(images, root, output, 0, embedder, cache)


def run_bare(embedder: Embedder, views: int) -> None:
    """The network alone, on every core."""
    size = embedder.recipe.preprocess.image_size
    images = torch.randn(embedder.batch, 3, size, size, device=embedder.device)
    images = images.contiguous(memory_format=torch.channels_last)

    def run(number: int) -> None:
        torch.set_num_threads(1)  # of this worker
        embedder.run(images).cpu()

    for _ in each(run, range(-(-views // embedder.batch)), workers=core_count()):
        pass


def report(
    backbone: str, size: int, images: int, views: int, seconds: dict[str, list[tuple[float, float]]], embedder: Embedder
) -> None:
    """Each one's middle turn, and the turns' middle ratio: of elapsed and of processor time."""
    print(f"{backbone} at {size} px, {images} images, {views} views; {device_name(embedder)}, {platform.machine()}")
    for kind, title in enumerate(("elapsed", "processor")):
        for name, turns in seconds.items():
            every = [turn[kind] for turn in turns]
            middle = median(every)
            text = " ".join(f"{value:.2f}" for value in every)
            print(f"{title:10} {name:12} {middle:8.2f} s {views / middle:8.1f} views/s   all: {text}")
        pairs = zip(seconds["extraction"], seconds["bare limit"], strict=True)
        ratios = [extraction[kind] / bare[kind] for extraction, bare in pairs]
        verdict = "within" if median(ratios) <= ACCEPTED_RATIO else "above"
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{title:10} {'ratio':12} {median(ratios):8.3f}   ({spread}; {verdict} {ACCEPTED_RATIO})")


def device_name(embedder: Embedder) -> str:
    return torch.cuda.get_device_name() if embedder.device == "cuda" else f"{core_count()} cores"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, metavar="FOLDER", help="default: the digits")
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE, metavar="NAME", help="timm's name")
    parser.add_argument("--weights", default="package", help="as model.weights in pipeline.yaml")
    parser.add_argument("--image-size", default="auto", metavar="auto|PX")
    parser.add_argument("--images", type=int, default=400, metavar="N", help="so many of the data set (default 400)")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="turns of each (default 5)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
