"""Rules on labels, predictions and input images.

AWS's rules are those of its guide, "List of Debugger built-in rules", with the defaults documented there.
"""

from collections import Counter, deque
from typing import Annotated

import numpy as np
import numpy.typing as npt

from watch.rules.base import Count, Mode, NotNegative, Patterns, Share, TensorRule, Trial, Within, state
from watch.rules.losses import Losses

Classes = npt.NDArray[np.int64]  # (N,)
FEWEST = 20  # labels of a validation that say something
FEWEST_LABELS = 100  # that show how often classes are
MOST_CLASSES = 1000  # more are tokens or the like
LABELS, PREDICTIONS = (".*labels",), (".*predictions",)


class ClassesRule(TensorRule):
    """A rule on labels and predicted classes."""

    needs = "no labels with predictions were saved, or too few"
    last_mode: str = state(str)
    held: list[tuple[Classes, Classes]] = state(list)  # of the last validation

    def pairs(
        self, trial: Trial, step: int, mode: Mode, regex: tuple[Patterns, Patterns] = (LABELS, PREDICTIONS)
    ) -> tuple[Classes, Classes] | None:
        """Labels and predicted classes of the first tensors of those names; classes are -1 where there is NaN.

        Predictions may be (N,) classes or (N, C) values of each class. None where the step has not got both."""
        if mode.name == "EVAL" != self.last_mode:
            self.held = []
        self.last_mode = mode.name
        names = [self.names(trial, step, mode, regex=each) for each in regex]
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
        self.pairs(trial, step, mode)
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


class OneClass(ClassesRule):
    """Fires at the end if all predictions of the last validation are of one class, and its labels are not: ours."""

    severity, cause = "fatal", "one_class"

    def conclude(self) -> str | None:
        matrix = self.matrix()
        if not self.counts(int(matrix.sum()) >= FEWEST):
            return None
        predicted, true = np.flatnonzero(matrix.sum(axis=0)), np.count_nonzero(matrix.sum(axis=1))
        found = f"All {matrix.sum():,} predictions of the last validation are class {predicted[0]}, of {true} classes."
        return found if len(predicted) == 1 and true > 1 else None


class WrongLabels(ClassesRule):
    """Fires at the end if the last validation is no better than guessing (1 / classes of each class right) by three
    standard deviations (at most a tenth of what is missing) and two hundredths of that, or a tenth, where the
    training loss hardly fell, although gradients arrive at the first layer: inputs and labels do not belong
    together. Ours."""

    cause = "wrong_labels"
    losses: Losses = state(Losses)
    reached: list[float] = state(list)  # the first layer's gradient, as a share of the largest one

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        self.losses.add(trial, step, mode)
        gradients = set(trial.tensor_names(step=step, mode=mode, collection="gradients"))
        names = [name for name in trial.written_names(step=step, mode=mode) if name in gradients]
        values = [trial.tensor(name).value(step, mode) for name in names]
        sizes = [float(np.abs(value).mean()) for value in values if value.ndim > 1]
        if sizes:
            self.reached.append(sizes[0] / max(sizes) if max(sizes) else 0.0)
        return super().evaluate(trial, step, mode)

    def conclude(self) -> str | None:
        matrix = self.matrix()
        if not self.counts(int(matrix.sum()) >= FEWEST):
            return None
        found = recalls(matrix)
        chance = 1 / max(2, len(found))
        noise = 3 * float(np.sqrt(chance * (1 - chance) / matrix.sum()))
        limit = chance + min(noise, 0.1 * (1 - chance)) + (0.1 if self.losses.hardly_fell else 0.02) * (1 - chance)
        reached = np.median(self.reached) > 1e-3 if self.reached else np.count_nonzero(matrix.sum(axis=0)) > 1
        if len(found) < 2 or found.mean() > limit or not reached:
            return None
        course = f" In training, {self.losses.course}." if self.losses.train else ""
        share = f"recognises {100 * found.mean():.2g} % of a class on average"
        return f"The last validation {share}; guessing would recognise {100 * chance:.2g} %.{course}"


