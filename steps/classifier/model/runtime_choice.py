"""`deploy.runtime: auto`: the fastest runtime that agrees with the trained network.

Training measures the runtimes on its own processor and leaves the result in the model. An endpoint on such a processor
trusts it; on another it starts with ONNX Runtime, which is ready within a second, and measures the rest in a process of
low priority meanwhile, see runtime_trial.py.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from classifier.job.programs import module_command
from classifier.model.runtimes import ONNX_FILE, has_gpu, missing, processor_name

MEASUREMENT_FILE = "runtimes.json"
CLEARLY_FASTER = 0.9  # others take more memory than ONNX Runtime: one must need less than this share of its time


@dataclass(frozen=True)
class Measurement:
    """runtimes.json."""

    processor: str
    milliseconds: dict[str, float]  # of one image on one core, by runtime; of those that agree
    disagreements: dict[str, str]  # why a runtime is not to be used

    def fastest(self, first: str) -> str:
        """What to serve with: `first`, or a runtime that is clearly faster."""
        limit = CLEARLY_FASTER * self.milliseconds.get(first, float("inf"))
        best = min(self.milliseconds, key=self.milliseconds.__getitem__, default=first)
        return best if self.milliseconds.get(best, limit) < limit else first

    def told(self) -> str:
        """For the log."""
        times = [f"{name} {value:.1f} ms" for name, value in sorted(self.milliseconds.items(), key=lambda i: i[1])]
        return "; ".join(times + [f"{name} not used: {why}" for name, why in self.disagreements.items()])


def trial_command(model_dir: Path, names: Sequence[str]) -> list[str]:
    """What measures the runtimes in a process of its own; it prints a Measurement as JSON."""
    return [*module_command("classifier.model.runtime_trial"), str(model_dir), *names]


def first_runtime(model_dir: Path) -> str:
    """What is ready soonest."""
    if has_gpu() and missing("cuda") is None:
        return "cuda"
    usable = missing("onnxruntime") is None and (model_dir / ONNX_FILE).is_file()
    return "onnxruntime" if usable else "torchscript"


def candidates(first: str) -> list[str]:
    """`first` and the runtimes that might be faster here."""
    if first == "cuda":
        return [first]
    return [first, *(name for name in ("openvino", "bf16", "torchscript") if name != first and missing(name) is None)]


def fallbacks(first: str) -> list[str]:
    """What to try if `first` does not start."""
    return [name for name in ("onnxruntime", "torchscript") if name != first and missing(name) is None]


def measured_in_training(model_dir: Path) -> Measurement | None:
    """What training measured, if it ran on such a processor and had every runtime that is here."""
    try:
        stored = json.loads((model_dir / MEASUREMENT_FILE).read_text(encoding="utf-8"))
        measurement = Measurement(**stored)
    except (OSError, ValueError, TypeError):
        return None
    known = {*measurement.milliseconds, *measurement.disagreements}
    complete = known.issuperset(candidates(first_runtime(model_dir)))
    return measurement if complete and measurement.processor == processor_name() else None
