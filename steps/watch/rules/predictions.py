"""Rules on labels, predictions and input images.

AWS's rules are those of its guide, "List of Debugger built-in rules", with the defaults documented there.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from watch.rules.base import Count, Mode, NotNegative, Patterns, Share, TensorRule, Trial, Within, state
from watch.rules.losses import Losses

Classes = npt.NDArray[np.int64]  # (N,)
FEWEST = 20  # labels of a validation that say something
FEWEST_LABELS = 100  # that show how often classes are
MOST_CLASSES = 1000  # more are tokens or the like


@dataclass(kw_only=True)
class ClassesRule(TensorRule):
    """A rule on labels and predicted classes."""

    needs = "no labels with predictions were saved, or too few"

    last_mode: str = state(str)
    held: list[tuple[Classes, Classes]] = state(list)  # of the last validation

    def pairs(
        self, trial: Trial, step: int, mode: Mode, labels: Sequence[str], predictions: Sequence[str]
    ) -> tuple[Classes, Classes] | None:
        """Labels and predicted classes of the first tensors of those names; classes are -1 where there is NaN.

        Predictions may be (N,) classes or (N, C) values of each class. None where the step has not got both.
        """
        if mode.name == "EVAL" != self.last_mode:
            self.held = []
        self.last_mode = mode.name
        names = [self.names(trial, step, mode, regex=regex) for regex in (labels, predictions)]
        if not all(names):
            return None
        true, predicted = (trial.tensor(found[0]).value(step, mode=mode) for found in names)
        true = true.ravel()
        if not len(true) or predicted.ndim == 0 or len(predicted) != len(true):
            return None
        broken = np.isnan(predicted.reshape(len(predicted), -1)).any(axis=1)
        classes = predicted.argmax(axis=-1) if predicted.ndim > 1 else predicted
        found = true.astype(np.int64), np.where(broken, -1, classes).astype(np.int64)
        if mode.name == "EVAL":
            self.held.append(found)
        return found

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        self.pairs(trial, step, mode, (".*labels",), (".*predictions",))
        return None

    def matrix(self) -> npt.NDArray[np.int64]:
        """Of the last validation: (C, C) counts of true and predicted class; negative classes are left out."""
        true, predicted = (np.concatenate([pair[at] for pair in self.held] or [np.zeros(0, np.int64)]) for at in (0, 1))
        known = (true >= 0) & (predicted >= 0)
        classes = 1 + int(np.max([true, predicted], initial=0))
        if classes > MOST_CLASSES:
            return np.zeros((0, 0), np.int64)
        counts = np.bincount(true[known] * classes + predicted[known], minlength=classes * classes)
        return counts.reshape(classes, classes)


def recalls(matrix: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Of each class with labels, the share that is predicted as it."""
    counts = matrix.sum(axis=1)
    shares: npt.NDArray[np.float64] = matrix.diagonal()[counts > 0] / counts[counts > 0]
    return shares


@dataclass(kw_only=True)
class OneClass(ClassesRule):
    """Fires at the end if all predictions of the last validation are of one class, and its labels are not: a rule of
    ours."""

    severity, cause = "fatal", "one_class"

    def conclude(self) -> str | None:
        matrix = self.matrix()
        if matrix.sum() < FEWEST:
            return None
        self.judged += 1
        predicted, true = np.flatnonzero(matrix.sum(axis=0)), np.count_nonzero(matrix.sum(axis=1))
        if len(predicted) > 1 or true < 2:
            return None
        return f"All {matrix.sum():,} predictions of the last validation are class {predicted[0]}, of {true} classes."


@dataclass(kw_only=True)
class WrongLabels(ClassesRule):
    """Fires at the end if the last validation is no better than guessing, class by class: a rule of ours.

    Guessing has 1 / classes of each class right; better is what exceeds it by three standard deviations (at most a
    tenth of what is missing) and two hundredths of what is missing, or a tenth, where the training loss hardly fell.
    Gradients must arrive at the first layer. Where nothing else is wrong with the training, inputs and labels do not
    belong together.
    """

    cause = "wrong_labels"

    losses: Losses = state(Losses)
    reached: list[float] = state(list)  # the first layer's gradient, as a share of the largest one

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        self.losses.add(trial, step, mode)
        names = set(trial.tensor_names(step=step, mode=mode, collection="gradients"))
        values = [
            trial.tensor(name).value(step, mode) for name in trial.written_names(step=step, mode=mode) if name in names
        ]
        sizes = [float(np.abs(value).mean()) for value in values if value.ndim > 1]
        if sizes:
            self.reached.append(sizes[0] / max(sizes) if max(sizes) else 0.0)
        return super().evaluate(trial, step, mode)

    def conclude(self) -> str | None:
        matrix = self.matrix()
        if matrix.sum() < FEWEST:
            return None
        self.judged += 1
        found = recalls(matrix)
        chance = 1 / max(2, len(found))
        noise = 3 * float(np.sqrt(chance * (1 - chance) / matrix.sum()))
        limit = chance + min(noise, 0.1 * (1 - chance)) + (0.1 if self.losses.hardly_fell else 0.02) * (1 - chance)
        reached = np.median(self.reached) > 1e-3 if self.reached else np.count_nonzero(matrix.sum(axis=0)) > 1
        if len(found) < 2 or found.mean() > limit or not reached:
            return None
        course = f" In training, {self.losses.course}." if self.losses.train else ""
        share = f"recognises {100 * found.mean():.2g} % of a class on average"
        return f"The last validation {share}; guessing would {100 * chance:.2g} %.{course}"


