"""What the tests of the steps work on: a small data set as PrepareData leaves it, and a tiny backbone."""

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from classifier.data.images import Preprocess, normalise, to_pixels
from classifier.data.prepared_images import SAMPLES, ImageWriter, PreparedImages
from classifier.model.backbone import load_backbone
from classifier.training.loop import Watcher

STEPS = Path(__file__).parents[2] / "steps"
BACKBONE = "test_resnet"  # timm's own network for tests: 0.5 million parameters
PREPROCESS = Preprocess(32, 36, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
COLOURS = {"blue sky": (60, 90, 200), "grass": (70, 170, 60), "<rust> & co": (180, 80, 40)}
CLASSES = list(COLOURS)
IMAGES_PER_SHARD = 10
IMAGES_PER_CLASS = {"train": 24, "validation": 8, "test": 18}
AUGMENTED_VIEWS = 2


class StopAfter(Watcher):
    """Asks to stop when so many training steps have begun."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def phase(self, name: str):
        self.steps -= name == "Backward"
        if self.steps == 0:
            self.stop_requested = "Enough."
        return super().phase(name)


@dataclass(frozen=True)
class Prepared:
    """PrepareData's output directories and the weights that it used."""

    root: Path
    weights: Path
    embeddings = property(lambda self: self.root / "embeddings")
    manifest = property(lambda self: self.root / "manifest")
    test = property(lambda self: self.root / "test")

    @property
    def test_files(self) -> list[bytes]:
        """The encoded test images."""
        images = PreparedImages(self.test, "test")
        return [images.read(row) for row in range(len(images))]

    @property
    def channels(self) -> dict[str, str]:
        """The environment of a training job that reads it."""
        channels = {"embeddings": self.embeddings, "manifest": self.manifest, "weights": self.weights}
        return {f"SM_CHANNEL_{name.upper()}": str(folder) for name, folder in channels.items()}


@dataclass(frozen=True)
class Trained:
    """A finished final training."""

    model_dir: Path
    tensors: Path
    stdout: str
    stderr: str

    @property
    def description(self) -> dict[str, Any]:
        """model.json."""
        return json.loads((self.model_dir / "model.json").read_text())


def run_step(script: str, *arguments: object, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run an entry point as a job does, with this environment and nothing else of the test's process."""
    command = [sys.executable, str(STEPS / script), *map(str, arguments)]
    return subprocess.run(
        command, env=base_environment() | env, capture_output=True, text=True, timeout=120, check=False
    )


def base_environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def write_weights(directory: Path) -> None:
    """Random weights of the tiny backbone."""
    import timm

    torch.manual_seed(0)
    file = directory / "weights.pth"
    torch.save(timm.create_model(BACKBONE, pretrained=False).state_dict(), file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    description = {"backbone": BACKBONE, "file": file.name, "sha256": sha256, "format": "state_dict"}
    description |= {"mean": PREPROCESS.mean, "std": PREPROCESS.std}
    (directory / "weights.json").write_text(json.dumps(description))


def write_prepared(root: Path, weights_dir: Path) -> None:
    """Noisy coloured pictures in three classes in several shards a split, with their embeddings and manifest."""
    generator, backbone = np.random.default_rng(0), load_backbone(BACKBONE, weights_dir)
    for folder in ("embeddings", "manifest", f"manifest/{SAMPLES}", *IMAGES_PER_CLASS):
        (root / folder).mkdir()
    listing = list[dict[str, Any]]()
    for split, count in IMAGES_PER_CLASS.items():
        labels = np.repeat(np.arange(len(CLASSES)), count)
        pictures = [noisy(COLOURS[CLASSES[label]], generator) for label in labels]
        with closing(ImageWriter(root / split, split, images_per_shard=IMAGES_PER_SHARD)) as shards:
            for picture, label in zip(pictures, labels.tolist(), strict=True):
                sha256 = hashlib.sha256(picture.tobytes()).hexdigest()
                listing.append({"name": f"{sha256[:16]}.png", "sha256": sha256, "split": split, "group": len(listing)})
                shards.add(listing[-1]["name"], label, png(picture))
        if split == "validation":
            for number, picture in enumerate(pictures[::count]):
                (root / "manifest" / SAMPLES / f"{number:02d}.png").write_bytes(png(picture))
        views = 1 + (AUGMENTED_VIEWS if split == "train" else 0)
        crops = [np.roll(to_pixels(picture, PREPROCESS), view, axis=0) for picture in pictures for view in range(views)]
        with torch.inference_mode():
            features = backbone(torch.from_numpy(normalise(np.stack(crops), PREPROCESS))).numpy()
        embeddings = features.reshape(len(pictures), views, backbone.feature_dim).astype(np.float16)
        np.save(root / "embeddings" / f"{split}-000000.npy", embeddings)
        np.save(root / "embeddings" / f"{split}_labels.npy", labels)
    weights_sha256 = json.loads((weights_dir / "weights.json").read_text())["sha256"]
    manifest = {
        "schema_version": 2,
        "classes": CLASSES,
        "counts": {split: dict.fromkeys(CLASSES, count) for split, count in IMAGES_PER_CLASS.items()},
        **{name: [] for name in ("skipped", "duplicates", "conflicting_labels")},
        "split": {"seed": 0, "fractions": {"train": 0.6, "validation": 0.2, "test": 0.2}, "given": False},
        "preprocess": asdict(PREPROCESS),
        "backbone": {"name": BACKBONE, "feature_dim": backbone.feature_dim, "weights_sha256": weights_sha256},
        "augmented_views": AUGMENTED_VIEWS,
        "dataset_sha256": "0" * 64,
    }
    (root / "manifest" / "manifest.json").write_text(json.dumps(manifest))
    (root / "manifest" / "images.jsonl").write_text("".join(f"{json.dumps(image)}\n" for image in listing))


def noisy(colour: tuple[int, int, int], generator: np.random.Generator) -> Image.Image:
    return Image.fromarray(generator.normal(colour, 60, (40, 48, 3)).clip(0, 255).astype(np.uint8))


def png(picture: Image.Image) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()
