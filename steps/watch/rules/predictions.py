"""Labels and predictions of a step, for the rules on them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from watch.rules.base import Array, Mode, TensorRule, Trial

Classes = npt.NDArray[np.int64]


def labels_and_predictions(
    rule: TensorRule, trial: Trial, step: int, mode: Mode, *, labels: Sequence[str], predictions: Sequence[str]
) -> tuple[Classes, Array] | None:
    """Of the first tensors whose names match the patterns: (N,) int64 labels, and predictions (N,) or (N, C).

    None where the step has not got both, or not equally many.
    """
    label_names = rule.names(trial, step, mode, regex=labels)
    prediction_names = rule.names(trial, step, mode, regex=predictions)
    if not label_names or not prediction_names:
        return None
    true = trial.tensor(label_names[0]).value(step, mode=mode).ravel()
    predicted = trial.tensor(prediction_names[0]).value(step, mode=mode)
    if not len(true) or predicted.ndim == 0 or len(predicted) != len(true):
        return None
    return true.astype(np.int64), predicted


def predicted_classes(predictions: Array) -> Classes:
    """(N,) int64 of (N,) classes, or of (N, C) probabilities or logits; -1 where there is NaN."""
    by_image = predictions.reshape(len(predictions), -1)
    classes = predictions.argmax(axis=-1) if predictions.ndim > 1 else predictions
    return np.where(np.isnan(by_image).any(axis=1), -1, classes).astype(np.int64)
