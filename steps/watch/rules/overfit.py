"""Overfit: a network that knows the training images better than the others."""

import math
from dataclasses import dataclass

from watch.rules.base import Mode, TensorRule, Trial
from watch.rules.losses import mean_loss
from watch.rules.parameters import integer, number, patterns, state


@dataclass(kw_only=True)
class Overfit(TensorRule):
    """Fires at a validation step where (mean validation loss - mean training loss) / mean training loss has been above
    `ratio_threshold` for `patience` validation steps on end.

    The means are over the saved losses since the last change of the mode: of the epoch, as a rule. Validation steps
    count from training step `start_step` on.

    Source: AWS guide, "List of Debugger built-in rules", Overfit; it does not say over which steps the means are.
    """

    advice = (
        "The network learns the training images by heart. Stop earlier, or add dropout, weight decay, augmentation or "
        "more images; a smaller hidden layer helps too."
    )
    needs = "no losses were saved of both training and validation"

    tensor_regex: tuple[str, ...] | None = patterns()
    start_step: int = integer(0, at_least=0)
    patience: int = integer(1, at_least=1)
    ratio_threshold: float = number(0.1, at_least=0)

    losses: dict[str, list[float]] = state(lambda: {"TRAIN": [], "EVAL": []})  # since the last change of the mode
    last_mode: str = state(str)
    train_step: int = state(int)
    exceeded: int = state(int)  # how many validation steps on end

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        loss = mean_loss(self, trial, step, mode, self.tensor_regex)
        if loss is None or mode.name not in self.losses:
            return None
        if mode.name != self.last_mode:
            self.losses[mode.name] = []
            self.last_mode = mode.name
        self.losses[mode.name].append(loss)
        if mode.name == "TRAIN":
            self.train_step = step
            return None
        return self._compare() if self.losses["TRAIN"] and self.train_step >= self.start_step else None

    def _compare(self) -> str | None:
        train, validation = (math.fsum(self.losses[mode]) / len(self.losses[mode]) for mode in ("TRAIN", "EVAL"))
        if not train > 0:
            return None
        self.judged += 1
        ratio = (validation - train) / train
        plot = self.plot("Mean losses of training and validation", "loss", {})
        plot.add("training", self.train_step, train)
        plot.add("validation", self.train_step, validation)
        self.exceeded = self.exceeded + 1 if ratio > self.ratio_threshold else 0
        if self.exceeded < self.patience:
            return None
        return (
            f"Validation loss is {100 * ratio:.3g} % above training loss at step {self.train_step} "
            f"(ratio_threshold {100 * self.ratio_threshold:g} %)."
        )
