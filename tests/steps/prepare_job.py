"""Data for prepare.py, and what a run of it left."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import prepare

BACKBONE = "test_resnet"
COLOURS = {"001.sky": (60, 90, 200), "002.grass": (70, 170, 60), "003.rust & co": (180, 80, 40)}
CLASSES = list(COLOURS)
FORMATS = [("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp"), ("BMP", ".bmp"), ("TIFF", ".tif"), ("GIF", ".gif")]


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def write_classes(root: Path, images: int, *, first: int = 0, size: tuple[int, int] = (90, 70)) -> Path:
    """`images` of each class, noisy and in its colour, in all formats by turns."""
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + images):
            grid = np.random.default_rng(number).normal(colour, 50, (6, 6, 3)).clip(0, 255).astype(np.uint8)
            picture = Image.fromarray(grid).resize(size, Image.Resampling.BILINEAR)
            format, suffix = FORMATS[number % len(FORMATS)]
            (root / name / f"{number}{suffix}").write_bytes(encoded(picture, format))
    return root


@dataclass(frozen=True)
class Result:
    """What a run of prepare.py left."""

    data: Path
    output: Path
    returncode: int
    stdout: str
    stderr: str

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.output / "manifest" / "manifest.json").read_text())

    @cached_property
    def listed(self) -> list[dict[str, Any]]:
        """images.jsonl"""
        return [json.loads(line) for line in (self.output / "manifest" / "images.jsonl").read_text().splitlines()]

    @property
    def known(self) -> int:
        """Images that were not embedded, since an earlier run had done it."""
        found = re.search(r"(\d+) of \d+ images were embedded before", self.stdout)
        return int(found[1]) if found else 0

    @property
    def contents(self) -> dict[str, bytes]:
        """All files but the embedding cache's."""
        files = (path for path in self.output.rglob("*") if path.is_file())
        contents = {path.relative_to(self.output).as_posix(): path.read_bytes() for path in files}
        return {name: content for name, content in contents.items() if not name.startswith("embedding_cache/")}

    def entries(self, split: str) -> list[dict[str, Any]]:
        return [entry for entry in self.listed if entry["split"] == split]

    def array(self, name: str) -> np.ndarray:
        return np.load(self.output / "embeddings" / f"{name}.npy")


Prepare = Callable[..., Result]


def arguments(data: Path, output: Path, weights: Path, options: dict[str, object]) -> list[str]:
    given = {"data-dir": data, "weights-dir": weights, "output-dir": output, "backbone": BACKBONE, "image-size": 32}
    given |= {"train-fraction": 0.6, "validation-fraction": 0.2, "test-fraction": 0.2, "augmented-views": 2}
    given |= {"near-duplicates": "false"}  # for speed
    return [text for name, value in (given | options).items() for text in (f"--{name}", str(value))]


def start(data: Path, output: Path, weights: Path, options: dict[str, object]) -> subprocess.Popen[str]:
    """prepare.py in a process of its own, without this one's environment."""
    command = [sys.executable, prepare.__file__, *arguments(data, output, weights, options)]
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
