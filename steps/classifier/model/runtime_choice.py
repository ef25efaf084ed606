"""`deploy.runtime: auto`: the fastest runtime that agrees with the trained network.

Training measures the runtimes and leaves the result in the model, see runtime_trial.py; an endpoint takes the fastest
of those that it has. Each proves itself once more, on the model's sample images, before the first request is answered.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from classifier.model.runtimes import ONNX_FILE, missing

MEASUREMENT_FILE = "runtimes.json"
CLEARLY_FASTER = 0.9  # others take more memory than ONNX Runtime: one must need less than this share of its time


@dataclass(frozen=True)
class Measurement:
    """runtimes.json."""

    milliseconds: dict[str, float]  # of one image on one core, by runtime; of those that agree
    disagreements: dict[str, str]  # why a runtime is not to be used

    @classmethod
    def read(cls, text: str) -> "Measurement | None":
        """What was stored or printed; None if that is no measurement."""
        try:
            document = json.loads(text)
            return cls(document["milliseconds"], document["disagreements"])
        except (ValueError, TypeError, KeyError):
            return None

    def fastest(self, usable: list[str]) -> str | None:
        """The one that is clearly faster than ONNX Runtime, if any is."""
        times = {name: taken for name, taken in self.milliseconds.items() if name in usable}
        best = min(times, key=times.__getitem__, default=None)
        return best if best and times[best] < CLEARLY_FASTER * times.get("onnxruntime", float("inf")) else None


def candidates() -> list[str]:
    """The runtimes for a processor that this machine has."""
    return [name for name in ("onnxruntime", "openvino", "bf16", "torchscript") if missing(name) is None]


def chosen_runtimes(model_dir: Path) -> list[str]:
    """What `auto` serves with, followed by what is tried if that does not start."""
    path = model_dir / MEASUREMENT_FILE
    measured = Measurement.read(path.read_text(encoding="utf-8")) if path.is_file() else None
    usable = [name for name in candidates() if name == "torchscript" or (model_dir / ONNX_FILE).is_file()]
    best = measured.fastest(usable) if measured else None
    wanted = ["cuda" if missing("cuda") is None else None, best, "onnxruntime", "torchscript"]
    return list(dict.fromkeys(name for name in wanted if name == "cuda" or name in usable))
