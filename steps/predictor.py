"""The deployed model: bytes of image files in, class probabilities out; evaluation and the endpoint share it."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from failures import StepError
from images import Preprocess, decode, normalise, to_pixels

NETWORK_FILE = "model.pt"
DEFAULT_MAX_PIXELS = 100_000_000
WARM_UP_RUNS = 2  # TorchScript optimises itself in the first runs


class Predictor:
    """model.pt and model.json of a model directory, ready to answer.

    Args:
        model_dir: model.tar.gz, unpacked.
        threads: Threads of one network run; all cores if None.
        max_pixels: A larger image is refused before it is decoded.
    """

    def __init__(self, model_dir: Path, threads: int | None = None, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        description = _description(model_dir)
        self.classes: list[str] = list(description["classes"])
        self.preprocess = Preprocess.from_dict(description["preprocess"])
        self.description = description
        self._max_pixels = max_pixels
        self._network = load_network(model_dir)
        self._warm_up()

    def predict(self, files: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """Probabilities (N, C) of N image files; raises images.ImageError for a file that is no readable image."""
        return self.probabilities(np.stack([self.pixels(file) for file in files]))

    def pixels(self, file: bytes) -> npt.NDArray[np.uint8]:
        """One image file as the network's crop: (H, W, 3) uint8."""
        return to_pixels(decode(file, max_pixels=self._max_pixels, preprocess=self.preprocess), self.preprocess)

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Crops (N, H, W, 3) uint8 -> probabilities (N, C) float32."""
        images = torch.from_numpy(normalise(pixels, self.preprocess))
        with torch.inference_mode():
            answer = self._network(images.contiguous(memory_format=torch.channels_last))
        probabilities: npt.NDArray[np.float32] = answer.numpy()
        return probabilities

    def _warm_up(self) -> None:
        side = self.preprocess.image_size
        for _ in range(WARM_UP_RUNS):
            answer = self.probabilities(np.zeros((1, side, side, 3), dtype=np.uint8))
        if answer.shape != (1, len(self.classes)):
            raise StepError(
                f"model.pt answers with shape {answer.shape}, but model.json names {len(self.classes)} classes. "
                f"Train the model again."
            )


def _description(model_dir: Path) -> dict[str, Any]:
    path = model_dir / "model.json"
    try:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StepError(f"{model_dir} holds no model.json. A model of the final training has one.") from None
    except ValueError as error:
        raise StepError(f"{path} is not JSON ({error}). Train the model again.") from None
    return description


def load_network(model_dir: Path) -> torch.jit.ScriptModule:
    """images (N, 3, H, W) float32, normalised -> probabilities (N, C) float32, on the CPU."""
    path = model_dir / NETWORK_FILE
    if not path.is_file():
        raise StepError(f"{model_dir} holds no {NETWORK_FILE}. A model of the final training has one.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript ages, but needs no code of the model's
            network: torch.jit.ScriptModule = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise StepError(f"{path} is no TorchScript model ({str(error).splitlines()[0]}). Train it again.") from None
    return network
