"""Confusion: classes that are taken for one another."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from watch.rules.base import Mode, TensorRule, Trial
from watch.rules.parameters import integer, number, patterns, state
from watch.rules.predictions import Classes, labels_and_predictions, predicted_classes


@dataclass(kw_only=True)
class Confusion(TensorRule):
    """Fires at the end if the confusion matrix of the last validation is not good enough.

    With n(t, p) images of true class t predicted as p, and N(p) predicted as p in all, good enough is
    n(p, p) / N(p) >= `min_diag` and n(t, p) / N(p) <= `max_off_diag` for t other than p. AWS divides the diagonal by
    the sum of the diagonal, which no network with more than one class could pass; so both are shares of N(p) here.
    The last validation are the labels since the mode last changed. Classes never predicted are not judged.

    Source: AWS guide, "List of Debugger built-in rules", Confusion.
    """

    advice = (
        "Look at the images of the two classes: labels may be mixed up, or the classes hard to tell apart at this "
        "image size. More images of both, or a larger image size, help."
    )
    needs = "no labels with predictions were saved"

    category_no: int | None = integer(None, at_least=1)
    labels: tuple[str, ...] = patterns((".*labels",))
    predictions: tuple[str, ...] = patterns((".*predictions",))
    min_diag: float = number(0.9, at_least=0, at_most=1)
    max_off_diag: float = number(0.1, at_least=0, at_most=1)

    matrix: npt.NDArray[np.int64] | None = state(lambda: None)  # (C, C): true class, predicted class
    last_mode: str = state(str)
    started: bool = state(bool)  # a matrix since the mode changed

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        if mode.name != self.last_mode:
            self.last_mode, self.started = mode.name, False
        found = labels_and_predictions(self, trial, step, mode, labels=self.labels, predictions=self.predictions)
        if found is not None:
            self._add(found[0], predicted_classes(found[1]))
        return None

    def conclude(self) -> str | None:
        if self.matrix is None:
            return None
        totals = self.matrix.sum(axis=0)  # of each predicted class
        predicted = np.flatnonzero(totals)
        if not len(predicted):
            return None
        self.judged += 1
        shares = self.matrix[:, predicted] / totals[predicted]  # (C, predicted classes)
        right = shares[predicted, np.arange(len(predicted))]
        self._plot(predicted, right)
        worst = int(right.argmin())
        if right[worst] < self.min_diag:
            return (
                f"Of the images predicted as class {predicted[worst]}, {100 * right[worst]:.3g} % belong to it "
                f"(min_diag {100 * self.min_diag:g} %)."
            )
        shares[predicted, np.arange(len(predicted))] = 0
        true, column = np.unravel_index(shares.argmax(), shares.shape)
        if shares[true, column] > self.max_off_diag:
            return (
                f"Of the images predicted as class {predicted[column]}, {100 * shares[true, column]:.3g} % belong to "
                f"class {true} (max_off_diag {100 * self.max_off_diag:g} %)."
            )
        return None

    def _add(self, true: Classes, predicted: Classes) -> None:
        """Count pairs in the matrix, in a new one if the mode has changed; those with a negative class are left out."""
        known = (true >= 0) & (predicted >= 0)
        size = 1 + int(np.max([true, predicted], initial=(self.category_no or 1) - 1))
        counts = np.bincount(true[known] * size + predicted[known], minlength=size * size).reshape(size, size)
        if self.started and self.matrix is not None:
            grown = max(size, len(self.matrix))
            total = np.zeros((grown, grown), np.int64)
            total[: len(self.matrix), : len(self.matrix)] += self.matrix
            total[:size, :size] += counts
            counts = total
        self.matrix, self.started = counts, True

    def _plot(self, classes: Classes, right: npt.NDArray[np.float64]) -> None:
        plot = self.plot(
            "Share of right ones among the images predicted as a class",
            "share",
            {"min_diag": self.min_diag},
            "predicted class",
        )
        plot.replace("share", classes.tolist(), right.tolist())
