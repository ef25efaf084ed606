"""ExplodingTensor: values that are infinite or not a number."""

import math
from dataclasses import dataclass

import numpy as np

from watch.read.tensors import TensorUnavailable
from watch.rules.base import Mode, Trial
from watch.rules.parameters import flag
from watch.rules.selection import ChosenTensorsRule


@dataclass(kw_only=True)
class ExplodingTensor(ChosenTensorsRule):
    """Fires at a step where a tensor holds an infinite value or NaN (NaN only, with `only_nan`).

    Without collection_names and tensor_regex every saved tensor is looked at. Of a tensor that was saved as reductions
    only, the mean absolute value is.

    Source: AWS guide, "List of Debugger built-in rules", ExplodingTensor.
    """

    advice = (
        "Numbers have grown beyond what a float holds, and the training cannot recover from it. Try a learning rate "
        "ten times lower, gradient clipping, or look for a division by zero or a logarithm of zero in the loss."
    )
    needs = "no tensors were saved"
    choice_required = False

    only_nan: bool = flag(False)

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        chosen = bool(self.collection_names or self.tensor_regex)
        names = self.chosen_names(trial, step, mode) if chosen else trial.tensor_names(step=step, mode=mode)
        peaks = {name: _peak(trial, name, step, mode) for name in names}
        if not peaks:
            return None
        self.judged += 1
        finite = [peak for peak in peaks.values() if math.isfinite(peak)]
        if mode.name == "TRAIN" and finite:
            self.plot("The largest value in any tensor", "largest |value|", {}).add("largest value", step, max(finite))
        exploded = [
            name for name, peak in peaks.items() if math.isnan(peak) or (math.isinf(peak) and not self.only_nan)
        ]
        if not exploded:
            return None
        what = "NaN" if math.isnan(peaks[exploded[0]]) else "infinite values"
        others = f", and so do {len(exploded) - 1} other tensors" if len(exploded) > 1 else ""
        return f"{exploded[0]} holds {what} at step {step} of mode {mode.name}{others}."


def _peak(trial: Trial, name: str, step: int, mode: Mode) -> float:
    """The largest absolute value; NaN if there is one, 0 of an empty tensor."""
    tensor = trial.tensor(name)
    try:
        value = tensor.value(step, mode=mode)
    except TensorUnavailable:
        return float(tensor.reduction_value(step, "mean", mode=mode, abs=True))
    return float(np.max(np.abs(value), initial=0))
