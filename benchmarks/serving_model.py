"""The model and the photograph that benchmarks/serving.py sends around."""

import io
import json
import shutil
import sys
import tarfile
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "steps")]

from classifier.data.images import Preprocess, normalise  # noqa: E402
from classifier.model.backbone import Backbone, load_backbone  # noqa: E402 - found by the line above
from classifier.model.export import Network, export_network, synthetic_pixels  # noqa: E402
from classifier.model.head import ClassifierHead, compressed  # noqa: E402
from pipeline.config.backbones import PACKAGED  # noqa: E402
from pipeline.service import weights  # noqa: E402

CLASSES, IMAGE_SIZE, RESIZE_TO = 133, 224, 256
EAGER_FILE = "eager.pt"  # what the plain server runs
LOGIT_DEVIATION = 3.0  # the best class then gets about half of the probability


def build_model(backbone: str, model_dir: Path) -> None:
    """A whole model directory.

    A packaged backbone has its ImageNet weights, others have random ones; the head has random weights, and is about as
    sure of its answers as one that has learned: `auto` judges runtimes by them.
    """
    network, head = eager_parts(backbone, CLASSES)
    preprocess = Preprocess(IMAGE_SIZE, RESIZE_TO, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    make_sure(network, head, preprocess)
    torch.save(Network(network, head), model_dir / EAGER_FILE)
    export_network(network, head, preprocess, model_dir)
    description = {"classes": [f"class {n}" for n in range(CLASSES)], "preprocess": asdict(preprocess)}
    (model_dir / "model.json").write_text(json.dumps(description), encoding="utf-8")


def unpack_model(source: Path, model_dir: Path) -> str:
    """A trained model, from its directory or model.tar.gz; its backbone's name.

    The plain server gets the same network with other weights: for its speed they do not matter.
    """
    if source.is_dir():
        shutil.copytree(source, model_dir, dirs_exist_ok=True)
    else:
        with tarfile.open(source) as archive:
            archive.extractall(model_dir, filter="data")
    description = json.loads((model_dir / "model.json").read_text(encoding="utf-8"))
    network, head = eager_parts(description["backbone"], len(description["classes"]))
    torch.save(Network(network, head), model_dir / EAGER_FILE)
    return str(description["backbone"])


def eager_parts(backbone: str, classes: int) -> tuple[Backbone, ClassifierHead]:
    """timm's network, with the weights that there are, and a head with random ones."""
    torch.manual_seed(0)
    network = backbone_of(backbone)
    return network, ClassifierHead(network.feature_dim, classes, hidden_units=512, dropout=0.0).eval()


def backbone_of(name: str) -> Backbone:
    if name not in PACKAGED:
        return Backbone(timm.create_model(name, pretrained=False, num_classes=0).eval()).requires_grad_(False)
    with tempfile.TemporaryDirectory(prefix="weights-") as folder:
        weights.stage(weights.resolve(name, "package", relative_to=Path.cwd()), Path(folder, "weights"))
        return load_backbone(name, Path(folder, "weights"))


@torch.no_grad()
def make_sure(network: Backbone, head: ClassifierHead, preprocess: Preprocess) -> None:
    """Scale the head to what its answers to synthetic images should be."""
    features = network(torch.from_numpy(normalise(synthetic_pixels(preprocess.image_size), preprocess)))
    deviation, mean = torch.std_mean(compressed(features), dim=0)
    head.feature_mean.copy_(mean)
    head.feature_std.copy_(deviation.clamp(min=float(deviation.mean()) / 100))
    head.classifier.weight.mul_(LOGIT_DEVIATION / head(features).std())


def photograph() -> bytes:
    """A JPEG of 500 x 400 px and about 45 KB."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (32, 40, 3), dtype=np.uint8)).resize((500, 400))
    noisy = np.asarray(coarse).astype(np.int16) + generator.integers(-6, 7, (400, 500, 3))
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
