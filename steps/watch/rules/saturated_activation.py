"""SaturatedActivation: sigmoids and tanhs so far out that they hardly answer to their input."""

from dataclasses import dataclass

from watch.rules.activations import inactive_percent
from watch.rules.base import Mode, TensorRule, Trial
from watch.rules.parameters import number, patterns


@dataclass(kw_only=True)
class SaturatedActivation(TensorRule):
    """Fires at a step where more than `threshold_layer` per cent of a layer's nodes are saturated.

    A node is saturated if its input lies within the limits for less than `threshold_inactivity` per cent of the samples
    of the step. A tensor with `tanh` in its name is held against the limits of tanh, any other against the sigmoid's.

    Source: AWS guide, "List of Debugger built-in rules", SaturatedActivation.
    """

    advice = (
        "Where a sigmoid or tanh is flat there is next to no gradient. Try a smaller weight initialisation, a lower "
        "learning rate, normalised inputs, batch normalisation, or ReLU."
    )
    needs = "no inputs of tanh or sigmoid were saved"

    tensor_regex: tuple[str, ...] = patterns((".*tanh_input|.*sigmoid_input",))
    threshold_tanh_min: float = number(-9.4999)
    threshold_tanh_max: float = number(9.4999)
    threshold_sigmoid_min: float = number(-23.0)
    threshold_sigmoid_max: float = number(16.99999)
    threshold_inactivity: float = number(1.0, above=0, at_most=100)
    threshold_layer: float = number(50.0, at_least=0, at_most=100)

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        sentence = None
        for name, value in self.tensors(trial, step, mode, regex=self.tensor_regex):
            if not value.size:
                continue
            self.judged += 1
            low, high = self._limits(name)
            saturated = inactive_percent(~((value <= low) | (value >= high)), self.threshold_inactivity)
            if mode.name == "TRAIN":
                plot = self.plot("Saturated nodes", "saturated (%)", {"threshold_layer": self.threshold_layer})
                plot.add(name, step, saturated)
            if sentence is None and saturated > self.threshold_layer:
                sentence = (
                    f"{saturated:.4g} % of the nodes behind {name} are saturated at step {step} of mode {mode.name} "
                    f"(threshold_layer {self.threshold_layer:g} %)."
                )
        return sentence

    def _limits(self, name: str) -> tuple[float, float]:
        if "tanh" in name:
            return self.threshold_tanh_min, self.threshold_tanh_max
        return self.threshold_sigmoid_min, self.threshold_sigmoid_max
