"""Data for prepare.py, and what a run of it left."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import prepare
from classifier.data.parts import part_files
from classifier.data.prepared_images import PreparedImages
from classifier.job.failures import PROCESSING_MESSAGE

BACKBONE = "test_resnet"
CLASSES = ["001.sky", "002.grass", "003.rust & co"]
COLOURS = {"001.sky": (60, 90, 200), "002.grass": (70, 170, 60), "003.rust & co": (180, 80, 40)}
FORMATS = [("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp"), ("BMP", ".bmp"), ("TIFF", ".tif"), ("GIF", ".gif")]


def picture(class_name: str, number: int, size: tuple[int, int] = (90, 70)) -> Image.Image:
    """A noisy square of the class's colour."""
    grid = np.random.default_rng(number).normal(COLOURS[class_name], 50, (6, 6, 3)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(grid).resize(size, Image.Resampling.BILINEAR)


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def write_classes(root: Path, images: int, *, first: int = 0, size: tuple[int, int] = (90, 70)) -> Path:
    """`images` of each class, in all formats by turns."""
    for class_name in CLASSES:
        (root / class_name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + images):
            format, suffix = FORMATS[number % len(FORMATS)]
            path = root / class_name / f"{number}{suffix}"
            path.write_bytes(encoded(picture(class_name, number, size), format))
    return root


@dataclass(frozen=True)
class Result:
    """What a run of prepare.py left."""

    data: Path
    output: Path
    returncode: int
    stdout: str
    stderr: str

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.output / "manifest" / "manifest.json").read_text())

    def embeddings(self, split: str) -> np.ndarray:
        return np.concatenate([np.load(file) for file in part_files(self.output / "embeddings", split)])

    def input_means(self, split: str) -> np.ndarray:
        return np.concatenate([np.load(file) for file in part_files(self.output / "embeddings", split, "_input_means")])

    def labels(self, split: str) -> list[int]:
        return np.load(self.output / "embeddings" / f"{split}_labels.npy").tolist()

    def images(self, split: str) -> PreparedImages:
        return PreparedImages(self.output / split, split)

    @property
    def listed(self) -> list[dict[str, Any]]:
        """images.jsonl"""
        return [json.loads(line) for line in (self.output / "manifest" / "images.jsonl").read_text().splitlines()]

    def entries(self, split: str) -> list[dict[str, Any]]:
        return [entry for entry in self.listed if entry["split"] == split]


Prepare = Callable[..., Result]


def arguments(data: Path, output: Path, weights: Path, options: dict[str, object]) -> list[str]:
    given = {"data-dir": data, "weights-dir": weights, "output-dir": output, "backbone": BACKBONE, "image-size": 32}
    given |= {"train-fraction": 0.6, "validation-fraction": 0.2, "test-fraction": 0.2, "augmented-views": 2}
    return [text for name, value in (given | options).items() for text in (f"--{name}", str(value))]


def run_job(command: list[str], message: Path) -> subprocess.CompletedProcess[str]:
    """prepare.py in a process of its own, without this one's environment."""
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", PROCESSING_MESSAGE[0]: str(message)}
    script = [sys.executable, prepare.__file__, *command]
    return subprocess.run(script, env=environment, capture_output=True, text=True, timeout=120, check=False)
