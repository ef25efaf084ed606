"""UnchangedTensor: tensors that do not change any more."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from watch.rules.base import Array, Mode, Trial
from watch.rules.parameters import flag, integer, number, state
from watch.rules.selection import ChosenTensorsRule


@dataclass(kw_only=True)
class UnchangedTensor(ChosenTensorsRule):
    """Fires at a step where a tensor is numpy.allclose to what it was at the last `num_steps` steps, this one included.

    Those are the steps at which it was saved in the same mode; they need not follow one another.

    Source: AWS guide, "List of Debugger built-in rules", UnchangedTensor.
    """

    advice = (
        "What does not change does not learn. Check that the tensor is meant to be trained (requires_grad, and given "
        "to the optimizer) and that the learning rate is not zero or far too low."
    )
    needs = "no tensor of the chosen collections or names was saved at num_steps steps"

    num_steps: int = integer(3, at_least=2)
    rtol: float = number(1e-5, at_least=0)
    atol: float = number(1e-8, at_least=0)
    equal_nan: bool = flag(False)

    earlier: dict[tuple[str, str], deque[Array]] = state(dict)

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        sentence = None
        for name, value in self.chosen(trial, step, mode):
            earlier = self.earlier.setdefault((mode.name, name), deque(maxlen=self.num_steps - 1))
            if len(earlier) == self.num_steps - 1:
                self.judged += 1
                self._plot_change(name, step, value - earlier[-1])
                if sentence is None and all(self._close(value, old) for old in earlier):
                    sentence = (
                        f"{name} has not changed in {self.num_steps} saved steps up to step {step} of mode {mode.name}."
                    )
            earlier.append(value)
        return sentence

    def _close(self, value: Array, old: Array) -> bool:
        if value.shape != old.shape:
            return False
        return bool(np.allclose(value, old, rtol=self.rtol, atol=self.atol, equal_nan=self.equal_nan))

    def _plot_change(self, name: str, step: int, change: Array) -> None:
        self.plot("Change since the last saved step", "largest |change|", {}).add(name, step, np.abs(change).max())
