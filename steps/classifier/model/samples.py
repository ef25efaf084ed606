"""Sample images that travel with the model, and what the trained network answered to them.

A runtime is trusted when it agrees with those answers; so a library's fault, or a processor's, shows before a client
sees it.
"""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from classifier.data.images import Pixels, Preprocess, normalise
from classifier.job.failures import StepError
from classifier.model.runtimes import Runtime

SAMPLES_FILE = "samples.npz"
REAL, SYNTHETIC = 4, 6  # images that are kept at most
TOLERANCE = 0.01  # largest difference of a probability
SAFE_LEAD = 5 * TOLERANCE  # of one class over the next, which no difference that is accepted turns around


@dataclass(frozen=True)
class Samples:
    """Crops as the network sees them, and its probabilities."""

    pixels: Pixels  # (N, H, W, 3)
    mean: npt.NDArray[np.float64]  # (3,) of pixels scaled to 0..1
    std: npt.NDArray[np.float64]  # (3,)
    probabilities: npt.NDArray[np.float32]  # (N, C) of the network in float32

    def images(self) -> npt.NDArray[np.float32]:
        """(N, 3, H, W), normalised."""
        size = self.pixels.shape[1]
        return normalise(self.pixels, Preprocess(size, size, tuple(self.mean.tolist()), tuple(self.std.tolist())))

    def clearest(self, count: int) -> "Samples":
        """Those whose best class leads by most: between two classes that are as good as equal, rounding decides."""
        return self._rows(np.argsort(-self.leads(), kind="stable")[:count])

    def closest(self, count: int) -> "Samples":
        """Those that lead by least, but safely, where a loss of precision shows first; else the clearest."""
        order = np.argsort(self.leads(), kind="stable")
        safe = order[self.leads()[order] >= SAFE_LEAD]
        return self._rows(safe[:count]) if len(safe) else self.clearest(count)

    def leads(self) -> npt.NDArray[np.float32]:
        """(N,) of the best class over the next."""
        ordered = np.sort(self.probabilities, axis=1)
        leads: npt.NDArray[np.float32] = ordered[:, -1] - ordered[:, -2:].min(axis=1)
        return leads

    def _rows(self, rows: npt.NDArray[np.int64]) -> "Samples":
        return replace(self, pixels=self.pixels[rows], probabilities=self.probabilities[rows])

    def followed_by(self, other: "Samples") -> "Samples":
        """Both, of the same network."""
        pixels = np.concatenate([self.pixels, other.pixels])
        return replace(self, pixels=pixels, probabilities=np.concatenate([self.probabilities, other.probabilities]))

    def save(self, model_dir: Path) -> None:
        """Write samples.npz."""
        np.savez_compressed(model_dir / SAMPLES_FILE, **vars(self))

    @classmethod
    def load(cls, model_dir: Path) -> "Samples":
        """Read samples.npz; nothing is unpickled."""
        path = model_dir / SAMPLES_FILE
        try:
            with np.load(path) as stored:
                return cls(**{name: stored[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise StepError(f"{path} cannot be read ({error}). Train the model again.") from None


def synthetic_pixels(size: int, count: int = 12) -> Pixels:
    """Smooth coloured noise, (count, size, size, 3): what no photograph has shown the network."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    pictures = [Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC) for small in coarse]
    return np.stack([np.asarray(picture) for picture in pictures])


def disagreement(runtime: Runtime, samples: Samples, *, rounding: float = 0.0) -> str | None:
    """How the runtime's answers differ from the stored ones; None if they agree.

    Args:
        rounding: So much more may a probability differ; classes that lead by less than twice that are not compared.
    """
    images = samples.images()
    answers = np.concatenate([runtime.run(images[row : row + 1], threads=1) for row in range(len(images))])
    if answers.shape != samples.probabilities.shape:
        return f"it answers with shape {answers.shape} instead of {samples.probabilities.shape}"
    difference, accepted = float(np.abs(answers - samples.probabilities).max()), TOLERANCE + rounding
    if not difference <= accepted:
        return f"a probability differs by {difference:.3g} from the trained network's, and {accepted:g} is accepted"
    others = (answers.argmax(axis=1) != samples.probabilities.argmax(axis=1)) & (samples.leads() >= 2 * rounding)
    if others.any():
        return f"it names another class for {int(others.sum())} of {len(images)} sample images"
    return None