class ClassImbalance(ClassesRule):
    """Fires at the end if, of a hundred labels or more of the saved training steps (or the last validation), the
    largest class is more than `threshold_imbalance` times the smallest, beyond chance. AWS: at a step, among the
    newest `samples` labels of any mode, or where more than `threshold_misprediction` of a class are mispredicted,
    as in any first epoch. Classes without labels are not seen; `argmax` is accepted, and not needed."""

    cause = "class_imbalance"
    threshold_imbalance: Annotated[float, Within(at_least=1)] = 10.0
    threshold_misprediction: Share = 0.7
    samples: Count = 500
    argmax: bool = False
    labels_regex: Patterns = LABELS
    predictions_regex: Patterns = PREDICTIONS
    sequences: bool = state(bool)  # labels are of places in a text or an image, where some are rare by nature
    newest: deque[tuple[Classes, Classes]] = state(deque)  # labels and predictions of steps
    labelled: Counter[int] = state(Counter)  # labels of each class, in training steps

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        found = self.pairs(trial, step, mode, (self.labels_regex, self.predictions_regex))
        if found is None:
            return None
        if not self.aws:
            outputs = self.tensors(trial, step, mode, collections=("outputs",))
            self.sequences |= any(value.ndim > 2 for _, value in outputs)
            if mode.name == "TRAIN" and len(self.labelled) < MOST_CLASSES:
                self.labelled.update(np.sort(found[0]).tolist())
            return None
        self.newest.append(found)
        total = sum(len(labels) for labels, _ in self.newest)
        while total - len(self.newest[0][0]) >= self.samples:
            total -= len(self.newest.popleft()[0])
        if not self.counts(total >= self.samples):
            return None
        labels, predictions = (np.concatenate([pair[at] for pair in self.newest]) for at in (0, 1))
        classes, counts = np.unique(labels, return_counts=True)
        wrong = np.array([np.mean(predictions[labels == label] != label) for label in classes])
        worst, imbalance = int(wrong.argmax()), counts.max() / counts.min()
        limits = self.limits("threshold_misprediction")
        self.plot("Mispredictions of the worst class", "share", limits).add("worst class", step, wrong[worst])
        where = f"at step {step} of mode {mode.name}"
        if imbalance > self.threshold_imbalance:
            smallest = f"class {classes[counts.argmin()]} {where} (threshold_imbalance {self.threshold_imbalance:g})"
            return f"Class {classes[counts.argmax()]} has {imbalance:.3g} times as many labels as {smallest}."
        limit = f"(threshold_misprediction {100 * self.threshold_misprediction:g} %)"
        mistaken = f"{100 * wrong[worst]:.3g} % of class {classes[worst]} are mispredicted {where} {limit}."
        return mistaken if wrong[worst] > self.threshold_misprediction else None

    def conclude(self) -> str | None:
        where, counts = "training", self.labelled
        if not counts:  # labels were saved in the validation alone
            where, counts = "last validation", +Counter(dict(enumerate(self.matrix().sum(axis=1).tolist())))
        if not self.counts(
            counts.total() >= min(self.samples, FEWEST_LABELS) and len(counts) > 1 and not self.sequences
        ):
            return None
        most, fewest = (choose(counts, key=counts.__getitem__) for choose in (max, min))
        low, high = counts[most] - 2 * counts[most] ** 0.5, counts[fewest] + 2 * counts[fewest] ** 0.5
        times = f"{counts[most] / counts[fewest]:.3g} times as many labels as class {fewest}"
        found = f"Class {most} has {times}, among {counts.total():,} of the {where}."
        return found if low > self.threshold_imbalance * high else None


class Confusion(ClassesRule):
    """Fires at the end if, in the last validation, most images of a class of ten or more are taken for one other
    class, though an average class is recognised by half. AWS: if, of the images predicted as a class, less than
    `min_diag` belong to it, or more than `max_off_diag` to one other; its guide divides by the diagonal's sum,
    which none could pass."""

    severity = "hint"
    advice = "Look at the images of the two classes: labels may be mixed up, or the classes hard to tell apart."
    category_no: Count | None = None
    labels: Patterns = LABELS
    predictions: Patterns = PREDICTIONS
    min_diag: Share = 0.9
    max_off_diag: Share = 0.1

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        self.pairs(trial, step, mode, (self.labels, self.predictions))
        return None

    def conclude(self) -> str | None:
        matrix = self.matrix()
        if not self.counts(bool(matrix.sum())):
            return None
        right, others = matrix.diagonal(), matrix - np.diag(matrix.diagonal())
        if not self.aws:
            counts = matrix.sum(axis=1)
            true, taken = np.unravel_index(others.argmax(), others.shape)
            share = others[true, taken] / counts[true]
            found = f"{100 * share:.3g} % of class {true} are taken for class {taken} in the last validation."
            most = counts[true] >= 10 and share > 0.5 + 0.5 / counts[true] ** 0.5
            return found if most and recalls(matrix).mean() >= 0.5 else None
        totals = matrix.sum(axis=0)
        predicted = np.flatnonzero(totals)
        shares, wrong = right[predicted] / totals[predicted], others[:, predicted] / totals[predicted]
        title = "Share of right ones among the images predicted as a class"
        self.plot(title, "share", self.limits("min_diag")).replace("share", predicted.tolist(), shares.tolist())
        worst, (true, column) = int(shares.argmin()), np.unravel_index(wrong.argmax(), wrong.shape)
        of = "Of the images predicted as class"
        if shares[worst] < self.min_diag:
            limit = f"(min_diag {100 * self.min_diag:g} %)"
            return f"{of} {predicted[worst]}, {100 * shares[worst]:.3g} % belong to it {limit}."
        limit = f"(max_off_diag {100 * self.max_off_diag:g} %)"
        mistaken = f"{of} {predicted[column]}, {100 * wrong[true, column]:.3g} % belong to class {true} {limit}."
        return mistaken if wrong[true, column] > self.max_off_diag else None


class CheckInputImages(TensorRule):
    """Fires at a step where, over all images so far, at least `threshold_samples`, the mean of a colour channel
    (position `channel` among the dimensions) is further than `threshold_mean` from 0. Images are tensors of four
    dimensions whose name matches `regex`: AWS's is the name of an MXNet network's input, ours that of the hooks."""

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
        if not self.counts(self.images >= self.threshold_samples):
            return None
        means = self.totals / self.values
        channel = int(np.abs(means).argmax())
        furthest, limits = abs(means[channel]), self.limits("threshold_mean")
        self.plot("Mean of the channel furthest from 0", "|mean|", limits).add("mean", step, furthest)
        limit = f"over {self.images} images up to step {step} (threshold_mean {self.threshold_mean:g})"
        found = f"Channel {channel} of the input images averages {means[channel]:.3g} {limit}."
        return found if furthest > self.threshold_mean else None
