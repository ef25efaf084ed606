"""The model and the photograph that benchmarks/serving.py sends around."""

import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "steps"))

from backbone import Backbone, feature_dim
from export import Network, copy_code, export_network
from head import ClassifierHead
from images import Preprocess

CLASSES, IMAGE_SIZE, RESIZE_TO = 133, 224, 256
EAGER_FILE = "eager.pt"  # what the plain server runs


def build_model(backbone: str, model_dir: Path) -> None:
    """A whole model directory with random weights."""
    network, head = eager_parts(backbone, CLASSES)
    torch.save(Network(network, head), model_dir / EAGER_FILE)
    preprocess = Preprocess(IMAGE_SIZE, RESIZE_TO, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    export_network(network, head, preprocess, model_dir)
    description = {"classes": [f"class {n}" for n in range(CLASSES)], "preprocess": preprocess.to_dict()}
    (model_dir / "model.json").write_text(json.dumps(description), encoding="utf-8")
    copy_code(model_dir / "code")


def unpack_model(source: Path, model_dir: Path) -> str:
    """A trained model, from its directory or model.tar.gz, with the present code; its backbone's name.

    The plain server gets the same network with other weights: for its speed they do not matter.
    """
    if source.is_dir():
        shutil.copytree(source, model_dir, dirs_exist_ok=True)
    else:
        with tarfile.open(source) as archive:
            archive.extractall(model_dir, filter="data")
    copy_code(model_dir / "code")
    description = json.loads((model_dir / "model.json").read_text(encoding="utf-8"))
    network, head = eager_parts(description["backbone"], len(description["classes"]))
    torch.save(Network(network, head), model_dir / EAGER_FILE)
    return str(description["backbone"])


def eager_parts(backbone: str, classes: int) -> tuple[Backbone, ClassifierHead]:
    """timm's network and a head, with random weights."""
    torch.manual_seed(0)
    network = Backbone(timm.create_model(backbone, pretrained=False, num_classes=0).eval()).requires_grad_(False)
    return network, ClassifierHead(feature_dim(network), classes, hidden_units=512, dropout=0.0).eval()


def photograph() -> bytes:
    """A JPEG of 500 x 400 px and about 45 KB."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (32, 40, 3), dtype=np.uint8)).resize((500, 400))
    noisy = np.asarray(coarse).astype(np.int16) + generator.integers(-6, 7, (400, 500, 3))
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
