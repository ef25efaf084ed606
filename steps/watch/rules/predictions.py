"""Labels and predictions of a step, for the rules on them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from watch.rules.base import Array, Count, Mode, Patterns, TensorRule, Trial, state

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


@dataclass(kw_only=True)
class OneClass(TensorRule):
    """Fires at the end if all predictions of the last validation are of one class, and its labels are not."""

    severity, cause = "fatal", "one_class"
    advice = "The model has learned to answer with one class. Look at the learning rate, and at the classes' sizes."
    needs = "no labels with predictions were saved"

    labels_regex: Patterns = (".*labels",)
    predictions_regex: Patterns = (".*predictions",)
    samples: Count = 20

    last_mode: str = state(str)
    found: list[tuple[Classes, Classes]] = state(list)

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        if mode.name != self.last_mode:
            self.last_mode, self.found = mode.name, self.found if mode.name == "TRAIN" else []
        pair = labels_and_predictions(
            self, trial, step, mode, labels=self.labels_regex, predictions=self.predictions_regex
        )
        if pair is not None and mode.name != "TRAIN":
            self.found.append((pair[0], predicted_classes(pair[1])))
        return None

    def conclude(self) -> str | None:
        if sum(len(labels) for labels, _ in self.found) < self.samples:
            return None
        self.judged += 1
        true = np.unique(np.concatenate([labels for labels, _ in self.found]))
        predicted = np.unique(np.concatenate([predictions for _, predictions in self.found]))
        if len(predicted) > 1 or len(true) < 2:
            return None
        return (
            f"All predictions of the last validation are class {predicted[0]}; its labels are of {len(true)} classes."
        )
