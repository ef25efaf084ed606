"""Losses of a step, for the rules on them."""

import math
from collections.abc import Sequence

from watch.rules.base import Mode, TensorRule, Trial


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
