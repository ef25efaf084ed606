"""The deployed model: bytes of image files in, class probabilities out; evaluation and the endpoint share it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from classifier.data.images import Picture, Pixels, Preprocess, decode, normalise, to_pixels
from classifier.job.failures import StepError
from classifier.job.system import core_count
from classifier.model.description import read_description
from classifier.model.runtimes import Runtime, load_runtime

REFERENCE_RUNTIME = "torchscript"  # float32, as trained; what evaluation scores
DEFAULT_MAX_PIXELS = 100_000_000
WARM_UP_RUNS = 2  # runtimes optimise themselves in the first runs


class Predictor:
    """The network and model.json of a model directory, ready to answer.

    Args:
        model_dir: model.tar.gz, unpacked.
        threads: Threads of one network run; all cores if None.
        runtime: What runs the network; model.pt in float32 if None.
        max_pixels: A larger image is refused before it is decoded.
    """

    def __init__(
        self,
        model_dir: Path,
        threads: int | None = None,
        *,
        runtime: Runtime | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self.description = read_description(model_dir)
        self.classes: list[str] = list(self.description["classes"])
        self.preprocess = Preprocess.from_dict(self.description["preprocess"])
        self.max_pixels = max_pixels
        self.threads = threads or core_count()
        self.runtime = runtime or load_runtime(REFERENCE_RUNTIME, model_dir, self.threads)
        blank = np.zeros((1, self.preprocess.image_size, self.preprocess.image_size, 3), dtype=np.uint8)
        for count in (1, self.threads) * WARM_UP_RUNS:
            answer = self.probabilities(blank, count)
        if answer.shape != (1, len(self.classes)):
            raise StepError(
                f"The network answers with shape {answer.shape}, but model.json names {len(self.classes)} classes. "
                f"Train the model again."
            )

    def predict(self, files: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """Probabilities (N, C) of N image files; raises images.ImageError for a file that is no readable image."""
        return self.probabilities(np.stack([self.pixels(file) for file in files]))

    def pixels(self, file: bytes) -> Pixels:
        """One image file as the network's crop: (H, W, 3) uint8."""
        return self.crop(decode(file, max_pixels=self.max_pixels, preprocess=self.preprocess))

    def crop(self, picture: Picture) -> Pixels:
        """A decoded image as the network's crop: (H, W, 3) uint8."""
        return to_pixels(picture, self.preprocess)

    def probabilities(self, pixels: Pixels, threads: int | None = None) -> npt.NDArray[np.float32]:
        """Crops (N, H, W, 3) uint8 -> probabilities (N, C) float32."""
        return self.runtime.run(normalise(pixels, self.preprocess), threads or self.threads)
