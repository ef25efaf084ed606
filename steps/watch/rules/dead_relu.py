"""DeadRelu: ReLUs that answer zero to everything."""

from dataclasses import dataclass

from watch.rules.activations import inactive_percent
from watch.rules.base import Mode, TensorRule, Trial
from watch.rules.parameters import number, patterns


@dataclass(kw_only=True)
class DeadRelu(TensorRule):
    """Fires at a step where more than `threshold_layer` per cent of a layer's ReLUs are dead.

    A ReLU is dead if it is above zero for less than `threshold_inactivity` per cent of the samples of the step.

    Source: AWS guide, "List of Debugger built-in rules", DeadRelu.
    """

    advice = (
        "A ReLU that never answers gets no gradient and stays dead. Try a lower learning rate, a smaller weight decay, "
        "LeakyReLU, or a small positive initial bias."
    )
    needs = "no outputs of ReLUs were saved"

    tensor_regex: tuple[str, ...] = patterns((".*relu_output",))
    threshold_inactivity: float = number(1.0, above=0, at_most=100)
    threshold_layer: float = number(50.0, at_least=0, at_most=100)

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        sentence = None
        for name, output in self.tensors(trial, step, mode, regex=self.tensor_regex):
            if not output.size:
                continue
            self.judged += 1
            dead = inactive_percent(~(output <= 0), self.threshold_inactivity)
            if mode.name == "TRAIN":
                self.plot("Dead ReLUs", "dead (%)", {"threshold_layer": self.threshold_layer}).add(name, step, dead)
            if sentence is None and dead > self.threshold_layer:
                sentence = (
                    f"{dead:.4g} % of the ReLUs of {name} are dead at step {step} of mode {mode.name} "
                    f"(threshold_layer {self.threshold_layer:g} %)."
                )
        return sentence