@dataclass(kw_only=True)
class ClassImbalance(ClassesRule):
    """Fires at the end if, among the labels of the saved training steps (without any, of the last validation), a
    hundred at least, the largest class is more than `threshold_imbalance` times the smallest one, beyond what chance
    makes of few labels.

    semantics aws: fires at a step where, among the newest `samples` labels or a few more, of training and validation,
    the largest class is so many times the smallest, or more than `threshold_misprediction` of a class are mispredicted,
    as they are in any first epoch. Classes without any label are not seen. Predictions that are vectors are always
    reduced to their largest; `argmax` is accepted since AWS's rule needs it for that.
    """

    cause = "class_imbalance"

    threshold_imbalance: Annotated[float, Within(at_least=1)] = 10.0
    threshold_misprediction: Share = 0.7
    samples: Count = 500
    argmax: bool = False
    labels_regex: Patterns = (".*labels",)
    predictions_regex: Patterns = (".*predictions",)

    sequences: bool = state(bool)  # labels are of places in a text or an image, where some are rare by nature
    newest: deque[tuple[Classes, Classes]] = state(deque)  # labels and predictions of steps
    counts: dict[int, int] = state(dict)  # labels of each class, in training steps

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        found = self.pairs(trial, step, mode, self.labels_regex, self.predictions_regex)
        if found is None:
            return None
        if self.semantics == "watch":
            outputs = self.tensors(trial, step, mode, collections=("outputs",))
            self.sequences |= any(value.ndim > 2 for _, value in outputs)
            for label, count in zip(*np.unique(found[0], return_counts=True), strict=True):
                if mode.name == "TRAIN" and len(self.counts) < MOST_CLASSES:
                    self.counts[int(label)] = self.counts.get(int(label), 0) + int(count)
            return None
        self.newest.append(found)
        total = sum(len(labels) for labels, _ in self.newest)
        while total - len(self.newest[0][0]) >= self.samples:
            total -= len(self.newest.popleft()[0])
        if total < self.samples:
            return None
        self.judged += 1
        labels, predictions = (np.concatenate([pair[at] for pair in self.newest]) for at in (0, 1))
        classes, counts = np.unique(labels, return_counts=True)
        wrong = np.array([np.mean(predictions[labels == label] != label) for label in classes])
        worst, imbalance = int(wrong.argmax()), counts.max() / counts.min()
        limits = {"threshold_misprediction": self.threshold_misprediction}
        self.plot("Mispredictions of the worst class", "share", limits).add("worst class", step, wrong[worst])
        where = f"at step {step} of mode {mode.name}"
        if imbalance > self.threshold_imbalance:
            smallest = f"as class {classes[counts.argmin()]} {where}"
            limit = f"(threshold_imbalance {self.threshold_imbalance:g})"
            return f"Class {classes[counts.argmax()]} has {imbalance:.3g} times as many labels {smallest} {limit}."
        if wrong[worst] > self.threshold_misprediction:
            limit = f"(threshold_misprediction {100 * self.threshold_misprediction:g} %)"
            return f"{100 * wrong[worst]:.3g} % of class {classes[worst]} are mispredicted {where} {limit}."
        return None

    def conclude(self) -> str | None:
        where, counts = "training", self.counts
        if not counts:  # labels were saved in the validation alone
            sizes = self.matrix().sum(axis=1)
            where, counts = "last validation", {label: int(sizes[label]) for label in np.flatnonzero(sizes).tolist()}
        if sum(counts.values()) < min(self.samples, FEWEST_LABELS) or len(counts) < 2 or self.sequences:
            return None
        self.judged += 1
        most, fewest = (choose(counts, key=lambda label: counts[label]) for choose in (max, min))
        low, high = counts[most] - 2 * counts[most] ** 0.5, counts[fewest] + 2 * counts[fewest] ** 0.5
        if low <= self.threshold_imbalance * high:
            return None
        times = f"{counts[most] / counts[fewest]:.3g} times as many labels as class {fewest}"
        return f"Class {most} has {times}, among {sum(counts.values()):,} of the {where}."


