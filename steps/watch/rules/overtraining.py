"""Overtraining: a training that goes on although nothing improves any more."""

import math
from dataclasses import dataclass, field

from watch.rules.base import Mode, TensorRule, Trial
from watch.rules.losses import mean_loss
from watch.rules.parameters import integer, number, state


@dataclass
class Optimum:
    """The lowest loss of a mode so far, and how long ago that was."""

    loss: float = field(default=math.inf)
    step: int = 0
    steps_since: int = 0


@dataclass(kw_only=True)
class Overtraining(TensorRule):
    """Fires at a step where the training loss has found no new optimum for `patience_train` saved steps, and the
    validation loss none for `patience_validation`.

    An optimum is new if it is lower than the last by at least `delta`. AWS does not say how the two losses go together;
    the training loss of a single batch goes up and down in any healthy run, so both have to stand still.

    Source: AWS guide, "List of Debugger built-in rules", Overtraining.
    """

    advice = (
        "The last epochs brought nothing. Use fewer epochs, or a lower learning rate towards the end; the best epoch's "
        "model was kept, so nothing is lost but time."
    )
    needs = "no losses were saved of both training and validation for as long as the patience"

    patience_train: int = integer(5, at_least=1)
    patience_validation: int = integer(10, at_least=1)
    delta: float = number(0.01, at_least=0)

    optima: dict[str, Optimum] = state(lambda: {"TRAIN": Optimum(), "EVAL": Optimum()})
    train_step: int = state(int)

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        loss = mean_loss(self, trial, step, mode, None)
        if loss is None or mode.name not in self.optima:
            return None
        if mode.name == "TRAIN":
            self.train_step = step
        name = "training" if mode.name == "TRAIN" else "validation"
        self.plot("Losses of training and validation", "loss", {}).add(name, self.train_step, loss)
        self._update(self.optima[mode.name], loss, step)
        train, validation = self.optima["TRAIN"], self.optima["EVAL"]
        self.judged += train.steps_since >= self.patience_train or validation.steps_since >= self.patience_validation
        if train.steps_since < self.patience_train or validation.steps_since < self.patience_validation:
            return None
        return (
            f"At step {self.train_step} the training loss has not improved by {self.delta:g} for {train.steps_since} "
            f"saved steps, nor the validation loss for {validation.steps_since} "
            f"(patience {self.patience_train} and {self.patience_validation})."
        )

    def _update(self, optimum: Optimum, loss: float, step: int) -> None:
        if loss < optimum.loss and optimum.loss - loss >= self.delta:
            optimum.loss, optimum.step, optimum.steps_since = loss, step, 0
        else:
            optimum.steps_since += 1
