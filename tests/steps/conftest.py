"""A small data set in prepared form, a tiny backbone, and a model trained on them by train.py in a process of its own."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

STEPS = Path(__file__).parents[2] / "steps"
BACKBONE = "test_resnet"  # timm's own network for tests: 0.5 million parameters
IMAGE_SIZE = 32
COLOURS = {"blue sky": (60, 90, 200), "grass": (70, 170, 60), "<rust> & co": (180, 80, 40)}
IMAGES_PER_CLASS = {"train": 24, "validation": 8, "test": 6}
VIEWS = 2  # augmented ones, beside the plain view


@dataclass(frozen=True)
class Prepared:
    """What PrepareData leaves behind."""

    root: Path
    weights: Path

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.root / "manifest" / "manifest.json").read_text())


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run_step() -> Run:
    """Run an entry point as a job does, with the given arguments and environment and nothing else of this process."""

    def run(script: str, *arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(env or {})}
        command = [sys.executable, str(STEPS / script), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the tiny backbone."""
    import timm

    directory = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.save(timm.create_model(BACKBONE, pretrained=False).state_dict(), directory / "weights.pth")
    description = {
        "backbone": BACKBONE,
        "file": "weights.pth",
        "sha256": hashlib.sha256((directory / "weights.pth").read_bytes()).hexdigest(),
        "format": "state_dict",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    (directory / "weights.json").write_text(json.dumps(description))
    return directory


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, weights_dir: Path) -> Prepared:
    """Noisy coloured squares in three classes, as PrepareData stores them."""
    from backbone import feature_dim, load_backbone
    from images import Preprocess, normalise, to_pixels

    root = tmp_path_factory.mktemp("prepared")
    backbone = load_backbone(BACKBONE, weights_dir)
    preprocess = Preprocess(IMAGE_SIZE, IMAGE_SIZE + 4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    generator = np.random.default_rng(0)
    (root / "embeddings").mkdir()
    (root / "manifest").mkdir()
    images = []
    for split, count in IMAGES_PER_CLASS.items():
        rows, labels = [], []
        for label, (name, colour) in enumerate(COLOURS.items()):
            (root / split / name).mkdir(parents=True)
            for _ in range(count):
                noise = generator.normal(colour, 60, (40, 48, 3)).clip(0, 255).astype(np.uint8)
                picture = Image.fromarray(noise)
                sha256 = hashlib.sha256(noise.tobytes()).hexdigest()
                path = f"{split}/{name}/{sha256[:16]}.png"
                picture.save(root / path)
                images.append({"path": path, "source": path, "sha256": sha256, "split": split, "label": label})
                pixels = to_pixels(picture, preprocess)
                views = [pixels] + [np.roll(pixels, shift, 0) for shift in range(VIEWS if split == "train" else 0)]
                rows.append(normalise(np.stack(views), preprocess))  # (views, 3, H, W)
                labels.append(label)
        with torch.inference_mode():
            features = backbone(torch.from_numpy(np.concatenate(rows))).numpy()
        shape = (len(rows), -1, feature_dim(backbone))
        np.save(root / "embeddings" / f"{split}.npy", features.reshape(shape).astype(np.float16))
        np.save(root / "embeddings" / f"{split}_labels.npy", np.array(labels, dtype=np.int64))
    weights = json.loads((weights_dir / "weights.json").read_text())
    manifest = {
        "schema_version": 1,
        "classes": list(COLOURS),
        "counts": {split: dict.fromkeys(COLOURS, count) for split, count in IMAGES_PER_CLASS.items()},
        "images": images,
        "skipped": [],
        "duplicates": [],
        "conflicting_labels": [],
        "split": {"seed": 0, "fractions": {"train": 0.6, "validation": 0.2, "test": 0.2}, "given": False},
        "class_weights": dict.fromkeys(COLOURS, 1.0),
        "preprocess": preprocess.to_dict(),
        "backbone": {
            "name": BACKBONE,
            "feature_dim": feature_dim(backbone),
            "weights_sha256": weights["sha256"],
        },
        "augmented_views": VIEWS,
        "dataset_sha256": "0" * 64,
    }
    (root / "manifest" / "manifest.json").write_text(json.dumps(manifest))
    return Prepared(root, weights_dir)


@dataclass(frozen=True)
class Trained:
    """A finished final training."""

    model_dir: Path
    output_data_dir: Path
    stdout: str
    stderr: str


def channels(prepared: Prepared) -> dict[str, str]:
    """The environment of a training job that reads `prepared`."""
    return {
        "SM_CHANNEL_EMBEDDINGS": str(prepared.root / "embeddings"),
        "SM_CHANNEL_MANIFEST": str(prepared.root / "manifest"),
        "SM_CHANNEL_WEIGHTS": str(prepared.weights),
    }


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared, run_step: Run) -> Trained:
    """train.py --final true with a hidden layer, as a SageMaker job."""
    job = tmp_path_factory.mktemp("training")
    output = {"SM_MODEL_DIR": str(job / "model"), "SM_OUTPUT_DATA_DIR": str(job / "data")}
    arguments = "--final true --epochs 6 --batch_size 16 --hidden_units 8 --lr 0.02 --debug_save_interval_steps 2"
    environment = {**channels(prepared), **output, "TRAINING_JOB_NAME": "final"}
    process = run_step("train.py", *arguments.split(), env=environment)
    assert process.returncode == 0, process.stderr
    return Trained(job / "model", job / "data", process.stdout, process.stderr)


@pytest.fixture(scope="session")
def archive_dir(tmp_path_factory: pytest.TempPathFactory, trained: Trained) -> Path:
    """A directory with the trained model's model.tar.gz, as SageMaker packs it."""
    directory = tmp_path_factory.mktemp("archive")
    with tarfile.open(directory / "model.tar.gz", "w:gz") as tar:
        for path in sorted(trained.model_dir.iterdir()):
            tar.add(path, path.name)
    return directory
