"""Losses of a step, for the rules on them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from watch.rules.base import Mode, Positive, TensorRule, Trial, state


def scalar_losses(
    rule: TensorRule, trial: Trial, step: int, mode: Mode, *, collections: Sequence[str], regex: Sequence[str] = ()
) -> dict[str, float]:
    """Values of the chosen tensors that are scalars, by name; others are no losses."""
    chosen = rule.tensors(trial, step, mode, collections=collections, regex=regex)
    return {name: float(value.reshape(())) for name, value in chosen if value.size == 1}


def mean_loss(rule: TensorRule, trial: Trial, step: int, mode: Mode, regex: Sequence[str] | None) -> float | None:
    """Mean of the losses that match a pattern, or of the losses collection without one; None where there are none."""
    collections = () if regex else ("losses",)
    losses = scalar_losses(rule, trial, step, mode, collections=collections, regex=regex or ())
    return math.fsum(losses.values()) / len(losses) if losses else None


@dataclass(kw_only=True)
class LossNotFinite(TensorRule):
    """Fires at a step whose loss is infinite or not a number."""

    severity, cause = "fatal", "exploded"
    advice = "Nothing can be learned from such a loss. Try a learning rate ten times lower, or gradient clipping."
    needs = "no losses were saved"

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        loss = mean_loss(self, trial, step, mode, None)
        self.judged += loss is not None
        return None if loss is None or math.isfinite(loss) else f"The {mode.name} loss is {loss} at step {step}."


@dataclass(kw_only=True)
class LossExploding(TensorRule):
    """Fires at the end if the median training loss of the last quarter is `ratio` times the first loss or more."""

    severity, cause = "fatal", "exploded"
    advice = "The training has gone wrong and did not recover. Try a learning rate ten times lower."
    needs = "fewer than eight training losses were saved"

    ratio: Positive = 3.0

    losses: list[float] = state(list)

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        loss = mean_loss(self, trial, step, mode, None) if mode.name == "TRAIN" else None
        if loss is not None:
            self.losses.append(loss)
        return None

    def conclude(self) -> str | None:
        if len(self.losses) < 8:
            return None
        self.judged += 1
        last = float(np.median(self.losses[-len(self.losses) // 4 :]))
        if last < self.ratio * abs(self.losses[0]):
            return None
        return f"The training loss rose from {self.losses[0]:.3g} to {last:.3g}."
