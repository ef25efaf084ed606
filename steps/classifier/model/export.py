"""The deployed network: normalised images -> backbone -> head -> softmax, in a file for each kind of runtime.

model.tar.gz holds all that evaluation and the endpoint need: `model.pt` (frozen TorchScript), `model.onnx` (which gives
the features beside the probabilities), `samples.npz` (images and the trained network's answers), `samples/` (the real
ones' files), `runtimes.json` (what each runtime took here), `model.json` and `code/`.
"""

import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from classifier.data.images import Pixels, Preprocess, decode, normalise, to_pixels
from classifier.data.prepared_images import SAMPLES, sample_files
from classifier.job.failures import StepError
from classifier.job.system import ROOT
from classifier.model.backbone import frozen
from classifier.model.predictor import DEFAULT_MAX_PIXELS
from classifier.model.runtime_choice import MEASUREMENT_FILE, candidates
from classifier.model.runtime_trial import measure, measured_apart
from classifier.model.runtimes import ONNX_FILE, ONNX_OUTPUTS, TORCH_FILE, load_script
from classifier.model.samples import REAL, SYNTHETIC, Samples, synthetic_pixels

TOLERANCE = 1e-3  # largest difference of a probability between the frozen and the eager network
ONNX_OPSET = 17


class Network(nn.Module):
    """(N, 3, H, W) float32 normalised images -> (N, C) float32 probabilities."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> Tensor:
        return torch.softmax(self.head(self.backbone(images)), dim=1)


class NetworkWithFeatures(Network):
    """The same with what the backbone makes of the images, (N, D) float32, as a second output."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        features = self.backbone(images)
        return torch.softmax(self.head(features), dim=1), features


@torch.no_grad()
def export_network(
    backbone: nn.Module, head: nn.Module, preprocess: Preprocess, model_dir: Path, photos: Sequence[Path] = ()
) -> None:
    """Write the whole network for every runtime, and check that each answers as its parts do.

    Args:
        photos: Files of real images, to check with besides synthetic ones; they are copied into the model.
    """
    network = Network(backbone, head).eval()
    for photo in photos:
        (model_dir / SAMPLES).mkdir(exist_ok=True)
        shutil.copyfile(photo, model_dir / SAMPLES / photo.name)
    samples = sample_answers(network, preprocess, model_dir)
    samples.save(model_dir)
    images = torch.from_numpy(samples.images()).contiguous(memory_format=torch.channels_last)
    script = frozen(network, images[:1])
    script.save(str(model_dir / TORCH_FILE))
    difference = float((load_script(model_dir)(images) - torch.from_numpy(samples.probabilities)).abs().max())
    if not difference <= TOLERANCE:
        raise StepError(
            f"The exported network differs from the trained one by {difference:g} in a probability, "
            f"and {TOLERANCE:g} is accepted. Try another backbone, or another version of torch."
        )
    write_onnx(frozen(NetworkWithFeatures(backbone, head), images[:1]), images[:1], model_dir / ONNX_FILE)
    measurement = measure(model_dir, ["onnxruntime"])
    if reason := measurement.disagreements.get("onnxruntime"):
        raise StepError(f"The exported {ONNX_FILE} is not usable: {reason}. Try another backbone.")
    measurement = measured_apart(model_dir, candidates()) or measurement
    text = json.dumps(asdict(measurement), indent=2) + "\n"
    (model_dir / MEASUREMENT_FILE).write_text(text, encoding="utf-8")


def sample_answers(network: nn.Module, preprocess: Preprocess, model_dir: Path) -> Samples:
    """The clearest real images, the closest decisions on synthetic ones, and the network's own answers to them."""
    size = preprocess.image_size
    synthetic = answered(network, preprocess, synthetic_pixels(size)).closest(SYNTHETIC)
    photos = [path.read_bytes() for path in sample_files(model_dir)]
    if not photos:
        return synthetic
    pictures = [decode(photo, max_pixels=DEFAULT_MAX_PIXELS, preprocess=preprocess) for photo in photos]
    pixels = np.stack([to_pixels(picture, preprocess) for picture in pictures])
    return answered(network, preprocess, pixels).clearest(REAL).followed_by(synthetic)


def answered(network: nn.Module, preprocess: Preprocess, pixels: Pixels) -> Samples:
    """Crops (N, size, size, 3) with the network's answers."""
    images = torch.from_numpy(normalise(pixels, preprocess))
    return Samples(pixels, np.array(preprocess.mean), np.array(preprocess.std), network(images).numpy())


def write_onnx(script: torch.jit.ScriptModule, example: Tensor, path: Path) -> None:
    """The frozen network as ONNX, for any number of images; from TorchScript that takes half a second."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that reads TorchScript ages with it
        torch.onnx.export(
            script,
            (example,),
            str(path),
            dynamo=False,
            opset_version=ONNX_OPSET,
            input_names=["images"],
            output_names=list(ONNX_OUTPUTS),
            dynamic_axes={name: {0: "n"} for name in ("images", *ONNX_OUTPUTS)},
        )


def copy_code(directory: Path) -> None:
    """Put the steps' code into the model, so that the endpoint serves with what evaluated it."""
    shutil.copytree(ROOT, directory, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