@dataclass(kw_only=True)
class Confusion(ClassesRule):
    """Fires at the end if, in the last validation, most images of a class with ten or more are taken for one other
    class, though over half of the images of an average class are recognised.

    semantics aws: fires at the end if the confusion matrix of the last validation is not good enough. With n(t, p)
    images of true class t predicted as p, and N(p) predicted as p in all, good enough is n(p, p) / N(p) >= `min_diag`
    and n(t, p) / N(p) <= `max_off_diag` for t other than p. AWS divides the diagonal by the sum of the diagonal, which
    no network with more than one class could pass; so both are shares of N(p) here. Nor could most good ones.
    """

    severity = "hint"
    advice = "Look at the images of the two classes: labels may be mixed up, or the classes hard to tell apart."

    category_no: Count | None = None
    labels: Patterns = (".*labels",)
    predictions: Patterns = (".*predictions",)
    min_diag: Share = 0.9
    max_off_diag: Share = 0.1

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        self.pairs(trial, step, mode, self.labels, self.predictions)
        return None

    def conclude(self) -> str | None:
        matrix = self.matrix()
        if not matrix.sum():
            return None
        self.judged += 1
        if self.semantics == "watch":
            counts, others = matrix.sum(axis=1), matrix - np.diag(matrix.diagonal())
            true, taken = np.unravel_index(others.argmax(), others.shape)
            share = others[true, taken] / counts[true]
            if counts[true] < 10 or share <= 0.5 + 0.5 / counts[true] ** 0.5 or recalls(matrix).mean() < 0.5:
                return None
            return f"{100 * share:.3g} % of class {true} are taken for class {taken} in the last validation."
        totals = matrix.sum(axis=0)
        shares = matrix[:, totals > 0] / totals[totals > 0]  # (C, predicted classes)
        predicted = np.flatnonzero(totals)
        right = shares[predicted, np.arange(len(predicted))].copy()
        plot = self.plot(
            "Share of right ones among the images predicted as a class", "share", {"min_diag": self.min_diag}
        )
        plot.replace("share", predicted.tolist(), right.tolist())
        shares[predicted, np.arange(len(predicted))] = 0
        true, column = np.unravel_index(shares.argmax(), shares.shape)
        worst = int(right.argmin())
        if right[worst] < self.min_diag:
            of = f"Of the images predicted as class {predicted[worst]}"
            return f"{of}, {100 * right[worst]:.3g} % belong to it (min_diag {100 * self.min_diag:g} %)."
        if shares[true, column] > self.max_off_diag:
            of = f"Of the images predicted as class {predicted[column]}, {100 * shares[true, column]:.3g} %"
            return f"{of} belong to class {true} (max_off_diag {100 * self.max_off_diag:g} %)."
        return None


@dataclass(kw_only=True)
class CheckInputImages(TensorRule):
    """Fires at a step where, over all images so far and at least `threshold_samples`, the mean of a colour channel is
    further than `threshold_mean` from 0.

    Images are saved tensors of four dimensions whose name matches `regex`; `channel` is the position of the colours
    among them. AWS's default pattern is the name of an MXNet network's input; ours is that of the hooks.
    """

    severity, cause = "hint", "input_images"
    needs = "no images are saved, or fewer than threshold_samples"

    threshold_mean: NotNegative = 0.2
    threshold_samples: Count = 500
    regex: Patterns = (".*input_image",)
    channel: Annotated[int, Within(at_least=0, at_most=3, whole=True)] = 1

    images: int = state(int)
    values: int = state(int)  # of one channel
    totals: npt.NDArray[np.float64] = state(lambda: np.zeros(1))  # of each channel

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        for _, batch in self.tensors(trial, step, mode, regex=self.regex):
            if batch.ndim == 4 and batch.size:
                by_channel = np.moveaxis(batch, self.channel, 0).reshape(batch.shape[self.channel], -1)
                self.totals = self.totals + by_channel.sum(axis=1, dtype=np.float64)
                self.values += by_channel.shape[1]
                self.images += len(batch)
        if self.images < self.threshold_samples:
            return None
        self.judged += 1
        means = self.totals / self.values
        channel = int(np.abs(means).argmax())
        limits = {"threshold_mean": self.threshold_mean}
        self.plot("Mean of the channel furthest from 0", "|mean|", limits).add("mean", step, abs(means[channel]))
        if not abs(means[channel]) > self.threshold_mean:
            return None
        limit = f"over {self.images} images up to step {step} (threshold_mean {self.threshold_mean:g})"
        return f"Channel {channel} of the input images averages {means[channel]:.3g} {limit}."
