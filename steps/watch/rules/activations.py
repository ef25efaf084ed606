"""Rules on activations: units that never answer, and units that are far beyond where they answer.

AWS's rules are those of its guide, "List of Debugger built-in rules", with the defaults documented there.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from watch.rules.base import Array, FigureRule, Mode, Patterns, Percent, Trial, Within, state

Inactivity = Annotated[float, Within(above=0, at_most=100)]
TANH_FLAT, SIGMOID_FLAT = 3.0, 6.0  # beyond these, 99 % of the slope is gone
UNSEEN = 5  # saved training steps without an answer, after which a unit counts as dead


@dataclass(kw_only=True)
class DeadRelu(FigureRule):
    """Fires where more than `dead_layer` per cent of a layer's ReLUs are dead: they have answered to no sample of five
    saved training steps. Layers are found by the modules' types, or by names with relu in them. What has negative
    outputs, as a leaky ReLU, is none.

    semantics aws: a ReLU is dead if it answers to less than `threshold_inactivity` per cent of a step's samples, and
    layers are found by `tensor_regex` alone. In a small batch most selective units are silent.
    """

    cause = "dead_relus"
    needs = "no outputs of ReLUs were saved, or at fewer than five training steps"
    axis = "Dead ReLUs", "dead (%)"

    tensor_regex: Patterns = (".*relu_output",)
    threshold_inactivity: Inactivity = 1.0
    threshold_layer: Percent = 50.0
    dead_layer: Percent = 75.0  # in place of threshold_layer, with our semantics

    silent: dict[str, npt.NDArray[np.int64]] = state(dict)  # saved steps on end without an answer, of each unit

    def chosen(self, trial: Trial, step: int, mode: Mode) -> list[str]:
        if self.semantics == "aws":
            return self.names(trial, step, mode, regex=self.tensor_regex)
        names = self.names(trial, step, mode, collections=("relu_output",), regex=(*self.tensor_regex, RELU))
        return names if mode.name == "TRAIN" else []

    def figure(self, trial: Trial, name: str, step: int, mode: Mode) -> float | None:
        output = by_unit(trial.tensor(name).value(step, mode=mode))
        if not output.size:
            return None
        if self.semantics == "aws":
            return float(100 * np.mean(100 * np.mean(~(output <= 0), axis=0) < self.threshold_inactivity))
        if (output < 0).any() or np.isnan(output).any():
            return None
        silent = self.silent.get(name, np.zeros(output.shape[1], np.int64))
        if len(silent) != output.shape[1]:
            return None
        self.silent[name] = np.where((output > 0).any(axis=0), 0, silent + 1)
        return float(100 * np.mean(self.silent[name] >= UNSEEN))

    def limits(self) -> dict[str, float | None]:
        aws = self.semantics == "aws"
        return {"threshold_layer": self.threshold_layer} if aws else {"dead_layer": self.dead_layer}

    def wrong(self, name: str, figure: float) -> str | None:
        [(limit, value)] = self.limits().items()
        return f"has {figure:.4g} % of dead ReLUs ({limit} {value:g} %)" if value and figure > value else None


@dataclass(kw_only=True)
class SaturatedActivation(FigureRule):
    """Fires where more than `threshold_layer` per cent of a layer's inputs are where tanh or sigmoid is flat, beyond 3
    and 6, at three saved steps on end. Layers are found by the modules' types, or by names with tanh or sigmoid.

    semantics aws: fires at a step where more than `threshold_layer` per cent of a layer's nodes have inputs within
    their limits for less than `threshold_inactivity` per cent of the samples; AWS's limits are where float32 ends.
    """

    cause = "saturated"
    needs = "no inputs of tanh or sigmoid were saved"
    axis = "Saturated units", "saturated (%)"

    tensor_regex: Patterns = (".*tanh_input|.*sigmoid_input",)
    threshold_tanh_min: float = -9.4999
    threshold_tanh_max: float = 9.4999
    threshold_sigmoid_min: float = -23.0
    threshold_sigmoid_max: float = 16.99999
    threshold_inactivity: Inactivity = 1.0
    threshold_layer: Percent = 50.0

    tanh: set[str] = state(set)  # names of its inputs, found by type

    def chosen(self, trial: Trial, step: int, mode: Mode) -> list[str]:
        if self.semantics == "aws":
            return self.names(trial, step, mode, regex=self.tensor_regex)
        self.tanh.update(trial.tensor_names(step=step, mode=mode, collection="tanh_input"))
        regex = (*self.tensor_regex, SQUASHING)
        return self.names(trial, step, mode, collections=("tanh_input", "sigmoid_input"), regex=regex)

    def figure(self, trial: Trial, name: str, step: int, mode: Mode) -> float | None:
        value = by_unit(trial.tensor(name).value(step, mode=mode))
        tanh = name in self.tanh or "tanh" in name.lower()
        if not value.size:
            return None
        if self.semantics == "watch":
            return float(100 * np.mean(~(np.abs(value) < (TANH_FLAT if tanh else SIGMOID_FLAT))))
        limits = (self.threshold_tanh_min, self.threshold_tanh_max)
        low, high = limits if tanh else (self.threshold_sigmoid_min, self.threshold_sigmoid_max)
        active = ~((value <= low) | (value >= high))
        return float(100 * np.mean(100 * active.mean(axis=0) < self.threshold_inactivity))

    def limits(self) -> dict[str, float | None]:
        return {"threshold_layer": self.threshold_layer}

    def wrong(self, name: str, figure: float) -> str | None:
        limit = f"(threshold_layer {self.threshold_layer:g} %)"
        return f"is saturated to {figure:.4g} % {limit}" if figure > self.threshold_layer else None


RELU = r"(?i)(^|[._])relu\w*_output"
SQUASHING = r"(?i)(tanh|sigmoid)\w*_input"


def by_unit(value: Array) -> Array:
    """(cases, units): a channel of a convolution is one unit, since its weights are shared."""
    if value.ndim < 2:
        return value.reshape(1, -1)
    return np.moveaxis(value, 1 if value.ndim == 4 else -1, -1).reshape(-1, value.shape[1 if value.ndim == 4 else -1])
