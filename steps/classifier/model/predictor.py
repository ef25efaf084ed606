"""The deployed model: bytes of image files in, probabilities out; evaluation and the endpoint share it.

A few images travel with it, with the answers of the network when it had been trained: so a fault of a runtime's library
shows before a client sees it. `python -m classifier.model.predictor MODEL_DIR RUNTIME...` measures those that agree.
"""

import json
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classifier.data.images import Picture, Pixels, Preprocess, decode, normalise, to_pixels
from classifier.job.failures import StepError, run, say
from classifier.job.system import core_count, write_json
from classifier.model.runtimes import (
    MEASUREMENT_FILE,
    RUNTIMES,
    Runtime,
    load_chosen,
    load_runtime,
    missing,
    read_description,
)
from watch.files import module_command, module_environment

DEFAULT_MAX_PIXELS = 100_000_000
SAMPLES_FILE = "samples.npz"
TOLERANCE = 0.01  # largest difference of a probability that is accepted
ROUNDS, WARM_UP_RUNS = 8, 2  # runtimes optimise themselves in the first runs

Rows = npt.NDArray[np.float32]
Samples = tuple[Rows, Rows]  # images (N, 3, H, W), normalised, and the network's answers (N, C)


class Predictor:
    """The network and model.json of a model directory, ready to answer.

    Args:
        threads: Of one network run; all cores if 0.
        runtime: What runs the network; if None, what the endpoint takes by itself on a processor.
        max_pixels: A larger image is refused before it is decoded.
    """

    def __init__(
        self, model_dir: Path, threads: int = 0, runtime: Runtime | None = None, max_pixels: int = DEFAULT_MAX_PIXELS
    ) -> None:
        self.description = read_description(model_dir)
        self.classes: list[str] = self.description["classes"]
        self.preprocess = Preprocess.from_dict(self.description["preprocess"])
        self.max_pixels, self.threads = max_pixels, threads or core_count()
        self.runtime = runtime or load_chosen(model_dir, self.threads)
        blank = np.zeros((1, self.preprocess.image_size, self.preprocess.image_size, 3), dtype=np.uint8)
        for count in (1, self.threads) * WARM_UP_RUNS:
            self.probabilities(blank, count)

    def predict(self, files: Sequence[bytes]) -> Rows:
        """Probabilities (N, C) of N image files; raises images.ImageError for a file that is no readable image."""
        return self.probabilities(np.stack([self.pixels(file) for file in files]))

    def pixels(self, file: bytes) -> Pixels:
        """One image file as the network's crop: (H, W, 3) uint8."""
        return self.crop(decode(file, max_pixels=self.max_pixels, preprocess=self.preprocess))

    def crop(self, picture: Picture) -> Pixels:
        """A decoded image as the network's crop: (H, W, 3) uint8."""
        return to_pixels(picture, self.preprocess)

    def probabilities(self, pixels: Pixels, threads: int | None = None) -> Rows:
        """Crops (N, H, W, 3) uint8 -> probabilities (N, C)."""
        return self.runtime.run(normalise(pixels, self.preprocess), threads or self.threads)


def load_samples(model_dir: Path) -> Samples:
    """What export.py has left."""
    with np.load(model_dir / SAMPLES_FILE) as stored:
        pixels, mean, std = stored["pixels"], tuple(stored["mean"]), tuple(stored["std"])
        size = pixels.shape[1]
        return normalise(pixels, Preprocess(size, size, mean, std)), stored["probabilities"]


def disagreement(runtime: Runtime, samples: Samples, *, rounding: float = 0.0) -> str | None:
    """How the runtime's answers differ from the network's, by more than is accepted (and its rounding); None if not."""
    images, expected = samples
    answers = np.concatenate([runtime.run(images[row : row + 1], threads=1) for row in range(len(images))])
    if answers.shape != expected.shape:
        return f"it answers with shape {answers.shape} instead of {expected.shape}"
    difference, accepted = float(np.abs(answers - expected).max()), TOLERANCE + rounding
    if difference <= accepted:
        return None
    return f"a probability differs by {difference:.3g} from the trained network's, and {accepted:g} is accepted"


def measure(model_dir: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Return by runtime the milliseconds for one image on one core, or (disagreements) why it is not to be used."""
    samples, milliseconds, disagreements = load_samples(model_dir), dict[str, float](), dict[str, str]()
    for name in names:
        try:
            runtime = load_runtime(name, model_dir)
            if reason := disagreement(runtime, samples):
                raise StepError(reason)
        except StepError as error:
            disagreements[name] = str(error)
            continue
        work = partial(runtime.run, samples[0][:1], threads=1)  # in processor time, whatever else the machine does
        seconds = timeit.repeat(work, timer=time.thread_time, repeat=WARM_UP_RUNS + ROUNDS, number=1)[WARM_UP_RUNS:]
        milliseconds[name] = round(1000 * statistics.median(seconds), 3)
    return {"milliseconds": milliseconds, "disagreements": disagreements}


def measure_apart(model_dir: Path) -> dict[str, str]:
    """Write runtimes.json, and return the disagreements.

    Libraries that have not trained are measured in a process of their own, since a fault of theirs shall not end the
    training; if that process fails, ONNX Runtime alone is, in this one.
    """
    apart = [name for name in RUNTIMES if name not in ("torchscript", "cuda") and missing(name) is None]
    command = [*module_command("classifier.model.predictor"), str(model_dir), *apart]
    process = subprocess.run(command, stdout=subprocess.PIPE, env=module_environment(), check=False)
    try:
        measured = json.loads(process.stdout)
    except ValueError:
        say(f"The runtimes were not measured: their process ended with status {process.returncode}")
        measured = measure(model_dir, ["onnxruntime"])
    for kind, figures in measure(model_dir, ["torchscript"]).items():
        measured[kind] |= figures
    write_json(model_dir / MEASUREMENT_FILE, measured)
    disagreements: dict[str, str] = measured["disagreements"]
    return disagreements


def main() -> None:
    json.dump(measure(Path(sys.argv[1]), sys.argv[2:]), sys.stdout)


if __name__ == "__main__":
    sys.exit(run(main))
