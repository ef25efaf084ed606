"""The deployed network: normalised images -> backbone -> head -> softmax, in a file for each kind of runtime.

model.tar.gz holds `model.pt` (frozen TorchScript), `model.onnx` (with the features beside the probabilities),
`samples.npz` (images and the trained network's answers), `samples/` (the real ones' files), `runtimes.json` (what each
runtime took here), and what train.py adds: `model.json`, `seen_images.npy` and others.
"""

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from classifier.data.images import Pixels, Preprocess, decode, normalise, to_pixels
from classifier.data.prepared_images import sample_files
from classifier.job.failures import StepError
from classifier.model.backbone import frozen
from classifier.model.predictor import DEFAULT_MAX_PIXELS, SAMPLES_FILE, TOLERANCE, measure_apart
from classifier.model.runtimes import ONNX_FILE, ONNX_OUTPUTS, TORCH_FILE

REQUIRED = {"torchscript", "onnxruntime"}  # one of them runs wherever an endpoint does
REAL, SYNTHETIC = 4, 6  # images that are kept at most
SAFE_LEAD = 5 * TOLERANCE  # of one class over the next, which no difference that is accepted turns around
ONNX_OPSET = 17


class Network(nn.Module):
    """(N, 3, H, W) float32 normalised images -> (N, C) float32 probabilities, calibrated by the temperature."""

    with_features = False  # whether what the backbone makes of the images, (N, D) float32, is a second output

    def __init__(self, backbone: nn.Module, head: nn.Module, temperature: float = 1.0) -> None:
        super().__init__()
        self.backbone, self.head, self.temperature = backbone, head, temperature

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.backbone(images)
        probabilities = torch.softmax(self.head(features) / self.temperature, dim=1)
        return (probabilities, features) if self.with_features else probabilities


@torch.no_grad()
def export_network(
    backbone: nn.Module, head: nn.Module, preprocess: Preprocess, model_dir: Path, temperature: float = 1.0
) -> None:
    """Write the whole network for every runtime, and check that they answer as its parts do.

    They are checked with the images in `samples/`, if there are any, and with synthetic ones.
    """
    files = [path.read_bytes() for path in sample_files(model_dir)]
    pictures = [decode(file, max_pixels=DEFAULT_MAX_PIXELS, preprocess=preprocess) for file in files]
    real, synthetic = [to_pixels(picture, preprocess) for picture in pictures], synthetic_pixels(preprocess.image_size)
    pixels = np.stack([*real, *synthetic])
    images = torch.from_numpy(normalise(pixels, preprocess))
    network = Network(backbone, head, temperature).eval()
    probabilities = network(images).numpy()
    rows = worth_keeping(probabilities, len(real))
    answers = {"pixels": pixels[rows], "probabilities": probabilities[rows]}
    np.savez_compressed(model_dir / SAMPLES_FILE, mean=preprocess.mean, std=preprocess.std, **answers)
    frozen(network, images[:1]).save(str(model_dir / TORCH_FILE))
    network.with_features = True
    write_onnx(frozen(network, images[:1]), images[:1], model_dir / ONNX_FILE)
    disagreements = measure_apart(model_dir)
    for name in REQUIRED & disagreements.keys():
        raise StepError(f"The exported network is not usable by {name}: {disagreements[name]}. Try another backbone.")


def worth_keeping(probabilities: npt.NDArray[np.float32], real: int) -> list[int]:
    """The rows of the images, real ones first, whose answers say most.

    Of real ones those whose best class leads by most: between two that are as good as equal, rounding decides. Of
    synthetic ones those that lead by least, but safely, where a loss of precision shows first.
    """
    leads = np.ptp(np.sort(probabilities, axis=1)[:, -2:], axis=1)
    clearest = np.argsort(-leads, kind="stable").tolist()
    synthetic = [row for row in clearest if row >= real]
    safe = [row for row in synthetic if leads[row] >= SAFE_LEAD]
    return [row for row in clearest if row < real][:REAL] + (safe[-SYNTHETIC:] or synthetic[:SYNTHETIC])


def synthetic_pixels(size: int, count: int = 12) -> Pixels:
    """Smooth coloured noise, (count, size, size, 3): what no photograph has shown the network."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    pictures = [Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC) for small in coarse]
    return np.stack([np.asarray(picture) for picture in pictures])


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
