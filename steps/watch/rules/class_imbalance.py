"""ClassImbalance: classes with few images, or that are mostly taken for another."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from watch.rules.base import Mode, TensorRule, Trial
from watch.rules.parameters import flag, integer, number, patterns, state
from watch.rules.predictions import Classes, labels_and_predictions, predicted_classes


@dataclass(kw_only=True)
class ClassImbalance(TensorRule):
    """Fires at a step where, among the newest `samples` labels or a few more, the largest class is more than
    `threshold_imbalance` times the smallest one, or more than `threshold_misprediction` of a class are mispredicted.

    It says nothing before it has seen `samples` labels. It forgets older ones: what the network got wrong in its first
    epochs is no fault of the classes. Classes without any label are not seen by it. Predictions that are vectors, one
    value per class, are always reduced to their largest; `argmax` is accepted since AWS's rule needs it for that.

    Source: AWS guide, "List of Debugger built-in rules", ClassImbalance.
    """

    advice = (
        "Collect more images of the small or mistaken classes, weight classes by their size, or leave out those that "
        "cannot be told apart."
    )
    needs = "fewer labels with predictions were saved than samples asks for"

    threshold_imbalance: float = number(10.0, at_least=1)
    threshold_misprediction: float = number(0.7, at_least=0, at_most=1)
    samples: int = integer(500, at_least=1)
    argmax: bool = flag(False)
    labels_regex: tuple[str, ...] = patterns((".*labels",))
    predictions_regex: tuple[str, ...] = patterns((".*predictions",))

    newest: deque[tuple[Classes, Classes]] = state(deque)  # labels and predictions of steps

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        found = labels_and_predictions(
            self, trial, step, mode, labels=self.labels_regex, predictions=self.predictions_regex
        )
        if found is None:
            return None
        self.newest.append((found[0], predicted_classes(found[1])))
        count = sum(len(labels) for labels, _ in self.newest)
        while count - len(self.newest[0][0]) >= self.samples:
            count -= len(self.newest.popleft()[0])
        return self._judge(step, mode) if count >= self.samples else None

    def _judge(self, step: int, mode: Mode) -> str | None:
        self.judged += 1
        labels = np.concatenate([labels for labels, _ in self.newest])
        predictions = np.concatenate([predictions for _, predictions in self.newest])
        classes, counts = np.unique(labels, return_counts=True)
        wrong = np.array([np.mean(predictions[labels == label] != label) for label in classes])
        worst = int(wrong.argmax())
        imbalance = counts.max() / counts.min()
        limits = {"threshold_misprediction": self.threshold_misprediction}
        x_label = f"{mode.name} step"
        self.plot("Mispredictions of the worst class", "share", limits, x_label).add("worst class", step, wrong[worst])
        where = f"at step {step} of mode {mode.name}"
        if imbalance > self.threshold_imbalance:
            return (
                f"Class {classes[counts.argmax()]} has {imbalance:.3g} times as many labels as class "
                f"{classes[counts.argmin()]} {where} (threshold_imbalance {self.threshold_imbalance:g})."
            )
        if wrong[worst] > self.threshold_misprediction:
            return (
                f"{100 * wrong[worst]:.3g} % of class {classes[worst]} are mispredicted {where} "
                f"(threshold_misprediction {100 * self.threshold_misprediction:g} %)."
            )
        return None
